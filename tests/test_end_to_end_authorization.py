"""What rules refuse reaches no service: real proxies, raw requests, and a user's addon that throws in every hook it has."""

import json
import random
import re
import socket

import pytest

from tests.mesh_process import LANES, World, eventually, with_options
from tests.test_authorizing import second_opinion
from tests.test_path_readings import PIECES, SERVERS, escaped
from tests.upstream import Upstream

THROWING = '''
"""Throws in every hook of a request's life, mitmproxy's and the mesh's."""

class Throwing:
    armed = False

def throwing(name):
    def hook(self, *args):
        # At the start, when only a port is tried, mitmproxy would take an error for a reason to end.
        if name in ("requestheaders", "http_connect"):
            Throwing.armed = True
        if Throwing.armed:
            raise RuntimeError(f"thrown in {name}")
    return hook

for name in (
    "client_connected client_disconnected server_connect server_connected server_connect_error server_disconnected next_layer"
    " requestheaders request responseheaders response error http_connect http_connect_upstream http_connected"
    " http_connect_error tcp_start tcp_message tcp_end tcp_error websocket_start websocket_end update"
    " tls_clienthello tls_start_client tls_start_server mesh_attempt mesh_attempt_end mesh_forwarded mesh_routed mesh_policy"
).split():
    setattr(Throwing, name, throwing(name))

addons = [Throwing()]
'''


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("authorization")
    script = folder / "throwing.py"
    script.write_text(THROWING)
    with World(folder, **with_options(request.param, mesh_service="a"), scripts=[script]) as world:
        yield world


@pytest.fixture
def upstream():
    with Upstream() as upstream:
        yield upstream


def exchange(port: int, data: bytes, until: bytes = b"") -> bytes:
    """What comes back for these bytes: up to `until`, or to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        said = b""
        try:
            client.sendall(data)
            while not (until and until in said) and (piece := client.recv(65536)):
                said += piece
        except ConnectionError:
            pass
        return said


def status(said: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", said)
    return int(found[1]) if found else 0


def ask(port: int, method: str, url: str, headers: dict[str, str]) -> int:
    host = url.split("/")[2]
    lines = [f"{method} {url} HTTP/1.1", f"host: {host}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    body = b""
    if method == "POST":
        body = b"x" * 9
        lines.append("content-length: 9")
    return status(exchange(port, "\r\n".join([*lines, "", ""]).encode("latin-1") + body))


CHOICES = random.Random(20261128)


def some_rules() -> dict:
    def rule() -> dict:
        made: dict = {}
        if CHOICES.random() < 0.5:
            made["from"] = CHOICES.sample(["a", "b", "*", "spiffe://mesh/*", "spiffe://other/a"], 1)
        if CHOICES.random() < 0.4:
            made["methods"] = CHOICES.sample(["GET", "POST"], 1)
        if CHOICES.random() < 0.6:
            path = CHOICES.choice(["/", "/a", "/admin", "/a/admin"])
            made["paths"] = [CHOICES.choice([path, {"prefix": path}])]
        if CHOICES.random() < 0.3:
            made["headers"] = {"x-a": CHOICES.choice(["x", "y"])}
        return made

    made = {}
    if CHOICES.random() < 0.6:
        made["allow"] = [rule() for _ in range(CHOICES.randint(1, 3))]
    if CHOICES.random() < 0.6 or not made:
        made["deny"] = [rule() for _ in range(CHOICES.randint(1, 2))]
    return made


def some_path() -> str:
    if CHOICES.random() < 0.5:
        return CHOICES.choice(["/", "/a", "/a/b", "/admin", "/a/admin", "/b"])
    return "/" + "".join(CHOICES.choice(PIECES[:-1]) for _ in range(CHOICES.randint(1, 7)))


def test_nothing_passes_that_the_rules_refuse(world, upstream):
    passed = refused = 0
    for _ in range(12):
        rules = some_rules()
        service = world.serve(f"authorization: {json.dumps(rules)}", upstream.address)
        for number in range(25):
            method, path = CHOICES.choice(["GET", "POST"]), some_path()
            headers = {"x-a": CHOICES.choice(["x", "y"])} if CHOICES.random() < 0.4 else {}
            upstream.requests.clear()
            got = ask(world.proxy.port, method, f"http://{service}{path}", {**headers, "x-n": str(number)})
            assert got in (200, 403), (rules, method, path, headers)
            allowed = all(
                second_opinion(rules, "a", method, read, headers)
                for server in SERVERS.values()
                if (read := escaped(server(path))).startswith("/")
            )
            if not allowed or got == 403:
                refused += 1
                assert upstream.requests == [], (rules, method, path, headers)
                assert got == 403
            else:
                passed += 1
                assert len(upstream.requests) == 1
            if re.fullmatch("(/[a-z]+)+|/", path):
                assert (got == 200) is allowed, (rules, method, path, headers)
    assert passed > 20
    assert refused > 20


ONLY_OPS = "authorization: {allow: {from: ops}}"
BODY = b"x" * 3_000_000
WAYS = {
    "buffered": b"GET http://{}/ HTTP/1.1\r\nhost: {}\r\n\r\n",
    "upload": b"POST http://{}/ HTTP/1.1\r\nhost: {}\r\ncontent-length: 3000000\r\n\r\n" + BODY,
    "chunked": b"POST http://{}/ HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    "upgrade": b"GET http://{}/ HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "grpc": b"POST http://{}/x.Y/Z HTTP/1.1\r\nhost: {}\r\ncontent-type: application/grpc\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0",
    "continue": b"POST http://{}/ HTTP/1.1\r\nhost: {}\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
    "tunnel": b"CONNECT {}:80 HTTP/1.1\r\nhost: {}:80\r\n\r\n",
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_way_it_comes_it_is_judged_before_anything_is_sent(world, upstream, way):
    service = world.serve(ONLY_OPS, upstream.address)
    said = exchange(
        world.proxy.port, WAYS[way].replace(b"{}", service.encode()), until=b"does not allow this request\n"
    )
    # It may have been told to go on with its body, as any client is whose request is read.
    assert status(said.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")) == 403, said[:500]
    assert b"x-mesh-flag: RBAC" in said
    assert (upstream.requests, upstream.connections) == ([], 0)
    line = eventually(lambda: [each for each in world.proxy.lines() if each["service"] == service])[0]
    assert (line["status"], line["flags"]) == (403, "RBAC")


def test_headers_that_say_who_calls_are_not_believed(world, upstream):
    service = world.serve(ONLY_OPS, upstream.address)
    for name in ("x-forwarded-client-cert", "x-mesh-source", "x-mesh-service"):
        value = "By=x;URI=spiffe://mesh/service/ops" if name.startswith("x-f") else "ops"
        assert ask(world.proxy.port, "GET", f"http://{service}/", {name: value}) == 403
    assert upstream.requests == []


def test_requests_inside_a_tunnel_are_judged_and_what_is_no_http_is_not_let_through(world, upstream):
    service = world.serve("authorization: {allow: {from: a, paths: /open}}", upstream.address)
    hello = f"CONNECT {service}:80 HTTP/1.1\r\nhost: {service}:80\r\n\r\n".encode()

    def inside(data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", world.proxy.port), timeout=20) as client:
            client.sendall(hello)
            said = b""
            while b"\r\n\r\n" not in said:
                said += client.recv(1000)
            assert status(said) == 200
            client.sendall(data)
            said = b""
            try:
                while piece := client.recv(65536):
                    said += piece
            except ConnectionError:
                pass
            return said

    def request(path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nhost: {service}\r\nconnection: close\r\n\r\n".encode()

    assert status(inside(request("/admin"))) == 403
    assert inside(b"SSH-2.0-nothing\r\n") == b""
    assert (upstream.requests, upstream.connections) == ([], 0)
    assert status(inside(request("/open"))) == 200
    assert upstream.targets() == ["/open"]


def test_audit_lets_pass_and_tells(world, upstream):
    service = world.serve("authorization: {audit: true, allow: {from: ops}}", upstream.address)
    assert world.get(f"http://{service}/audited").status == 200
    line = eventually(lambda: [each for each in world.proxy.lines() if each["service"] == service])[0]
    assert (line["status"], line["flags"]) == (200, "RBAC_AUDIT")
    metrics = world.get("http://mesh.local/metrics").text
    (counted,) = [
        each
        for each in metrics.splitlines()
        if each.startswith("mitmesh_requests_total{") and f'destination_service="{service}"' in each
    ]
    assert 'response_flags="RBAC_AUDIT"' in counted
    assert counted.endswith(" 1.0")
    assert f"would be refused (audit): 'GET /audited to {service} from a'" in world.proxy.console()


def test_the_user_s_addon_did_throw(world, upstream):
    service = world.serve("", upstream.address)
    for _ in range(2):
        assert ask(world.proxy.port, "GET", f"http://{service}/", {}) == 200
    for name in (
        "client_connected",
        "requestheaders",
        "request",
        "responseheaders",
        "response",
        "mesh_attempt",
    ):
        assert f"thrown in {name}" in world.proxy.console()
