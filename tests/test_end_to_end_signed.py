"""Signed policy with a real proxy: what is not signed, altered or brought back in Redis never comes into force."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import Mitmesh, mitmesh_fixture  # noqa: F401
from tests.conftest import Valkey
from tests.mesh_process import Mesh, Proxy, eventually, get, running

pytestmark = pytest.mark.timeout(120)


def answer(body: str) -> str:
    return f"{{service: web, respond: {{status: 200, body: {body}}}}}"


@pytest.fixture
def key(mitmesh: Mitmesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert mitmesh("key", "init", "--out", str(tmp_path)).code == 0
    monkeypatch.setenv("MITMESH_POLICY_KEY", str(tmp_path / "policy.key"))
    return tmp_path / "policy.pub"


@pytest.fixture(params=[True, False], ids=["lean", "mitmdump"])
def proxy(
    request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, key: Path, mitmesh: Mitmesh
) -> Iterator[Proxy]:
    assert mitmesh("apply", "-f", "-", stdin=answer("one")).code == 0
    options = {"mesh_policy_key": str(key), "mesh_cache": str(tmp_path / "cache")}
    started = Proxy(tmp_path / "proxy", redis_url, lean=request.param, options=options)
    with running(started):
        started.in_force(Mesh(redis_url), 1)
        yield started


def body(proxy: Proxy) -> str:
    return get(proxy.port, "http://web/").text


def refused(proxy: Proxy, mesh: Mesh, reason: str) -> None:
    """It says so, in the log and in its report."""
    said = f"{reason} (mesh_policy_key)"
    eventually(lambda: (node := mesh.nodes().get(proxy.node)) and node.error.endswith(said), within=40)
    assert reason in proxy.console()


def test_only_what_is_signed_comes_into_force(
    proxy: Proxy, mitmesh: Mitmesh, valkey_server: Valkey, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = Mesh(redis_url)
    redis = valkey_server.command
    assert body(proxy) == "one"
    first = mesh.stored()
    ran = mitmesh("apply", "-f", "-", "--wait", "20s", stdin=answer("two"))
    assert ran.code == 0, ran
    assert body(proxy) == "two"
    second = mesh.stored()

    # Without the key.
    monkeypatch.delenv("MITMESH_POLICY_KEY")
    ran = mitmesh("apply", "-f", "-", stdin=answer("evil"))
    assert (ran.code, "the policy of this mesh is signed: say with which key" in ran.err) == (1, True)

    # A document changed behind everybody's back, and announced.
    evil = first.documents["web"].replace("one", "evil")
    redis("HSET", "{mesh}:policy", "web", evil)
    redis("SET", "{mesh}:revision", "3")
    redis("PUBLISH", "{mesh}:changes", '{"revision": 3, "services": ["web"]}')
    refused(proxy, mesh, "refused revision 3: it is not what was signed as revision 2")
    assert body(proxy) == "two"

    # Yesterday's policy with yesterday's signature.
    redis("HSET", "{mesh}:policy", "web", first.documents["web"])
    redis("SET", "{mesh}:signature", first.signature)
    redis("SET", "{mesh}:revision", "1")
    redis("PUBLISH", "{mesh}:changes", '{"revision": 1, "services": ["web"]}')
    refused(
        proxy, mesh, "it was signed before revision 2, which is in force: somebody put back an older policy"
    )
    assert body(proxy) == "two"

    # One old document under the newest signature; one document deleted; no signature at all.
    redis("SET", "{mesh}:revision", "2")
    redis("SET", "{mesh}:signature", second.signature)
    redis("PUBLISH", "{mesh}:changes", '{"revision": 2, "services": ["web"]}')
    refused(proxy, mesh, "refused revision 2: it is not what was signed as revision 2")
    redis("SET", "{mesh}:revision", "4")
    redis("DEL", "{mesh}:signature")
    redis("PUBLISH", "{mesh}:changes", '{"revision": 4, "services": ["web"]}')
    refused(proxy, mesh, "refused revision 4: it is not signed")
    assert body(proxy) == "two"
    assert "it is not signed" in mitmesh("status").out

    # The command does not build on it either.
    monkeypatch.setenv("MITMESH_POLICY_KEY", str(proxy.folder.parent / "policy.key"))
    ran = mitmesh("apply", "-f", "-", stdin="{service: other, retry: 2}")
    assert ran.code == 1
    assert (
        "the policy in Redis is not to be trusted, it is not signed: look at it with `mitmesh get`" in ran.err
    )

    # All is well again.
    redis("HSET", "{mesh}:policy", "web", second.documents["web"])
    assert mitmesh("key", "sign").code == 0
    eventually(lambda: mesh.nodes()[proxy.node].error == "")
    assert mitmesh("apply", "-f", "-", "--wait", "20s", stdin=answer("three")).code == 0
    assert body(proxy) == "three"
    assert mitmesh("delete", "web", "--wait", "20s").code == 0


def test_back_to_what_was_signed(
    proxy: Proxy, mitmesh: Mitmesh, valkey_server: Valkey, redis_url: str
) -> None:
    assert mitmesh("apply", "-f", "-", "--wait", "20s", stdin=answer("two")).code == 0
    valkey_server.command("HSET", "{mesh}:policy", "web", "{}")
    valkey_server.command("HSET", "{mesh}:policy", "evil", "{}")
    assert "is not to be trusted" in mitmesh("apply", "-f", "-", stdin="{service: x, retry: 2}").err
    ran = mitmesh("rollback", "2", "--wait", "20s")
    assert (ran.code, ran.out.splitlines()[:2]) == (0, ["evil: deleted", "web: changed"]), ran
    assert body(proxy) == "two"
    assert mitmesh("rollback", "1", "--wait", "20s").code == 0
    assert body(proxy) == "one"


def test_a_history_that_was_altered_is_not_signed(
    mitmesh: Mitmesh, key: Path, valkey_server: Valkey, redis_url: str
) -> None:
    for each in ("one", "two"):
        assert mitmesh("apply", "-f", "-", stdin=answer(each)).code == 0
    mesh = Mesh(redis_url)
    entries = mesh.use(lambda store: store.history())
    changes = {"web": (entries[0].changes["web"][0].replace("one", "evil"), entries[0].changes["web"][1])}
    made = {"web": (None, changes["web"][0])}
    fields = {"revision": "2", "time": "1", "author": "x", "message": "", "changes": json.dumps(changes)}
    valkey_server.command("DEL", "{mesh}:history")
    first = {
        **fields,
        "revision": "1",
        "changes": json.dumps(made),
        "signature": entries[1].signature,
    }
    for number, entry in (("1", first), ("2", {**fields, "signature": entries[0].signature})):
        valkey_server.command(
            "XADD", "{mesh}:history", f"{number}-0", *(x for pair in entry.items() for x in pair)
        )
    ran = mitmesh("rollback", "1")
    assert ran.code == 1
    assert (
        "revision 1 is not to be trusted as the history has it, it is not what was signed as revision 1"
        in ran.err
    )


def test_an_older_policy_is_not_taken_after_a_start(
    tmp_path: Path, mitmesh: Mitmesh, key: Path, valkey_server: Valkey, redis_url: str
) -> None:
    """The cache remembers what was in force."""
    mesh = Mesh(redis_url)
    assert mitmesh("apply", "-f", "-", stdin=answer("one")).code == 0
    first = mesh.stored()
    options = {"mesh_policy_key": str(key), "mesh_cache": str(tmp_path / "cache")}
    proxy = Proxy(tmp_path / "proxy", redis_url, lean=True, options=options)
    with running(proxy):
        proxy.in_force(mesh, 1)
        assert mitmesh("apply", "-f", "-", "--wait", "20s", stdin=answer("two")).code == 0
        eventually(lambda: "two" in (tmp_path / "cache").read_text())
    redis = valkey_server.command
    redis("HSET", "{mesh}:policy", "web", first.documents["web"])
    redis("SET", "{mesh}:signature", first.signature)
    redis("SET", "{mesh}:revision", "1")
    with running(proxy):
        refused(proxy, mesh, "somebody put back an older policy")
        assert body(proxy) == "two"


def test_keys_and_files_that_are_none(
    mitmesh: Mitmesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = mitmesh("key", "init", "--out", str(tmp_path))
    assert (tmp_path / "policy.key").stat().st_mode & 0o777 == 0o600
    ran = mitmesh("key", "init", "--out", str(tmp_path))
    assert (ran.code, ran.err) == (
        1,
        f"error: there is a policy.key in {tmp_path} already; name another --out\n",
    )
    ran = mitmesh("key", "sign")
    assert ran.code == 2
    assert "say with which key" in ran.err
    for file, said in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path / "policy.pub", "is open to others (mode 0644): chmod 0600"),
    ):
        ran = mitmesh("--policy-key", str(file), "apply", "-f", "-", stdin=answer("x"))
        assert (ran.code, ran.err.startswith(f"error: --policy-key {file}: ")) == (1, True)
        assert said in ran.err
