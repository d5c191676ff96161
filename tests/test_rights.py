"""The rights of docs/security.md on real servers: each user can do what is its business, and nothing else."""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from control.store import Hint, NodeReport, Store, StoreError
from tests.conftest import Valkey
from tests.test_store_servers import act_as_operator, act_as_proxy

ROOT = Path(__file__).parent.parent


def documented_users() -> dict[str, list[str]]:
    """User -> its rules, a selector as one of them."""
    text = (ROOT / "docs" / "security.md").read_text()
    lines = re.findall(r"^    ACL SETUSER (\S+) (on .*)$", text, re.MULTILINE)
    return {user: re.findall(r"\(.*?\)|\S+", rights) for user, rights in lines}


USERS = documented_users()


def test_every_user_is_documented() -> None:
    assert list(USERS) == ["proxy", "web", "ca", "operator", "proxy-6"]


@pytest.fixture(params=["valkey_server", "redis_server"])
def server(request: pytest.FixtureRequest) -> Valkey:
    server: Valkey = request.getfixturevalue(request.param)
    server.command("FLUSHALL")
    for user, rights in USERS.items():
        server.command("ACL", "SETUSER", user, "reset", *rights)
    return server


@pytest.fixture
async def stores(server: Valkey) -> AsyncIterator[dict[str, Store]]:
    opened = {user: Store(server.url.replace("//", f"//{user}:SECRET@")) for user in USERS}
    yield opened
    for store in opened.values():
        await store.close()


async def act_for_certificates(proxy: Store, ca: Store) -> None:
    """What passes between a proxy and the authority."""
    await ca.set_bundle("bundle")
    assert await proxy.bundle() == await ca.bundle() == "bundle"
    await proxy.ask_certificate("request")
    [(entry, text)] = await ca.certificate_requests()
    assert text == "request"
    assert await proxy.certificate_answer("0a") is None
    await ca.tell_refusal("web", "n", "reason")
    await ca.answer_certificate(entry, "0a", "answer")
    assert await proxy.certificate_answer("0a") == "answer"
    assert await ca.certificate_requests() == []
    await proxy.ask_certificate("rubbish")
    [(entry, _)] = await ca.certificate_requests()
    await ca.answer_certificate(entry, "", "")
    await ca.tell_authority({"started": "1"}, 30)


@pytest.mark.parametrize("user", ["proxy", "web", "proxy-6"])
async def test_proxies_do_their_work(stores: dict[str, Store], user: str) -> None:
    proxy, operator = stores[user], stores["operator"]
    async with aclosing(proxy.hints()) as hints:
        await anext(hints)
        await act_as_operator(operator)
        assert isinstance(await anext(hints), Hint)
    await act_as_proxy(proxy, await operator.revision(), "web-1")
    await act_for_certificates(proxy, stores["ca"])
    await proxy.forget("web-1")


async def test_operators_and_the_authority_do_theirs(stores: dict[str, Store]) -> None:
    operator, ca = stores["operator"], stores["ca"]
    async with aclosing(operator.hints()) as hints:
        assert await anext(hints) is None
        await act_as_operator(operator)
    await stores["proxy"].report(NodeReport("n:1", "a", 1), 30)
    await act_for_certificates(stores["proxy"], ca)
    for store in (operator, ca):
        assert [node.id for node in await store.nodes()] == ["n:1"]
    assert len(await operator.progress(["n:1"])) == 1
    assert [each.reason for each in await operator.refusals()] == ["reason"]
    assert await operator.authority() == {"started": "1"}


WRITES = [
    ("SET", "{mesh}:revision", "1"),
    ("HSET", "{mesh}:policy", "web", "{}"),
    ("HDEL", "{mesh}:policy", "web"),
    ("DEL", "{mesh}:policy"),
    ("XADD", "{mesh}:history", "*", "a", "b"),
    ("PUBLISH", "{mesh}:changes", "{}"),
    ("SET", "{mesh}:bundle", "x"),
    ("DEL", "{mesh}:bundle"),
    ("HSET", "{mesh}:ca", "started", "1"),
    ("SET", "{mesh}:ca:answer:0a", "x"),
    ("XADD", "{mesh}:ca:refusals", "*", "a", "b"),
    ("HSET", "{mesh}:canary:web", "state", "x"),
    ("HSET", "{mesh}:node:web-1", "service", "x"),
    ("HSET", "{mesh}:node:bank-1", "service", "x"),
    ("DEL", "{mesh}:node:bank-1"),
    ("XADD", "{mesh}:ca:requests", "*", "request", "x"),
    ("XDEL", "{mesh}:ca:requests", "1-1"),
    ("SET", "other", "x"),
    ("SET", "{other}:bundle", "x"),
    ("FLUSHALL",),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("ACL", "SETUSER", "proxy", "allkeys"),
    ("KEYS", "*"),
    ("MONITOR",),
]
MAY = {
    "proxy": {"HSET {mesh}:node:web-1", "HSET {mesh}:node:bank-1", "DEL {mesh}:node:bank-1", "XADD {mesh}:ca:requests"},
    "web": {"HSET {mesh}:node:web-1", "XADD {mesh}:ca:requests"},
    "ca": {
        "SET {mesh}:bundle",
        "HSET {mesh}:ca",
        "SET {mesh}:ca:answer:0a",
        "XADD {mesh}:ca:refusals",
        "XADD {mesh}:ca:requests",
        "XDEL {mesh}:ca:requests",
    },
    "operator": {
        "SET {mesh}:revision",
        "HSET {mesh}:policy",
        "HDEL {mesh}:policy",
        "XADD {mesh}:history",
        "PUBLISH {mesh}:changes",
        "HSET {mesh}:canary:web",
    },
}  # fmt: skip


@pytest.mark.parametrize("user", MAY)
def test_nothing_else_can_be_written(server: Valkey, user: str) -> None:
    allowed = set()
    for command in WRITES:
        answer = server.command("ACL", "DRYRUN", user, *command)
        if answer == b"+OK\r\n":
            allowed.add(" ".join(command[:2]))
        else:
            assert b"permission" in answer, answer
    assert allowed == MAY[user]


@pytest.mark.parametrize("user", ["proxy", "web", "ca"])
async def test_no_policy_is_written_by_any_way(stores: dict[str, Store], user: str) -> None:
    await act_as_operator(stores["operator"])
    before = await stores["operator"].read()
    with pytest.raises(StoreError, match="this user may not"):
        await stores[user].change(lambda stored: {"a": "x"}, author="me", message="")
    assert await stores["operator"].read() == before
