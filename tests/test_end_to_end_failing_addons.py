"""An addon of the user's that sets `flow.error`, or whose hook is cancelled, takes no request out of the policy's hands."""

import pytest

from tests import guarded
from tests.mesh_process import send

EVENTS = ["requestheaders", "request", "responseheaders", "response"]
# Does what x-do says in the events that x-in names. Made before the mesh's addons, so that it is heard before them.
SCRIPT = f"""
import asyncio
from mitmproxy import flow as mitmproxy_flow

async def cancelled_later():
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task

async def cancelled_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(0)

def failing(event):
    def hook(self, flow, *_):
        asked = flow.request.headers
        if asked.get("x-stream") and event == "requestheaders":
            flow.request.stream = True
        if event not in asked.get("x-in", "").split():
            return
        match asked["x-do"]:
            case "error":
                flow.error = mitmproxy_flow.Error("mine")
            case "cancelled":
                raise asyncio.CancelledError
            case "cancelled later":
                return cancelled_later()
            case "cancelled itself":
                return cancelled_itself()
    return hook

class Behind:
    def request(self, flow):
        flow.request.headers["x-behind"] = "yes"

    def responseheaders(self, flow):
        flow.response.headers["x-behind"] = "yes"

EVENTS = {[*EVENTS, "mesh_routed", "mesh_attempt", "mesh_attempt_end", "mesh_forwarded"]!r}
addons = [type("Failing", (), {{event: failing(event) for event in EVENTS}})(), Behind()]
"""
REQUESTS = guarded.REQUESTS
DEEDS = ["error", "cancelled", "cancelled later"]
PLACES = [*EVENTS, " ".join(EVENTS), "mesh_routed", "mesh_attempt mesh_attempt_end mesh_forwarded"]

world, trap, routed, service = guarded.world, guarded.trap, guarded.routed, guarded.service
nothing_unrouted = guarded.nothing_unrouted


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("deed", DEEDS)
def test_what_the_policy_allows_is_routed_by_it(world, trap, routed, service, deed, place, kind):
    """Twice, since a hook of the mesh that is left out would leave the limit used up."""
    method, body, headers = REQUESTS[kind]
    path = f"/{deed}/{place}/{kind}".replace(" ", "-")
    for number in range(2):
        got = send(
            world.proxy.port,
            method,
            f"http://{trap.address}{path}/{number}",
            body,
            {"x-do": deed, "x-in": place, **headers},
        )
        assert (got.status, got.body) == (200, b"routed"), got
        assert got.header("x-secret") is None
        assert got.header("x-behind") == "yes"
        line = world.line(f"{path}/{number}")
        assert (line["status"], line["service"]) == (200, service)
    if kind in ("get", "small"):
        assert routed.requests[-1].header("x-behind") == "yes"


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("place", ["requestheaders", "request", " ".join(EVENTS)])
@pytest.mark.parametrize("deed", DEEDS)
def test_what_the_policy_refuses_goes_nowhere(world, trap, routed, service, deed, place, kind):
    method, body, headers = REQUESTS[kind]
    before = len(routed.requests)
    got = send(
        world.proxy.port,
        method,
        f"http://{trap.address}/",
        body,
        {"x-do": deed, "x-in": place, "x-deny": "yes", **headers},
    )
    assert (got.status, got.flag) == (403, "RBAC"), got
    assert len(routed.requests) == before


@pytest.mark.parametrize("place", EVENTS)
def test_an_exchange_that_ends_with_its_hooks_task_leaves_its_place(world, trap, service, place):
    if world.full:
        pytest.skip("a hook has no task of its own there")
    for number in range(2):
        got = world.send(
            "GET",
            f"http://{trap.address}/{place}/{number}",
            None,
            {"x-do": "cancelled itself", "x-in": place},
        )
        assert got.status == 500, got
    assert world.get(f"http://{trap.address}/").status == 200
