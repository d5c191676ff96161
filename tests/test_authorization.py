"""Authorization on the request path: whom it takes for the caller, what it answers, what it tells, that it fails closed."""

import pytest
from mitmproxy import connection
from mitmproxy.proxy import context, events, layer, layers
from mitmproxy.test import taddons

from addons import authorization as module
from addons.authorization import Authorization
from addons.routing import Routing
from tests.flows import make_answer, make_flow, pinned

OPS = "service: web\nendpoints: [10.0.0.1:80]\nauthorization: {allow: {from: ops}}\n"


def judged(flow, policy, source="", peer="", inbound=False, service="web", routing=None):
    exchange = pinned(flow, policy, source, inbound)
    exchange.peer = peer
    if inbound:
        exchange.service = service
    (routing or Routing()).request(flow)
    return exchange


def told(flow):
    return (flow.response.status_code, flow.response.headers["x-mesh-flag"]) if flow.response else None


@pytest.mark.parametrize(
    ("source", "answer"), [("ops", None), ("OPS", None), ("dev", (403, "RBAC")), ("", (403, "RBAC"))]
)
def test_at_the_callers_side_it_is_the_proxys_own_service(source, answer):
    flow = make_flow("http://web/", headers={"x-forwarded-client-cert": "URI=spiffe://mesh/service/ops"})
    exchange = judged(flow, OPS, source.lower(), peer="spiffe://mesh/service/ops" if source == "dev" else "")
    assert told(flow) == answer
    assert exchange.flags == (["RBAC"] if answer else [])


@pytest.mark.parametrize(
    ("peer", "answer"),
    [
        ("spiffe://mesh/service/ops", None),
        ("spiffe://mesh/service/dev", (403, "RBAC")),
        ("spiffe://other/service/ops", (403, "RBAC")),
        ("spiffe://mesh/ns/ops", (403, "RBAC")),
        ("", (403, "RBAC")),
    ],
)
def test_in_front_of_the_service_it_is_who_the_certificate_says(peer, answer):
    flow = make_flow(
        "http://127.0.0.1:8000/", headers={"x-forwarded-client-cert": "URI=spiffe://mesh/service/ops"}
    )
    exchange = judged(flow, OPS, source="ops", peer=peer, inbound=True)
    assert told(flow) == answer
    assert exchange.route.shares == ()
    assert exchange.share is None


def test_the_mesh_is_the_one_of_the_options():
    authorization = Authorization()
    with taddons.context(authorization) as context_:
        context_.options.add_option("mesh_name", str, "mesh", "")
        context_.configure(authorization, mesh_name="Prod")
        routing = Routing(authorization=authorization)
        for peer, answer in (
            ("spiffe://prod/service/ops", None),
            ("spiffe://mesh/service/ops", (403, "RBAC")),
        ):
            flow = make_flow("http://web/")
            judged(flow, OPS, peer=peer, inbound=True, routing=routing)
            assert told(flow) == answer
        flow = make_flow("http://web/")
        judged(
            flow, "service: web\nauthorization: {allow: {from: spiffe://prod/*}}", source="a", routing=routing
        )
        assert told(flow) is None


def test_what_is_refused_is_not_edited_or_answered_by_the_policy():
    flow = make_flow("http://web/")
    exchange = judged(flow, OPS + "respond: {body: secret}\nrequest_headers: {set: {a: b}}", "dev")
    assert told(flow) == (403, "RBAC")
    assert flow.response.text == "access denied: the policy of web does not allow this request\n"
    assert "a" not in flow.request.headers
    assert exchange.share is None


def test_it_sees_what_routes_see_and_not_what_they_make_of_it():
    policy = "service: web\nrequest_headers: {set: {x-role: ops}}\nauthorization: {allow: {headers: {x-role: ops}}}"
    flow = make_flow("http://web/")
    judged(flow, policy, "a")
    assert told(flow) == (403, "RBAC")


def test_audit_lets_pass_flags_and_says_so_once(caplog):
    routing = Routing()
    for _ in range(3):
        flow = make_flow("http://web/x\x1b[31m")
        exchange = judged(flow, OPS.replace("{allow", "{audit: true, allow"), "dev", routing=routing)
        assert told(flow) is None
        assert exchange.flags == ["RBAC_AUDIT"]
        assert exchange.share is not None
    (line,) = [record.message for record in caplog.records]
    assert "would be refused (audit): 'GET /x" in line
    assert "\x1b" not in line
    assert "web from dev" in line


def test_headers_of_the_mesh_do_not_come_in_from_outside():
    flow = make_flow("http://web/", headers={"x-mesh-fault": "delay=9s", "x-mesh-colour": "red"})
    judged(flow, "service: web", inbound=True)
    assert "x-mesh-fault" not in flow.request.headers
    assert "x-mesh-colour" in flow.request.headers
    mine = make_flow("http://web/", headers={"x-mesh-fault": "delay=9s"})
    judged(mine, "service: web")
    assert "x-mesh-fault" in mine.request.headers


@pytest.mark.parametrize("broken", ["admit", "own_answer"])
@pytest.mark.parametrize("inbound", [True, False])
def test_a_failure_in_it_stops_the_request(monkeypatch, caplog, inbound, broken):
    monkeypatch.setattr(module, broken, lambda *_: 1 / 0)
    flow = make_flow("http://web/")
    exchange = judged(flow, OPS, "dev", inbound=inbound)
    assert told(flow) == (500, "IE")
    assert exchange.flags == ["IE"]


@pytest.mark.parametrize(
    ("policy", "source", "answer"),
    [
        (OPS, "ops", None),
        (OPS, "dev", (403, "RBAC")),
        (OPS.replace("from: ops", "from: ops, paths: /x"), "ops", None),
        (OPS.replace("{allow", "{audit: true, allow"), "dev", None),
    ],
)
def test_tunnels(policy, source, answer):
    flow = make_flow("http://web:80/", "CONNECT")
    exchange = pinned(flow, policy, source)
    Routing().http_connect(flow)
    assert told(flow) == answer
    assert exchange.flags == (["RBAC"] if answer else ["RBAC_AUDIT"] if "audit" in policy else [])


@pytest.mark.parametrize(
    ("rules", "closed"), [("{allow: {from: ops}}", False), ("{allow: {from: ops, paths: /x}}", True)]
)
def test_what_is_no_http_does_not_go_where_requests_are_judged(rules, closed):
    authorization = Authorization()
    flow = make_flow("http://web:80/", "CONNECT")
    pinned(flow, f"service: web\nauthorization: {rules}", "ops")
    Routing(authorization=authorization).http_connect(flow)
    inside = layer.NextLayer(context.Context(flow.client_conn, taddons.context().options))
    inside.layer = layers.TCPLayer(inside.context)
    authorization.next_layer(inside)
    assert isinstance(inside.layer, layers.TCPLayer) is not closed
    if closed:
        commands = list(inside.layer.handle_event(events.Start()))
        assert [type(command).__name__ for command in commands] == ["CloseConnection"]
        assert list(inside.layer.handle_event(events.DataReceived(flow.client_conn, b"x"))) == []
    http = layer.NextLayer(context.Context(flow.client_conn, taddons.context().options))
    http.layer = made = layers.HttpLayer(http.context, layers.http.HTTPMode.transparent)
    authorization.next_layer(http)
    assert http.layer is made
    authorization.client_disconnected(flow.client_conn)
    authorization.next_layer(inside)
    assert authorization._only_http == set()


def test_other_clients_are_left_alone():
    authorization = Authorization()
    client = connection.Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=1.0)
    inside = layer.NextLayer(context.Context(client, taddons.context().options))
    inside.layer = made = layers.TCPLayer(inside.context)
    authorization.next_layer(inside)
    assert inside.layer is made


def test_what_is_answered_already_is_left_alone():
    flow = make_flow("http://web/")
    flow.response = make_answer(201)
    judged(flow, OPS, "dev")
    assert flow.response.status_code == 201


def test_what_it_remembers_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "_MOST_TOLD", 3)
    authorization = Authorization()
    routing = Routing(authorization=authorization)
    for number in range(10):
        flow = make_flow("http://web/")
        judged(flow, OPS, f"dev-{number}", routing=routing)
        assert told(flow) == (403, "RBAC")
    assert len(authorization._told) <= 3
    assert len(authorization._callers) <= 3
