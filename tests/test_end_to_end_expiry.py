"""What holds for a while ends by itself in every proxy: real ones, one of them started later, Redis gone or not."""

import textwrap
import time

import pytest

from control.commands.planning import plan
from control.policy.reading import read_bytes
from tests.mesh_process import Proxy, World, eventually, get, running
from tests.upstream import Upstream, saying


@pytest.fixture
def world(tmp_path):
    with World(tmp_path, lean=True) as world:
        yield world


def applied(world: World, text: str) -> int:
    """As `mitmesh apply` does it, from whose time it counts."""
    documents = read_bytes(textwrap.dedent(text).encode(), "test.yaml")
    change = world.mesh.use(
        lambda store: store.change(
            lambda stored: plan(stored.documents, documents).writes, author="test", message=""
        )
    )
    return change.revision


def test_a_fault_and_a_route_expire_in_every_proxy_also_in_one_that_starts_later(world, tmp_path):
    with Upstream(saying(200, "old")) as old, Upstream(saying(200, "new")) as new:
        # Long enough for a slow machine to start the other proxy, which must see them at work.
        begun = time.time()
        revision = applied(
            world,
            f"""
            service: web
            endpoints: {{v1: ["{old.address}"], v2: ["{new.address}"]}}
            routes:
            - {{name: trial, to: v2, for: 8s}}
            - {{to: v1}}
            ---
            service: api
            endpoints: ["{old.address}"]
            faults: [{{abort: 503, for: 8s}}]
            """,
        )
        world.proxy.in_force(world.mesh, revision)
        later = Proxy(tmp_path / "later", world.valkey.url, lean=True)
        with running(later):
            later.in_force(world.mesh, revision)
            ports = [world.proxy.port, later.port]

            def seen() -> list[tuple[bytes, int]]:
                return [(get(port, "http://web/").body, get(port, "http://api/").status) for port in ports]

            assert seen() == [(b"new", 503)] * 2 or time.time() > begun + 8
            eventually(lambda: seen() == [(b"old", 200)] * 2)
            assert time.time() >= begun + 8
            # It is the same policy, and nobody has written anything.
            assert {node.revision for node in world.mesh.nodes().values()} == {revision}
        # One that starts when all is over never begins it.
        last = Proxy(tmp_path / "last", world.valkey.url, lean=True)
        with running(last):
            last.in_force(world.mesh, revision)
            assert (get(last.port, "http://web/").body, get(last.port, "http://api/").status) == (b"old", 200)


def test_it_expires_without_redis_and_ends_what_it_holds_up(world):
    with Upstream() as upstream:
        policy = f'service: web\nendpoints: ["{upstream.address}"]\nfaults: [{{abort: hang, for: 3s}}]'
        begun = time.time()
        world.proxy.in_force(world.mesh, applied(world, policy))
        world.valkey.kill()
        assert get(world.proxy.port, "http://web/").status == 200
        assert time.time() >= begun + 3
