"""What the service gets to see in place of what the caller wrote."""

import pytest

from addons.rewrite import Rewrite
from addons.routing import Routing
from tests.flows import loaded, make_answer, make_flow, pinned


def rewritten(policy, url="http://web/a/b?c=d", **flow):
    made = make_flow(url, **flow)
    exchange = pinned(made, f"service: web\nendpoints: ['10.0.0.1:80']\n{policy}")
    routing, rewrite = Routing(), Rewrite()
    with loaded(routing, rewrite):
        assert routing.request(made) is None
    return made.request, exchange


def test_a_path_and_what_it_was():
    request, exchange = rewritten("routes: [{match: {path: {prefix: /a}}, rewrite: {prefix: /n}}]")
    assert (request.path, request.headers["x-envoy-original-path"]) == ("/n/b?c=d", "/a/b?c=d")
    assert exchange.facts.target == "/a/b?c=d"
    assert "x-envoy-original-host" not in request.headers
    assert exchange.share is not None


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/2.0"])
def test_a_host_and_what_it_was_while_the_destination_stays(version):
    request, _ = rewritten("rewrite: {host: inner.example:8080}", version=version)
    assert (request.host_header, request.headers["x-envoy-original-host"]) == ("inner.example:8080", "web")
    assert (request.host, request.port) == ("web", 80)
    assert request.headers.get_all("host") in ([], ["inner.example:8080"])


def test_what_stays_the_same_is_not_told_as_a_change():
    request, _ = rewritten("rewrite: {path: /a/b, host: web}")
    assert "x-envoy-original-path" not in request.headers
    assert "x-envoy-original-host" not in request.headers


def test_what_the_caller_claims_to_be_the_original_is_replaced():
    request, _ = rewritten("rewrite: {path: /n}", headers={"X-Envoy-Original-Path": "/forged"})
    assert request.headers.get_all("x-envoy-original-path") == ["/a/b?c=d"]


def test_what_is_answered_stays_as_it_is():
    flow = make_flow("http://web/a")
    exchange = pinned(flow, "service: web\nrewrite: {path: /n}")
    exchange.route = exchange.snapshot.services["web"].own
    flow.response = make_answer(429)
    Rewrite().mesh_routed(flow)
    assert flow.request.path == "/a"


def test_it_fails_closed():
    flow = make_flow("http://web/a")
    exchange = pinned(flow, "service: web\nrewrite: {path: /n}")
    exchange.route = exchange.snapshot.services["web"].own
    Rewrite().mesh_routed(flow)  # nobody has noted the facts
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")
