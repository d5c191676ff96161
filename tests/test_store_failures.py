"""When Redis is gone, refuses, or holds nonsense: one line for a person, nothing half written, nothing leaked."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from control.store import NodeReport, Store, StoreError
from control.store_server import Target, describe, hide_password, parse_target
from tests.conftest import StartValkey, Valkey, free_port

Use = Callable[[Store], Awaitable[object]]

USES: dict[str, Use] = {
    "revision": lambda store: store.revision(),
    "read": lambda store: store.read(),
    "read_since": lambda store: store.read_since(7, None),
    "change": lambda store: store.change(lambda stored: {"a": "new"}, author="me", message=""),
    "history": lambda store: store.history(),
    "at": lambda store: store.at(0),
    "report": lambda store: store.report(NodeReport("n", "a", 1), 1),
    "forget": lambda store: store.forget("n"),
    "node_ids": lambda store: store.node_ids(),
    "nodes": lambda store: store.nodes(),
    "progress": lambda store: store.progress(["n"]),
    "hints": lambda store: anext(store.hints()),
}
READ, CHANGE = USES["read"], USES["change"]


async def failure(url: str, use: Use = READ, mesh: str = "mesh") -> str:
    """What the store says when `use` fails."""
    store = Store(url, mesh)
    try:
        with pytest.raises(StoreError) as caught:
            await use(store)
    finally:
        await store.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_nobody_listens(use: Use) -> None:
    port = free_port()
    assert await failure(f"redis://user:secret@127.0.0.1:{port}/0", use) == (
        f"cannot reach Redis at redis://user:***@127.0.0.1:{port}/0: connection refused; "
        "start one or name another with --redis URL (MITMESH_REDIS)"
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://localhost:{port}", "connection refused"),
        ("redis://no-such-host.invalid:{port}", "(name or service not known|.*name resolution)"),
        ("unix:///no/such/socket", "no such file or directory"),
        (
            "redis+sentinel://127.0.0.1:{port}/mymaster",
            "the sentinels know no primary named mymaster, or cannot be reached",
        ),
        ("redis+cluster://127.0.0.1:{port}", "connection refused"),
    ],
)
async def test_nothing_there(url: str, reason: str) -> None:
    said = await failure(url.format(port=free_port()))
    assert re.fullmatch(f"cannot reach Redis at [^ ]*: {reason}; start one or name another .*", said), said


async def test_a_server_that_does_not_answer(start_valkey: StartValkey) -> None:
    server = start_valkey()
    server.freeze()
    for use in (READ, CHANGE, USES["hints"], USES["node_ids"]):
        assert ": no answer in time; start one" in await failure(server.url + "?socket_timeout=0.1", use)


async def test_what_is_no_redis() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert f"cannot reach Redis at redis://127.0.0.1:{port}: " in await failure(
            f"redis://127.0.0.1:{port}"
        )
        assert "TLS failed: " in await failure(f"rediss://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", None),
        ("redis://user@h:6379/0", None),
        ("redis://[::1]:6379/0?ssl_ca_certs=/a@b", None),
        ("redis+sentinel://h1:1,h2:2/svc@x", None),
        ("redis://user:secret@h:1/0", "redis://user:***@h:1/0"),
        ("redis://:secret@h:1/0", "redis://:***@h:1/0"),
        ("redis://u:se/cr@et?@h:1/0", "redis://u:***@h:1/0"),
        ("redis://u:1234@h", "redis://u:***@h"),
        ("nonsense://u:secret@h", "nonsense://u:***@h"),
        ("redis+sentinel://u:secret@h1:1,h2:2/s", "redis+sentinel://u:***@h1:1,h2:2/s"),
        ("unix:///s?password=secret&db=1", "unix:///s?password=***&db=1"),
        ("redis+sentinel://h/s?sentinel_password=a%20b", "redis+sentinel://h/s?sentinel_password=***"),
    ],
)
def test_hide_password(url: str, shown: str | None) -> None:
    assert hide_password(url) == (shown or url)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://h", Target("single", "redis://h")),
        ("rediss://u:p@h:1/2?ssl_ca_certs=/x", Target("single", "rediss://u:p@h:1/2?ssl_ca_certs=/x")),
        ("unix:///run/x.sock?db=1", Target("single", "unix:///run/x.sock?db=1")),
        (
            "redis+sentinel://h1,h2:2/svc",
            Target("sentinel", "redis://h1:26379/", (("h1", 26379), ("h2", 2)), "svc"),
        ),
        (
            "rediss+sentinel://u:p@[::1]:5/svc/3?a=b",
            Target("sentinel", "rediss://u:p@[::1]:5/3?a=b", (("::1", 5),), "svc"),
        ),
        ("redis+cluster://h1:1,h2", Target("cluster", "redis://h1:1/", (("h1", 1), ("h2", 6379)))),
    ],
)
def test_parse_target(url: str, target: Target) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "h:1",
            "http://h",
            "redis+x://h",
            "unix+cluster://h",
            "redis://",
            "redis:///0",
            "unix://",
            "redis://h:x",
        ),
        *(
            "redis://h:70000",
            "redis://h:0",
            "redis://h/x",
            "redis://h/0/1",
            "redis+sentinel://h:1",
            "redis+cluster://",
        ),
        *(
            "redis+sentinel://h/svc/x",
            "redis+sentinel:///svc",
            "redis://u:secret@h:x",
            "redis://u:se/cret@h",
            "redis://u:se?cret@h",
        ),
        *(
            "redis://h?nosuch=1",
            "redis://h?db=x",
            "redis://h?protocol=9",
            "rediss://h?ssl_cert_reqs=x",
            "redis://[::1",
        ),
        *(
            "redis://u:secret\u2100@h",
            "redis+cluster://h:1/3",
            "redis+cluster://h?nosuch=1",
            "redis+sentinel://h/s?nosuch=1",
        ),
    ],
)
def test_a_url_that_cannot_be_right(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        Store(url)
    said = str(caught.value)
    assert said.startswith("cannot use the Redis URL ")
    assert "\n" not in said
    assert "secret" not in said.replace("/cret", "")
    assert "cret@" not in said


@pytest.mark.parametrize("mesh", ["", "a b", "{x}", "a*", "a" * 101, "é"])
def test_a_mesh_that_cannot_be_right(mesh: str) -> None:
    with pytest.raises(StoreError, match="no name of a mesh"):
        Store("redis://h", mesh)


async def test_passwords(start_valkey: StartValkey) -> None:
    server = start_valkey(options={"requirepass": "right"})
    where = f"127.0.0.1:{server.port}"
    for url, what in {
        f"redis://{where}": "it wants a password; put it into the URL",
        f"redis://:wrong@{where}": "wrong user or password; correct it",
        f"redis://nobody:right@{where}": "wrong user or password; correct it",
        f"redis://:right@{where}/99": "it has no database of this number; correct",
        f"redis+cluster://:right@{where}": "it is no cluster; write redis://",
    }.items():
        for use in (READ, CHANGE, USES["hints"]):
            assert f"cannot use Redis at {hide_password(url)}: {what}" in await failure(url, use)
    store = Store(f"redis://:right@{where}/3")
    assert await store.revision() == 0
    await store.close()


async def test_a_password_where_none_is_wanted(redis_url: str) -> None:
    assert "a password was given, but it has none; take it out" in await failure(
        redis_url.replace("//", "//:x@")
    )


SPOILED = [
    (["SET", "{mesh}:revision", "abc"], "read", "{mesh}:revision is no number but 'abc'; set it"),
    (["SET", "{mesh}:revision", "-1"], "read", "is no number but '-1'"),
    (["SET", "{mesh}:revision", "0x1"], "read_since", "is no number but '0x1'"),
    (["SET", "{mesh}:revision", "\u0661"], "revision", "is no number"),
    (["SET", "{mesh}:revision", "9" * 30], "change", "is no number but '999"),
    (["DEL", "{mesh}:revision"], "read", "{mesh}:revision is missing; set it"),
    (["DEL", "{mesh}:revision"], "read_since", "is missing"),
    (["DEL", "{mesh}:revision"], "change", "is missing"),
    (["RPUSH", "{mesh}:revision", "x"], "read", "{mesh}:revision is a list, not a string; rename or delete"),
    (["RPUSH", "{mesh}:policy", "x"], "read", "{mesh}:policy is a list, not a hash; rename or delete"),
    (["SET", "{mesh}:policy", "x"], "change", "{mesh}:policy is a string, not a hash"),
    (["SET", "{mesh}:history", "x"], "change", "{mesh}:history is a string, not a stream"),
    (["SET", "{mesh}:history", "x"], "history", "{mesh}:history is a string, not a stream"),
    (["SET", "{mesh}:node:n", "x"], "report", "one of the keys {mesh}:* is of another type"),
    (
        ["XADD", "{mesh}:history", "9-0", "a", "b"],
        "change",
        "{mesh}:history is ahead of {mesh}:revision; set",
    ),
]


@pytest.mark.parametrize("binary", ["valkey_server", "redis_server"])
@pytest.mark.parametrize(("spoil", "use", "said"), SPOILED)
async def test_keys_spoiled_by_hand(
    request: pytest.FixtureRequest, binary: str, spoil: list[str], use: str, said: str
) -> None:
    server: Valkey = request.getfixturevalue(binary)
    server.command("FLUSHALL")
    store = Store(server.url)
    await store.change(lambda stored: {"a": "1"}, author="me", message="")
    await store.close()
    if spoil[0] in ("RPUSH", "SET"):
        server.command("DEL", spoil[1])
    server.command(*spoil)
    before = dump(server)
    found = await failure(server.url, USES[use])
    assert said in found, found
    assert found.startswith(f"cannot use Redis at {server.url}: ")
    assert dump(server) == before


def dump(server: Valkey) -> list[bytes]:
    return [server.command("DUMP", f"{{mesh}}:{key}") for key in ("revision", "policy", "history")]


WRITES = ["publish", "xadd", "set", "hset", "hdel", "get", "hgetall"]


@pytest.mark.parametrize("binary", ["valkey_server", "redis_server"])
@pytest.mark.parametrize(
    "denied", [*(f"-{command}" for command in WRITES), "resetchannels", "-evalsha", "resetkeys ~{mesh}:p*"]
)
async def test_a_writer_without_a_right_writes_nothing(
    request: pytest.FixtureRequest, binary: str, denied: str
) -> None:
    server: Valkey = request.getfixturevalue(binary)
    server.command("FLUSHALL")
    store = Store(server.url)
    await store.change(lambda stored: {"a": "1", "b": "1"}, author="me", message="")
    server.command(
        "ACL", "SETUSER", "limited", "reset", "on", ">p", "~{mesh}:*", "&*", "+@all", *denied.split()
    )
    try:
        for documents in ({"c": "2"}, {"a": None}, {"a": "3", "b": None, "c": "1"}):
            before = dump(server)
            said = await failure(
                server.url.replace("//", "//limited:p@"),
                lambda store: store.change(lambda stored: documents, author="me", message=""),  # noqa: B023
            )
            assert re.search(
                r": this user may not (run|use the channel|use the keys) .*; docs/security.md", said
            ), said
            assert dump(server) == before
        assert (await store.change(lambda stored: {"c": "1"}, author="me", message="")).revision == 2
    finally:
        server.command("ACL", "DELUSER", "limited")
        await store.close()


async def test_rights_are_named(redis_url: str, valkey_server: Valkey) -> None:
    valkey_server.command(
        "ACL", "SETUSER", "limited", "reset", "on", ">p", "~{mesh}:*", "+@all", "-evalsha", "-scan", "-xadd"
    )
    url = redis_url.replace("//", "//limited:p@")
    assert ": this user may not run evalsha;" in await failure(url)
    assert ": this user may not run scan;" in await failure(url, USES["nodes"])
    assert ": this user may not use the channel {mesh}:changes;" in await failure(url, USES["hints"])
    valkey_server.command("ACL", "SETUSER", "limited", "+evalsha", "&*")
    assert ": this user may not run xadd;" in await failure(url, CHANGE)
    assert ": this user may not use the keys {other}:*;" in await failure(url, READ, "other")
    valkey_server.command("ACL", "DELUSER", "limited")


async def test_a_replica(start_valkey: StartValkey, valkey_server: Valkey) -> None:
    replica = start_valkey(options={"replicaof": f"127.0.0.1 {valkey_server.port}"})
    assert ": it is a read-only replica; name the primary" in await failure(replica.url, CHANGE)
    orphan = start_valkey(options={"replicaof": f"127.0.0.1 {free_port()}", "replica_serve_stale_data": "no"})
    assert ": it is a replica without its primary; name the primary" in await failure(orphan.url)


async def test_a_server_without_memory(start_valkey: StartValkey) -> None:
    server = start_valkey(options={"maxmemory": "1"})
    assert ": its memory is full; raise" in await failure(server.url, CHANGE)


async def test_a_server_that_is_loading(start_valkey: StartValkey) -> None:
    server = start_valkey(options={"rdbcompression": "no", "loading-process-events-interval-bytes": "1024"})
    for number in range(40):
        server.command("SET", f"key{number}", "x" * 2000)
    server.command("SAVE")
    server.kill()
    server.config.write_text(server.config.read_text() + "key-load-delay 50000\n")
    server.start(loaded=False)
    assert ": it is still loading its data; try again in a moment" in await failure(server.url)


async def test_too_few_replicas(start_valkey: StartValkey) -> None:
    server = start_valkey(options={"min-replicas-to-write": "1"})
    assert ": too few of its replicas are there" in await failure(server.url, CHANGE)


async def test_a_server_without_scripts(start_valkey: StartValkey) -> None:
    server = start_valkey(options={"rename-command": 'EVALSHA ""'})
    said = await failure(server.url)
    assert said.startswith(f"cannot use Redis at {server.url}: ")
    assert "unknown command" in said
    assert said.endswith("; docs/redis.md says what it needs")


def test_whatever_else_happens_is_one_line() -> None:
    assert describe(RuntimeError("a\nb"), "redis://h", "mesh").startswith(
        "cannot reach Redis at redis://h: a b; start"
    )
    assert "ValueError; start" in describe(ValueError(), "redis://h", "mesh")
