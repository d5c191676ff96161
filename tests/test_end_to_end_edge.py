"""What the proxy does to requests before it sends them, or instead: rewrites, redirects. Real processes, every lane."""

import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.mesh_process import LANES, Client, Mesh, Proxy, World, curl, eventually, get, running, send
from tests.upstream import Upstream, saying


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    with World(tmp_path_factory.mktemp("edge"), **request.param) as world:
        yield world


@pytest.fixture
def upstream():
    with Upstream(saying(200, "one")) as upstream:
        yield upstream


def test_a_rewrite_is_seen_by_the_service_on_every_try_and_not_by_the_log(world):
    with Upstream(saying(503, "no")) as upstream:
        service = world.serve(
            """\
            retry: {attempts: 2, on: [5xx]}
            routes:
              - name: api
                match: {path: {prefix: /api}}
                rewrite: {prefix: /v2/, host: "inner.example:81"}
            """,
            upstream.address,
        )
        world.send("GET", f"http://{service}/api/%7euser?a=/api&b")
        assert upstream.targets() == ["/v2/~user?a=/api&b"] * 2
        for sent in upstream.requests:
            assert sent.header("host") == "inner.example:81"
            assert sent.header("x-envoy-original-path") == "/api/%7euser?a=/api&b"
            assert sent.header("x-envoy-original-host") == service
        line = eventually(lambda: [line for line in world.proxy.lines() if line["service"] == service])[0]
        assert (line["path"], line["route"]) == ("/api/%7euser?a=/api&b", "api")
        assert line["host"].startswith(service)


def test_a_rewrite_of_a_request_that_streams(world, upstream):
    service = world.serve("rewrite: {path: /upload}", upstream.address)
    size = 3 * 1024 * 1024
    got = world.send("POST", f"http://{service}/x?y=z", b"a" * size)
    assert (got.status, upstream.targets()) == (200, ["/upload?y=z"])
    assert len(upstream.requests[0].body) == size


def test_a_rewritten_host_does_not_change_where_a_service_without_endpoints_is_reached(world, upstream):
    world.serve(f'hosts: ["{upstream.address}"]\nrewrite: {{host: inner.example}}')
    assert world.get(f"http://{upstream.address}/").body == b"one"
    assert upstream.requests[0].header("host") == "inner.example"


def test_redirects(world, upstream):
    service = world.serve(
        """\
        routes:
          - {match: {path: {prefix: /old}}, redirect: {status: 308, prefix: /new}}
          - {match: {path: /up}, redirect: {scheme: https, port: 443}}
          - {match: {path: /on}, redirect: {host: other.example}}
        response_headers: {set: {x-mine: yes}}
        """,
        upstream.address,
    )
    for path, status, location in (
        ("/old/a?b=c", 308, f"http://{service}/new/a?b=c"),
        ("/up", 302, f"https://{service}/up"),
        ("/on", 302, "http://other.example/on"),
    ):
        got = world.send("POST", f"http://{service}{path}", b"x=1")
        assert (got.status, got.header("location"), got.body) == (status, location, b"")
        assert (got.header("x-mine"), got.header("content-length"), got.flag) == ("yes", "0", None)
    assert world.line("/old/a?b=c")["attempts"] == []
    assert world.get(f"http://{service}/else").body == b"one"
    assert upstream.targets() == ["/else"]


def test_curl_follows_a_redirect_to_the_end(world, upstream):
    service = world.serve(
        "routes: [{match: {path: {prefix: /old}}, redirect: {prefix: /new}}]", upstream.address
    )
    done = curl("-L", "-x", f"127.0.0.1:{world.proxy.port}", f"http://{service}/old/x?y")
    assert (done.stdout, upstream.targets()) == ("one", ["/new/x?y"])


def test_a_rate_limit_lets_the_burst_pass_and_tells_the_others_to_wait(world, upstream):
    service = world.serve(
        "rate_limit: {requests: 3, per: 1h, by: {header: x-user}}\nretry: {attempts: 3, on: [429]}",
        upstream.address,
    )
    got = [world.get(f"http://{service}/{number}", x_user="ann") for number in range(5)]
    assert [answer.status for answer in got] == [200, 200, 200, 429, 429]
    assert world.get(f"http://{service}/bob", x_user="bob").status == 200
    assert (got[3].flag, got[3].header("retry-after")) == ("RL", "1200")
    assert upstream.targets() == ["/0", "/1", "/2", "/bob"]
    line = world.line("/4")
    assert (line["status"], line["flags"], line["attempts"]) == (429, "RL", [])


def test_a_rate_limit_comes_before_the_proxys_own_answers_and_before_a_body_that_streams(world, upstream):
    service = world.serve("rate_limit: {requests: 1, per: 1h}\nrespond: {body: fine}")
    assert [world.get(f"http://{service}/").status for _ in range(2)] == [200, 429]
    world.change(service, "rate_limit: {requests: 1, per: 2h}", upstream.address)
    assert world.get(f"http://{service}/").status == 200
    got = world.send("POST", f"http://{service}/", b"a" * 3_000_000)
    assert (got.status, upstream.targets()) == (429, ["/"])


def test_a_rate_limit_of_the_mesh_is_one_for_all_proxies(world, upstream, tmp_path):
    service = world.serve(
        "rate_limit: {requests: 20, per: 1h, scope: mesh, without_redis: deny}", upstream.address
    )
    other = Proxy(tmp_path / "other", world.valkey.url)
    with running(other):
        other.in_force(world.mesh, world.mesh.stored().revision)
        ports = [world.proxy.port, other.port] * 4
        with ThreadPoolExecutor(len(ports)) as pool:
            counts = list(pool.map(lambda port: statuses(port, f"http://{service}/", 10), ports))
        assert sum(count[200] + count[429] for count in counts) == 80
        assert sum(count[200] for count in counts) == len(upstream.requests) <= 20

        # Where the machine was so busy that Redis answered late, it was a denial, and the burst has a rest.
        def used_up() -> bool:
            if len(upstream.requests) < 20:
                get(other.port, f"http://{service}/")
            return len(upstream.requests) >= 20

        eventually(used_up)
        for port in (world.proxy.port, other.port):
            assert statuses(port, f"http://{service}/", 10) == {429: 10}
    assert len(upstream.requests) == 20


def statuses(port: int, url: str, count: int) -> Counter[int]:
    with Client(port) as client:
        return Counter(client.get(url).status for _ in range(count))


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("fate", ["kill", "freeze"])
def test_without_redis_the_policy_says_who_passes(upstream, start_valkey, tmp_path, lane, fate):
    valkey = start_valkey(persist=True)
    mesh, proxy = Mesh(valkey.url), Proxy(tmp_path / "proxy", valkey.url, **lane)
    with running(proxy):
        limit = "rate_limit: {requests: 1000, per: 1s, scope: mesh"
        endpoints = f'endpoints: ["{upstream.address}"]'
        revision = mesh.apply(
            f"service: open\n{limit}}}\n{endpoints}\n---\n"
            f"service: closed\n{limit}, without_redis: deny}}\n{endpoints}\n"
        )
        proxy.in_force(mesh, revision)
        eventually(lambda: get(proxy.port, "http://closed/").status == 200)
        getattr(valkey, fate)()
        assert [get(proxy.port, "http://open/").status for _ in range(3)] == [200] * 3
        got = [get(proxy.port, "http://closed/") for _ in range(3)]
        assert [(answer.status, answer.flag) for answer in got] == [(429, "RL")] * 3
        assert "mitmesh_rate_limit_unanswered_total" in get(proxy.port, "http://mesh.local/metrics").text
        assert "rate limits of the mesh are not counted" in proxy.console()
        valkey.thaw() if fate == "freeze" else valkey.start()
        eventually(lambda: get(proxy.port, "http://closed/").status == 200)


@pytest.mark.parametrize("lane", LANES)
def test_a_feature_that_breaks_lets_nothing_pass(upstream, valkey, tmp_path, lane):
    script = tmp_path / "breaks.py"
    script.write_text(
        """\
from control.policy import cors, rate_limiting, rewriting


def breaks(*_, **__):
    raise RuntimeError("a bug")


rate_limiting.Buckets.take = breaks
cors.CompiledCors.answer_to_preflight = breaks
rewriting.NewPath.target = breaks
rewriting.CompiledRedirect.location = breaks
"""
    )
    mesh, proxy = Mesh(valkey.url), Proxy(tmp_path / "proxy", valkey.url, scripts=[script], **lane)
    policies = {
        "limited": "rate_limit: {requests: 1, per: 1s}",
        "cross": "cors: {allow_origins: '*'}",
        "rewritten": "rewrite: {path: /x}",
        "redirected": "redirect: {scheme: https}",
    }
    with running(proxy):
        documents = [
            f'service: {service}\nendpoints: ["{upstream.address}"]\n{policy}\n'
            for service, policy in policies.items()
        ]
        proxy.in_force(mesh, mesh.apply("---\n".join(documents)))
        for service in policies:
            got = get(proxy.port, f"http://{service}/")
            assert (got.status, got.flag) == (500, "IE"), service
            assert "a bug" not in got.text
        got = send(proxy.port, "POST", "http://limited/", b"a" * 3_000_000)
        assert (got.status, got.flag) == (500, "IE")
        assert upstream.requests == []
        eventually(lambda: "RuntimeError: a bug" in proxy.console())


def test_copies_arrive_at_the_mirror_and_their_answers_nowhere(world, upstream):
    with Upstream(saying(500, "shadow", x_shadow="yes")) as shadow:
        service = world.serve(
            f'endpoints: {{v1: ["{upstream.address}"], v2: ["{shadow.address}"]}}\n'
            "to: v1\nmirror: v2\nrewrite: {path: /seen}\nretry: {attempts: 2, on: [5xx]}"
        )
        got = world.send("POST", f"http://{service}/asked?a=b", b"body", {"x-request-id": "r-1"})
        assert (got.status, got.body, got.header("x-shadow")) == (200, b"one", None)
        eventually(lambda: shadow.requests)
        (sent,) = shadow.requests
        assert (sent.method, sent.target, sent.body) == ("POST", "/seen?a=b", b"body")
        assert (sent.header("host"), sent.header("x-request-id")) == (f"{service}-shadow", "r-1")
        world.send("POST", f"http://{service}/large", b"a" * 3_000_000)
        line = world.line("/asked?a=b")
        assert (len(line["attempts"]), line["version"]) == (1, "v1")

        def counted():
            return re.findall(
                rf'mitmesh_mirrored_requests_total{{destination_service="{service}",'
                r'mirror="v2",outcome="(\w+)",route=""} ([0-9.]+)',
                world.get("http://mesh.local/metrics").text,
            )

        eventually(lambda: sorted(counted()) == [("answered", "1.0"), ("streamed", "1.0")])
        assert len(shadow.requests) == 1


def test_a_mirror_that_hangs_or_is_not_there_delays_nobody(world, upstream):
    def hang(request, connection):
        connection.recv(1)

    with Upstream(hang) as shadow:
        endpoints = (
            f'endpoints: {{v1: ["{upstream.address}"], v2: ["{shadow.address}"], v3: ["127.0.0.1:1"]}}'
        )
        service = world.serve(f"{endpoints}\nto: v1\nmirror: v2")
        with Client(world.proxy.port) as client:
            # More than copies may be under way at once, none of which ever ends.
            got = [client.get(f"http://{service}/{number}").body for number in range(150)]
        assert got == [b"one"] * 150
        eventually(lambda: len(shadow.requests) == 100)
        assert len(upstream.requests) == 150
        world.change(service, f"{endpoints}\nto: v1\nmirror: v3")
        assert world.get(f"http://{service}/").body == b"one"


CORS = """\
cors:
  allow_origins: ["https://shop.example", {suffix: ".shop.example"}]
  allow_methods: [GET, PUT]
  allow_headers: [x-user]
  expose_headers: [x-total]
  allow_credentials: true
  max_age: 10m
"""


def test_a_preflight_is_answered_by_the_proxy(world, upstream):
    service = world.serve(CORS, upstream.address)
    asked = {"access-control-request-method": "PUT", "access-control-request-headers": "x-user"}
    got = world.send("OPTIONS", f"http://{service}/a", headers={"origin": "https://eu.shop.example", **asked})
    assert (got.status, got.body) == (200, b"")
    told = {
        name: got.header(f"access-control-{name}")
        for name in ("allow-origin", "allow-methods", "allow-headers", "allow-credentials", "max-age")
    }
    assert told == {
        "allow-origin": "https://eu.shop.example",
        "allow-methods": "GET, PUT",
        "allow-headers": "x-user",
        "allow-credentials": "true",
        "max-age": "600",
    }
    got = world.send("OPTIONS", f"http://{service}/a", headers={"origin": "https://evil.example", **asked})
    assert got.status == 200
    assert [name for name, _ in got.fields if name.lower().startswith("access-control-")] == []
    assert upstream.requests == []
    assert world.send("OPTIONS", f"http://{service}/plain").body == b"one"
    assert upstream.targets() == ["/plain"]


def test_answers_say_who_may_read_them_whatever_the_service_says(world):
    theirs = saying(200, "x", access_control_allow_origin="*", access_control_max_age="1", vary="accept")
    with Upstream(theirs) as upstream:
        service = world.serve(f"{CORS}rate_limit: {{requests: 3, per: 1h}}", upstream.address)
        for origin, allowed in (("https://shop.example", True), ("https://evil.example", False), ("", False)):
            got = world.send("GET", f"http://{service}/", headers={"origin": origin} if origin else {})
            told = {name.lower(): text for name, text in got.fields if "access-control" in name.lower()}
            assert told == (
                {
                    "access-control-allow-origin": origin,
                    "access-control-allow-credentials": "true",
                    "access-control-expose-headers": "x-total",
                }
                if allowed
                else {}
            )
            assert got.header("vary") == "accept, origin"
        got = world.send("GET", f"http://{service}/", headers={"origin": "https://shop.example"})
        assert (got.status, got.header("access-control-allow-origin")) == (429, "https://shop.example")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("GET", 200)])
def test_a_fixed_answer_has_a_body_only_where_http_has_one(world, method, status):
    service = world.serve(f"respond: {{status: {status}, body: some text}}")
    with socket.create_connection(("127.0.0.1", world.proxy.port), timeout=20) as client:
        client.sendall(
            f"{method} http://{service}/ HTTP/1.1\r\nhost: {service}\r\nconnection: close\r\n\r\n".encode()
        )
        said = b""
        while data := client.recv(65536):
            said += data
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    assert body == (b"some text" if (method, status) == ("GET", 200) else b"")


@pytest.mark.parametrize(
    ("method", "body"), [("GET", None), ("HEAD", None), ("POST", b"data"), ("POST", b"x" * 2_000_000)]
)
def test_an_answer_without_content_says_no_length(world, method, body):
    """RFC 9110, section 8.6."""
    with Upstream(
        lambda request, connection: b"HTTP/1.1 204 No\r\ncontent-length: 5\r\nx-a: b\r\n\r\n"
    ) as upstream:
        service = world.serve("", upstream.address)
        for _ in range(2):
            got = world.send(method, f"http://{service}/", body)
            assert (got.status, got.header("x-a"), got.header("content-length")) == (204, "b", None)
