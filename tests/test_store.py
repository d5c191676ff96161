"""The store's operations on real servers: what is written, what is read, and that nothing is lost between writers."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.store import Change, Entry, Hint, NodeReport, Store, Stored, StoreError, Update
from tests.conftest import Valkey

ROOT = __file__.rpartition("/tests/")[0]


@pytest.fixture(params=["valkey_server", "redis_server"])
def server(request: pytest.FixtureRequest) -> Valkey:
    found: Valkey = request.getfixturevalue(request.param)
    found.command("FLUSHALL")
    return found


@pytest.fixture
async def store(server: Valkey) -> AsyncIterator[Store]:
    opened = Store(server.url)
    yield opened
    await opened.close()


async def put(store: Store, message: str = "", **documents: str | None) -> Change:
    return await store.change(lambda stored: documents, author="me", message=message)


async def test_fresh(store: Store) -> None:
    assert await store.revision() == 0
    assert await store.read() == Stored(0, {})
    assert (await store.read_since(0, None)).documents == {}
    assert await store.history() == []
    assert await store.nodes() == []
    assert await store.at(0) == {}


async def test_change(store: Store, server: Valkey) -> None:
    assert await put(store, a="1", b="2") == Change(1, {"a": (None, "1"), "b": (None, "2")})
    assert await put(store, a="3", b="2", c=None) == Change(2, {"a": ("1", "3")})
    assert await put(store, b=None) == Change(3, {"b": ("2", None)})
    assert await store.read() == Stored(3, {"a": "3"})
    assert await store.revision() == 3
    assert server.command("GET", "{mesh}:revision") == b"$1\r\n3\r\n"
    assert server.command("HGET", "{mesh}:policy", "a") == b"$1\r\n3\r\n"


async def test_nothing_to_change(store: Store) -> None:
    await put(store, a="1")
    hints = store.hints()
    await anext(hints)
    for documents in ({"a": "1"}, {}, {"b": None}):
        assert await put(store, **documents) == Change(1, {})
    await put(store, a="2")
    assert (await anext(hints)).revision == 2  # type: ignore[union-attr]
    assert [entry.revision for entry in await store.history()] == [2, 1]
    await hints.aclose()


async def test_edit_refuses(store: Store) -> None:
    def refuse(stored: Stored) -> dict[str, str]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await store.change(refuse, author="me", message="")
    assert await store.revision() == 0


async def test_edit_is_called_again_on_conflict(store: Store, server: Valkey) -> None:
    seen: list[int] = []

    def append(stored: Stored) -> dict[str, str]:
        return {"a": stored.documents.get("a", "") + "x"}

    def edit(stored: Stored) -> dict[str, str]:
        seen.append(stored.revision)
        if len(seen) < 3:
            # Another writer comes and goes before this edit returns.
            assert start_writer(server.url, f"b{len(seen)}", 1).wait(30) == 0
        return append(stored)

    await put(store, a="other")
    change = await store.change(edit, author="me", message="")
    assert seen == [1, 2, 3]
    assert change == Change(4, {"a": ("other", "otherx")})


async def test_history(store: Store) -> None:
    await put(store, "één\nzwei", a="1", b="2")
    await put(store, "second", a=None)
    await put(store, "third", b="ü\x00\n")
    third, second, first = await store.history()
    assert first == Entry(1, first.time, "me", "één\nzwei", {"a": (None, "1"), "b": (None, "2")})
    assert (second.changes, third.changes) == ({"a": ("1", None)}, {"b": ("2", "ü\x00\n")})
    assert first.time <= second.time <= third.time
    assert [entry.revision for entry in await store.history(limit=2)] == [3, 2]
    assert [entry.revision for entry in await store.history("a")] == [2, 1]
    assert [entry.revision for entry in await store.history("a", limit=1)] == [2]
    assert await store.history("none") == []


async def test_history_beyond_a_page(store: Store, server: Valkey) -> None:
    for number in range(130):
        await put(store, rare=str(number // 65), often=str(number))
    assert [entry.revision for entry in await store.history("rare")] == [66, 1]
    assert len(await store.history(limit=120)) == 120
    assert server.command("XLEN", "{mesh}:history") == b":130\r\n"


async def test_history_is_capped(store: Store, server: Valkey) -> None:
    entry = ["author", "me", "message", "", "time", "0", "changes", "{}"]
    for revision in range(1, 1500):
        server.command("XADD", "{mesh}:history", f"{revision}-0", *entry)
    server.command("SET", "{mesh}:revision", "1499")
    await put(store, a="1")
    length = int(server.command("XLEN", "{mesh}:history")[1:])
    assert 1000 <= length <= 1100
    assert await store.at(1500 - length) == {}
    with pytest.raises(StoreError, match=f"revision {1499 - length} is out of reach.* {1500 - length} only"):
        await store.at(1499 - length)
    # A proxy that far behind gets everything.
    assert await store.read_since(3, None) == Update(1500, {"a": "1"}, full=True)


async def test_at(store: Store) -> None:
    states: list[dict[str, str]] = [{}]
    for documents in ({"a": "1", "b": "1"}, {"a": "2"}, {"b": None}, {"a": None, "c": "1"}, {"b": "9"}):
        await put(store, **documents)
        states.append((await store.read()).documents)
    for revision, state in enumerate(states):
        assert await store.at(revision) == state
    for revision in (-1, 6):
        with pytest.raises(StoreError, match=f"no revision {revision}: the newest is 5"):
            await store.at(revision)


DOCUMENTS = st.dictionaries(st.sampled_from("abcd"), st.one_of(st.none(), st.text(max_size=3)), max_size=4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(DOCUMENTS, max_size=8), data=st.data())
async def test_reading_since_equals_reading_all(
    store: Store, server: Valkey, changes: list[dict[str, str | None]], data: st.DataObject
) -> None:
    """From any revision on, with the hint or without, a reader ends where a full read would."""
    server.command("FLUSHALL")
    states = [await store.read()]
    hints: list[Hint | None] = [None]
    for documents in changes:
        change = await put(store, **documents)
        if change.changed:
            hints.append(Hint(change.revision, tuple(change.changed)))
            states.append(await store.read())
    known = data.draw(st.sampled_from(states))
    # The hint may be an old one: it must not mislead.
    update = await store.read_since(known.revision, data.draw(st.sampled_from(hints)))
    documents = {} if update.full else dict(known.documents)
    documents |= update.documents  # type: ignore[arg-type]
    assert (update.revision, {name: text for name, text in documents.items() if text is not None}) == (
        states[-1].revision,
        states[-1].documents,
    )


async def test_reading_since(store: Store, server: Valkey) -> None:
    await put(store, a="1", b="1")
    await put(store, a="2")
    await put(store, b=None)
    assert await store.read_since(3, None) == Update(3, {}, full=False)
    assert await store.read_since(2, Hint(3, ("b",))) == Update(3, {"b": None}, full=False)
    assert await store.read_since(2, None) == Update(3, {"b": None}, full=False)
    # Hints of other revisions than the next one say nothing.
    assert await store.read_since(2, Hint(2, ("a",))) == Update(3, {"b": None}, full=False)
    assert await store.read_since(1, Hint(3, ("b",))) == Update(3, {"a": "2", "b": None}, full=False)
    # Redis is behind: it was flushed, or an older copy came back.
    assert await store.read_since(4, Hint(5, ("a",))) == Update(3, {"a": "2"}, full=True)
    # The history has a hole.
    server.command("XDEL", "{mesh}:history", "2-0")
    assert await store.read_since(1) == Update(3, {"a": "2"}, full=True)
    assert await store.read_since(2) == Update(3, {"b": None}, full=False)
    server.command("DEL", "{mesh}:history")
    assert await store.read_since(2, None) == Update(3, {"a": "2"}, full=True)
    server.command("FLUSHALL")
    assert await store.read_since(3, None) == Update(0, {}, full=True)


@pytest.mark.parametrize("changes", ["nonsense", "[]", "7", '{"a":1}', "{" * 2000])
async def test_history_written_by_hand(store: Store, server: Valkey, changes: str) -> None:
    await put(store, a="1")
    server.command("XADD", "{mesh}:history", "2-0", "changes", changes)
    server.command("SET", "{mesh}:revision", "2")
    update = await store.read_since(1, None)
    assert (update.revision, {**update.documents, "a": "1"}) == (2, {"a": "1"})
    assert [entry.revision for entry in await store.history()] == [1]
    with pytest.raises(StoreError, match="out of reach"):
        await store.at(1)


async def test_edits_by_hand_are_seen_by_a_full_read(store: Store, server: Valkey) -> None:
    await put(store, a="1")
    server.command("HSET", "{mesh}:policy", "a", b"\xff{", b"\xfe", "x")
    assert await store.read() == Stored(1, {"a": "\ufffd{", "\ufffd": "x"})
    assert await put(store, a="2") == Change(2, {"a": ("\ufffd{", "2")})


async def test_scripts_are_sent_again_when_the_server_forgot_them(store: Store, server: Valkey) -> None:
    await put(store, a="1")
    server.command("SCRIPT", "FLUSH")
    await put(store, a="2")
    assert (await store.read()).revision == 2


async def test_many_services(store: Store) -> None:
    documents = {f"service-{number}": "x" * 500 for number in range(5000)}
    await put(store, **documents)
    assert (await store.read()).documents == documents
    assert await store.read_since(0, Hint(1, tuple(documents))) == Update(1, dict(documents), full=True)
    assert await store.at(0) == {}


async def test_large_documents(store: Store) -> None:
    documents = {f"service-{number}": str(number) * 20_000 for number in range(30)}
    await put(store, **documents)
    await put(store, other="1")
    assert await store.read_since(0) == Update(2, documents | {"other": "1"}, full=True)
    assert await store.read_since(1) == Update(2, {"other": "1"}, full=False)


async def test_meshes_are_apart(store: Store, server: Valkey) -> None:
    other = Store(server.url, "other")
    await put(store, a="1")
    await put(other, b="1")
    await other.report(NodeReport("n", "b", 1), 30)
    assert (await store.read()).documents == {"a": "1"}
    assert await store.nodes() == []
    assert len(await other.nodes()) == 1
    await other.close()


async def test_nodes(store: Store, server: Valkey) -> None:
    reports = [
        NodeReport(
            f"host:{number}",
            "a",
            number,
            "",
            "0.1",
            1.25,
            ("127.0.0.1:1", "[::1]:2"),
            extra={"traffic": "{}", "breakers": "[]"},
        )
        for number in range(3)
    ]
    for report in reports:
        await store.report(report, 30)
    await store.report(NodeReport("host:1", "a", 0, error="reviews: bad"), 10)
    server.command("SET", "{mesh}:node:text", "x")
    server.command("HSET", "{mesh}:node:hand", "revision", "x")
    found = {node.id: node for node in await store.nodes()}
    assert sorted(found) == ["host:0", "host:1", "host:2"]
    assert found["host:1"].error == "reviews: bad"
    for report in (reports[0], reports[2]):
        assert (
            NodeReport(
                **{name: getattr(report, name) for name in report.__slots__} | {"seen": found[report.id].seen}
            )
            == found[report.id]
        )
    assert sorted(await store.node_ids()) == ["hand", "host:0", "host:1", "host:2", "text"]
    assert await store.progress(["host:2", "gone", "host:1", "text", "hand"]) == {
        "host:2": (2, ""),
        "host:1": (0, "reviews: bad"),
    }
    assert await store.progress([]) == {}
    assert 0 < int(server.command("PTTL", "{mesh}:node:host:2")[1:]) <= 30_000
    await store.forget("host:2")
    assert await store.progress(["host:2"]) == {}


async def test_seen_tells_the_age_whatever_the_clocks(store: Store, server: Valkey) -> None:
    await store.report(NodeReport("n", "a", 1, seen=5.0), 30)
    server.command("PEXPIRE", "{mesh}:node:n", "20000")
    before = time.time()
    (node,) = await store.nodes()
    assert before - 10 - 1 < node.seen < time.time() - 10 + 1


async def test_a_report_expires(store: Store) -> None:
    await store.report(NodeReport("n", "a", 1), 0.02)
    while await store.progress(["n"]):
        pass
    assert await store.nodes() == []


async def test_more_nodes_than_a_batch(store: Store) -> None:
    await asyncio.gather(
        *(store.report(NodeReport(f"n{number:04}", "a", number), 30) for number in range(90))
    )
    for number in range(90, 1100):
        await store.report(NodeReport(f"n{number:04}", "a", number), 30)
    assert [node.revision for node in await store.nodes()] == list(range(1100))


WRITER = """
import asyncio, sys
from control.store import Store

async def main(url, name, count):
    store = Store(url)
    for number in range(int(count)):
        def edit(stored):
            total = int(stored.documents.get("total", "0")) + 1
            return {"total": str(total), "same": str(total), name: str(number)}
        await store.change(edit, author=name, message=f"{name} {number}")
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


def start_writer(url: str, name: str, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, url, name, str(count)], cwd=ROOT)


async def test_no_writer_loses_a_change_and_no_reader_sees_half_of_one(store: Store, server: Valkey) -> None:
    names = [f"writer-{number}" for number in range(8)]
    writers = [start_writer(server.url, name, 50) for name in names]
    try:
        known, mine = 0, dict[str, str | None]()
        while any(writer.poll() is None for writer in writers):
            stored = await store.read()
            assert (
                stored.documents.get("total", "0")
                == stored.documents.get("same", "0")
                == str(stored.revision)
            )
            update = await store.read_since(known, Hint(known + 1, ("total", "same")) if known % 2 else None)
            known, mine = update.revision, dict(update.documents) if update.full else mine | update.documents
            assert mine.get("total", "0") == mine.get("same", "0") == str(known)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert [writer.returncode for writer in writers] == [0] * 8
    stored = await store.read()
    assert stored == Stored(400, {"total": "400", "same": "400"} | dict.fromkeys(names, "49"))
    entries = await store.history(limit=1000)
    assert [entry.revision for entry in entries] == list(range(400, 0, -1))
    assert sorted(entry.message for entry in entries) == sorted(
        f"{name} {number}" for name in names for number in range(50)
    )
    assert all(
        entry.changes["total"]
        == (str(entry.revision - 1) if entry.revision > 1 else None, str(entry.revision))
        for entry in entries
    )
    assert (await store.at(123))["total"] == "123"
