"""Fixtures for what users' addons may do: a proxy with the module's SCRIPT, and a policy that has to hold whatever it does.

A module takes those that it needs: `world = guarded.world`.
"""

from collections.abc import Iterator

import pytest

from tests.mesh_process import LANES, World
from tests.upstream import Upstream, saying

REQUESTS = {
    "get": ("GET", None, {}),
    "small": ("POST", b"data", {}),
    "upload": ("POST", b"x" * 2_000_000, {}),
    "streamed": ("POST", b"data", {"x-stream": "yes"}),
    "upgrade": ("GET", None, {"connection": "upgrade", "upgrade": "tea"}),
}
"""Method, body and headers; the module's script lets stream what says x-stream."""


@pytest.fixture(scope="module", params=LANES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("guarded")
    script = folder / "script.py"
    script.write_text(request.module.SCRIPT)
    with World(folder, scripts=[script], **request.param) as world:
        yield world


@pytest.fixture(scope="module")
def trap() -> Iterator[Upstream]:
    """What the callers name: reached only by what the mesh has not routed."""
    with Upstream(saying(200, "unrouted")) as trap:
        yield trap


@pytest.fixture(autouse=True)
def nothing_unrouted(trap: Upstream) -> Iterator[None]:
    trap.requests.clear()
    yield
    assert trap.requests == []


@pytest.fixture(scope="module")
def routed() -> Iterator[Upstream]:
    with Upstream(saying(200, "routed", x_secret="yes")) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def service(world: World, trap: Upstream, routed: Upstream) -> str:
    """Denies what x-deny asks for, takes a field from answers, and lets through one request at a time."""
    policy = f"""
        hosts: ["{trap.address}"]
        authorization: {{deny: [{{headers: {{x-deny: {{present: true}}}}}}]}}
        response_headers: {{remove: [x-secret]}}
        circuit_breaker: {{limits: {{requests: 1}}}}
        """
    return world.serve(policy, routed.address)
