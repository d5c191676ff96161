"""Sticky splits with real proxies and the real command: who is on the new version stays there."""

from collections import Counter

import pytest

from tests.cli import Mitmesh, mitmesh_fixture  # noqa: F401
from tests.mesh_process import LANES, Client, Mesh, Proxy, World, running
from tests.upstream import Upstream, saying

pytestmark = pytest.mark.timeout(180)
USERS = [f"user-{number}" for number in range(60)]


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    with World(tmp_path_factory.mktemp("sticky"), **request.param) as world:
        yield world


def split(v1: Upstream, v2: Upstream, share: int, sticky: str) -> str:
    return (
        f'endpoints: {{v1: ["{v1.address}"], v2: ["{v2.address}"]}}\n'
        f"to: {{v1: {100 - share}, v2: {share}}}\nsticky: {sticky}"
    )


def test_raising_the_share_moves_nobody_back(world):
    with Upstream(saying(200, "v1")) as v1, Upstream(saying(200, "v2")) as v2:
        service = world.name()
        seen: dict[str, set[str]] = {}
        for share in (10, 30, 60, 60, 100):
            world.change(service, split(v1, v2, share, "{header: x-user}"))
            with Client(world.proxy.port) as client:
                on = {user for user in USERS if client.get(f"http://{service}/", x_user=user).text == "v2"}
            assert on >= seen.get("v2", set())
            seen["v2"] = on
        assert seen["v2"] == set(USERS)


def test_the_proxy_gives_a_cookie_that_keeps_its_promise(world):
    with Upstream(saying(200, "v1")) as v1, Upstream(saying(200, "v2", set_cookie="own=1")) as v2:
        service = world.serve(split(v1, v2, 50, "{cookie: mesh-canary, ttl: 1h}"))
        url = f"http://{service}/"
        met = Counter()
        with Client(world.proxy.port) as client:
            for _ in range(24):
                first = client.get(url)
                field = next(
                    value
                    for name, value in first.fields
                    if name.lower() == "set-cookie" and "own" not in value
                )
                pair, _, rest = field.partition("; ")
                assert rest == "Max-Age=3600; Path=/; HttpOnly; SameSite=Lax"
                for _ in range(2):
                    again = client.get(url, cookie=f"a=b; {pair}")
                    assert again.text == first.text
                    assert "mesh-canary" not in (again.header("set-cookie") or "")
                met[first.text] += 1
        assert met.keys() == {"v1", "v2"}


def test_all_proxies_choose_alike_and_apply_keeps_three_versions_apart(
    mitmesh: Mitmesh, redis_url: str, tmp_path
):
    """v3 rises at v1's expense, past v2's users: apply writes down who was where."""
    mesh = Mesh(redis_url)
    one, two = (Proxy(tmp_path / name, redis_url, lean=True) for name in ("one", "two"))
    with (
        Upstream(saying(200, "v1")) as v1,
        Upstream(saying(200, "v2")) as v2,
        Upstream(saying(200, "v3")) as v3,
        running(one, two),
    ):

        def apply(weights: str) -> dict[str, str]:
            ran = mitmesh(
                "apply", "-f", "-", "--wait", "20s",
                stdin=f'service: web\nendpoints: {{v1: ["{v1.address}"], v2: ["{v2.address}"], v3: ["{v3.address}"]}}\n'
                f"to: {weights}\nsticky: {{header: x-user}}",
            )  # fmt: skip
            assert ran.code == 0, ran.err
            seen = []
            for proxy in (one, two):
                proxy.in_force(mesh, mesh.stored().revision)
                with Client(proxy.port) as client:
                    seen.append({user: client.get("http://web/", x_user=user).text for user in USERS})
            assert seen[0] == seen[1]
            return seen[0]

        first = apply("{v1: 60, v2: 20, v3: 20}")
        assert "stretches" not in mesh.stored().documents["web"]
        second = apply("{v1: 30, v2: 20, v3: 50}")
        assert "stretches" in mesh.stored().documents["web"]
        assert {(first[user], second[user]) for user in USERS if first[user] != second[user]} == {
            ("v1", "v3")
        }
        assert mitmesh("apply", "-f", "-", stdin=mitmesh("get", "web").out).out.startswith("web: unchanged")
        # What the same file says again is nothing new.
        assert apply("{v1: 30, v2: 20, v3: 50}") == second
        assert mesh.stored().revision == 2
