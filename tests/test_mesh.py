"""The chain as a whole: its order, its names, and that a feature which fails takes nothing else with it."""

import pytest
from mitmproxy import addons as builtin

from addons import chain, mesh
from tests import guarded
from tests.mesh_process import send
from tests.upstream import Upstream, saying

HOOKS = [
    "requestheaders", "request", "responseheaders", "response", "error",
    "mesh_request", "mesh_forward", "mesh_attempt", "mesh_attempt_end", "mesh_forwarded",
]  # fmt: skip
BOMBS = [
    f"{type(feature).__name__.lower()}.{hook}"
    for feature in (*chain.ahead(), *chain.chain())
    for hook in HOOKS
    if hasattr(feature, hook)
]
# Its own hooks: a feature that fails there may be missing, but the request has its answer already, or none is due.
SCRIPT = f"""
import functools, inspect
from mitmproxy import ctx

def armed(name, hook):
    @functools.wraps(hook)
    def wrapper(flow, *more):
        if flow.request.headers.get("x-boom") == name:
            raise RuntimeError("boom in " + name)
        return hook(flow, *more)
    return wrapper

class Bombs:
    def running(self):
        for feature in ctx.master.addons.chain:
            if type(feature).__module__.startswith("addons."):
                for hook in {HOOKS!r}:
                    if hasattr(feature, hook):
                        name = type(feature).__name__.lower() + "." + hook
                        setattr(feature, hook, armed(name, getattr(feature, hook)))

def _throw(hook):
    def method(self, flow, *more):
        if flow.request.headers.get("x-boom") == "user." + hook:
            raise RuntimeError("boom of a user in " + hook)
    return method

User = type("User", (), {{hook: _throw(hook) for hook in {HOOKS!r}}})
addons = [Bombs(), User()]
"""


def test_names_of_addons_are_unique_and_none_is_mitmproxys():
    names = [
        type(feature).__name__.lower()
        for feature in (*chain.ahead(), *chain.chain(), mesh.FastLane(), mesh.Mesh())
    ]
    assert len(set(names)) == len(names)
    assert not set(names) & {type(addon).__name__.lower() for addon in builtin.default_addons()}


def test_the_order_of_a_requests_life():
    names = [type(feature).__name__ for feature in chain.chain()]
    order = ["PolicyFeed", "Routing", "Passthrough", "Faults", "Retry", "Forwarder", "Backstop", "AccessLog"]
    assert [name for name in names if name in order] == order


world, trap = guarded.world, guarded.trap


@pytest.fixture(scope="module")
def routed(world, trap):
    """The service of all tests here; callers name the trap's address."""
    with Upstream(saying(200, "routed")) as upstream:
        world.serve(f'hosts: ["{trap.address}"]\nretry: {{attempts: 2, on: [5xx]}}', upstream.address)
        yield upstream


REQUESTS = {
    "get": ("GET", None, {}),
    "upload": ("POST", b"x" * 2_000_000, {}),
    "upgrade": ("GET", None, {"connection": "upgrade", "upgrade": "tea"}),
}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("bomb", [*BOMBS, *(f"user.{hook}" for hook in HOOKS)])
def test_a_feature_that_fails_lets_nothing_pass_unrouted_and_breaks_no_other_request(
    world, trap, routed, bomb, kind
):
    method, body, headers = REQUESTS[kind]
    url = f"http://{trap.address}/"
    try:
        got = send(world.proxy.port, method, url, body, {"x-boom": bomb, **headers})
    except ConnectionError:
        pass  # no answer is safe, too
    else:
        assert got.status in (200, 500, 503), got
        if got.status == 200:
            assert got.body == b"routed"
        else:
            assert got.flag in ("IE", "NP"), got
        if bomb.startswith("user."):
            assert got.status == 200
    assert trap.requests == []
    assert send(world.proxy.port, method, url, body, headers).body == b"routed"


def test_what_failed_is_in_the_log(world, trap, routed):
    bomb = "routing.request" if world.full else "routing.mesh_request"
    send(world.proxy.port, "GET", f"http://{trap.address}/", None, {"x-boom": bomb})
    assert f"boom in {bomb}" in world.proxy.console()
