"""An addon of the user's that raises AddonHalt keeps the addons behind it from an event, never the mesh."""

import pytest

from tests import guarded
from tests.mesh_process import send
from tests.upstream import Upstream

EVENTS = ["requestheaders", "request", "responseheaders", "response"]
# Halts the events that x-halt names. Made before the mesh's addons, so that it is heard before them.
SCRIPT = f"""
from mitmproxy import exceptions, http

def halting(event):
    def hook(self, flow):
        if event not in flow.request.headers.get("x-halt", ""):
            return
        if flow.request.headers.get("x-own") == event:
            flow.response = http.Response.make(201, b"mine")
        if flow.request.headers.get("x-stream") and event == "requestheaders":
            flow.request.stream = True
        raise exceptions.AddonHalt
    return hook

Halting = type("Halting", (), {{event: halting(event) for event in {[*EVENTS, "http_connect"]!r}}})

class Attempts:
    def mesh_routed(self, flow):
        if "mesh_routed" in flow.request.headers.get("x-halt", ""):
            raise exceptions.AddonHalt

addons = [Halting(), Attempts()]
"""
REQUESTS = guarded.REQUESTS

world, trap, routed, service = guarded.world, guarded.trap, guarded.routed, guarded.service
nothing_unrouted = guarded.nothing_unrouted


HALTS = [*EVENTS, "requestheaders request", "responseheaders response", "mesh_routed"]


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("halt", HALTS)
def test_what_the_policy_allows_is_routed_by_it(world, trap, routed, service, halt, kind):
    """Twice, since a hook of the mesh that is left out would leave the limit used up."""
    method, body, headers = REQUESTS[kind]
    path = f"/{halt}/{kind}".replace(" ", "-")
    for number in range(2):
        got = send(
            world.proxy.port,
            method,
            f"http://{trap.address}{path}/{number}",
            body,
            {"x-halt": halt, **headers},
        )
        assert (got.status, got.body) == (200, b"routed"), got
        assert got.header("x-secret") is None
        assert got.header("x-mesh-attempts") == "1"
        line = world.line(f"{path}/{number}")
        assert (line["status"], line["service"]) == (200, service)


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("halt", HALTS)
def test_what_the_policy_refuses_goes_nowhere(world, trap, routed, service, halt, kind):
    method, body, headers = REQUESTS[kind]
    before = len(routed.requests)
    got = send(
        world.proxy.port,
        method,
        f"http://{trap.address}/",
        body,
        {"x-halt": halt, "x-deny": "yes", **headers},
    )
    assert (got.status, got.flag) == (403, "RBAC"), got
    assert len(routed.requests) == before


@pytest.mark.parametrize("event", ["requestheaders", "request", "responseheaders", "response"])
def test_an_answer_that_the_addon_has_set_stands(world, trap, routed, service, event):
    got = send(world.proxy.port, "GET", f"http://{trap.address}/", None, {"x-halt": event, "x-own": event})
    assert (got.status, got.body) == (201, b"mine"), got


@pytest.mark.parametrize("own", ["", "http_connect"])
def test_a_tunnel_is_judged(world, own):
    """An addon that says 200 itself would open it, too."""
    with Upstream() as upstream:
        service = world.serve("authorization: {allow: {from: ops}}", upstream.address)
        headers = {"x-halt": "http_connect", "x-own": own}
        got = send(world.proxy.port, "CONNECT", f"{service}:80", None, headers)
    assert (got.status, got.flag) == (403, "RBAC"), got
