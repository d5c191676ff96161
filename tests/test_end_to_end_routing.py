"""Where requests go and what is done to their headers, as callers and upstreams see it: a real mitmdump."""

import re
from collections import Counter

import pytest

from tests.mesh_process import LANES, Client, World, with_options
from tests.upstream import Upstream, saying


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    with World(
        tmp_path_factory.mktemp("routing"), **with_options(request.param, mesh_service="shop")
    ) as world:
        yield world


@pytest.fixture
def v1():
    with Upstream(saying(200, "one")) as upstream:
        yield upstream


@pytest.fixture
def v2():
    with Upstream(saying(200, "two")) as upstream:
        yield upstream


def versions(v1, v2) -> str:
    return f'endpoints: {{v1: ["{v1.address}"], v2: ["{v2.address}"]}}'


@pytest.mark.parametrize(
    ("match", "path", "headers", "body"),
    [
        ("{path: /x}", "/x", {}, b"two"),
        ("{path: /x}", "/x/y", {}, b"one"),
        ("{path: {prefix: /api}}", "/api/7?q=1", {}, b"two"),
        ("{path: {prefix: /api}}", "/apis", {}, b"one"),
        ("{path: {prefix: /api}}", "/%61pi/./7", {}, b"two"),
        ('{path: {regex: "/[0-9]+"}}', "/123", {}, b"two"),
        ("{headers: {x-group: qa}}", "/", {"X-Group": "qa"}, b"two"),
        ("{headers: {x-group: qa}}", "/", {"x-group": "dev"}, b"one"),
        ("{headers: {x-group: {not: qa}}}", "/", {}, b"two"),
        ("{query: {debug: {present: true}}}", "/?a=1&debug", {}, b"two"),
        ("{cookies: {beta: yes}}", "/", {"cookie": "a=1; beta=yes"}, b"two"),
        ("{method: [PUT, DELETE]}", "/", {}, b"one"),
        ("{source: shop}", "/", {}, b"two"),
        ("{source: [bank, mail]}", "/", {}, b"one"),
        ("[{path: /a}, {path: /b}]", "/b", {}, b"two"),
    ],
)
def test_the_first_route_that_matches_wins(world, v1, v2, match, path, headers, body):
    service = world.serve(
        f"{versions(v1, v2)}\nto: v1\nroutes: [{{name: special, match: {match}, to: v2}}, {{match: {match}, to: v1}}]"
    )
    got = world.send("GET", f"http://{service}{path}", headers=headers)
    assert (got.status, got.body) == (200, body)
    line = [line for line in world.proxy.lines() if line["service"] == service]
    if line:
        assert line[0]["route"] == ("special" if body == b"two" else "")
        assert line[0]["version"] == ("v2" if body == b"two" else "v1")


def test_a_split_has_its_shares_and_weight_0_gets_nothing(world, v1, v2):
    service = world.serve(f"{versions(v1, v2)}\nto: {{v1: 80, v2: 20}}")
    with Client(world.proxy.port) as client:
        count = Counter(client.get(f"http://{service}/").body for _ in range(400))
        # 400 draws of 0.2: five standard deviations are 40.
        assert 40 <= count[b"two"] <= 120
        world.change(service, f"{versions(v1, v2)}\nto: {{v1: 0, v2: 1}}")
        assert Counter(client.get(f"http://{service}/").body for _ in range(50)) == {b"two": 50}


def test_all_endpoints_take_turns_in_proportion_to_their_weights(world, v1, v2):
    service = world.serve(
        f'endpoints: [{{address: "{v1.address}", weight: 1}}, {{address: "{v2.address}", weight: 3}}]'
    )
    with Client(world.proxy.port) as client:
        count = Counter(client.get(f"http://{service}/").body for _ in range(40))
    assert count == {b"one": 10, b"two": 30}


def test_the_log_names_the_version_that_was_reached_where_no_route_chose_one(world, v1, v2):
    service = world.serve(versions(v1, v2))
    with Client(world.proxy.port) as client:
        got = [client.get(f"http://{service}/reached/{number}").body for number in range(2)]
    lines = [world.line(f"/reached/{number}") for number in range(2)]
    names = {b"one": "v1", b"two": "v2"}
    assert [line["version"] for line in lines] == [names[body] for body in got]


def test_another_services_version(world, v1, v2):
    other = world.serve(versions(v1, v2))
    service = world.serve(f"to: {other}/v2", v1.address)
    assert world.get(f"http://{service}/").body == b"two"


def test_hosts(world, v1, v2):
    service = world.serve(f'hosts: ["*.wild.test", "exact.wild.test:8080", "{v2.address}"]', v1.address)
    for host in (
        service,
        service.upper(),
        "a.wild.test",
        "a.b.wild.test:99",
        "exact.wild.test:8080",
        v2.address,
    ):
        assert world.get(f"http://{host}/").body == b"one", host
    assert world.get(f"http://wild.test:{v2.port}/").flag == "UF"
    assert v2.requests == []


def test_a_host_that_nobody_claims_is_dialled_as_named_or_refused(world, v1):
    assert world.get(f"http://{v1.address}/").body == b"one"
    try:
        world.apply('service: "*"\nunknown_hosts: refuse')
        got = world.get(f"http://{v1.address}/nobody")
        assert (got.status, got.flag) == (404, "NR")
        assert got.text == (
            f"no service of the mesh claims the host {v1.address} and its policy refuses unknown hosts\n"
        )
        line = world.line("/nobody")
        assert (line["flags"], line["attempts"], line["service"]) == ("NR", [], "")
    finally:
        revision = world.mesh.delete("*")
        world.proxy.in_force(world.mesh, revision)
    assert world.get(f"http://{v1.address}/").body == b"one"


def test_a_service_without_endpoints_dials_what_the_caller_named(world, v1):
    service = world.serve(
        f'hosts: ["{v1.address}"]\nfaults: [{{abort: 503, first: 1}}]\nretry: {{attempts: 2, on: [5xx]}}'
    )
    got = world.get(f"http://{v1.address}/named")
    assert (got.body, got.header("x-mesh-attempts")) == (b"one", "2")
    assert world.line("/named")["service"] == service


def test_header_operations_both_ways(world):
    with Upstream(saying(200, "x", server="secret", x_many="1", x_set="old")) as upstream:
        service = world.serve(
            """\
            request_headers: {set: {x-user: "7"}, add: {x-tag: b}, remove: [cookie, x-none]}
            response_headers: {set: {x-set: new}, add: {x-many: "2"}, remove: [server]}
            """,
            upstream.address,
        )
        headers = {"X-User": "1", "x-tag": "a", "cookie": "secret=1"}
        got = world.send("GET", f"http://{service}/", headers=headers)
        sent = upstream.requests[0]
        assert (sent.header("x-user"), sent.header("x-tag"), sent.header("cookie")) == ("7", "a, b", None)
        assert (got.header("x-set"), got.header("x-many"), got.header("server")) == ("new", "1, 2", None)


def test_headers_are_set_on_the_proxys_own_answers_too(world):
    service = world.serve("response_headers: {set: {x-mine: yes}}", "127.0.0.1:1")
    assert world.get(f"http://{service}/").header("x-mine") == "yes"


def test_respond(world, v1):
    service = world.serve(
        "routes: [{match: {path: /health}, respond: {status: 203, headers: {x-a: b}, body: fine}}]",
        v1.address,
    )
    got = world.get(f"http://{service}/health")
    assert (got.status, got.body, got.header("x-a"), got.header("x-mesh-attempts")) == (
        203,
        b"fine",
        "b",
        None,
    )
    assert world.line("/health")["attempts"] == []
    assert world.get(f"http://{service}/").body == b"one"
    assert v1.targets() == ["/"]


def test_request_id_is_made_and_passed_on_or_kept(world, v1):
    service = world.serve("", v1.address)
    world.get(f"http://{service}/made")
    world.get(f"http://{service}/kept", x_request_id="mine-1")
    made, kept = (request.header("x-request-id") for request in v1.requests)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made)
    assert kept == "mine-1"
    assert [world.line(path)["request_id"] for path in ("/made", "/kept")] == [made, kept]


def test_what_concerns_one_connection_alone_is_not_passed_on(world, v1):
    service = world.serve("", v1.address)
    headers = {"connection": "x-private, keep-alive", "x-private": "1", "te": "trailers", "x-public": "2"}
    world.send("GET", f"http://{service}/a?b=c", headers=headers)
    sent = v1.requests[0]
    assert (sent.target, sent.header("host"), sent.header("x-public")) == ("/a?b=c", service, "2")
    assert [sent.header(name) for name in ("connection", "x-private", "te")] == [None] * 3


def test_http_1_0_without_a_host_header_gets_one(world, v1):
    import socket

    service = world.serve("", v1.address)
    with socket.create_connection(("127.0.0.1", world.proxy.port), timeout=20) as client:
        client.sendall(f"GET http://{service}/old HTTP/1.0\r\n\r\n".encode())
        said = b""
        while data := client.recv(65536):
            said += data
    assert said.split(b"\r\n")[0].split()[1] == b"200"
    assert said.endswith(b"one")
    assert v1.requests[0].header("host") == service
