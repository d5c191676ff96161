"""status and watch, with real reports and a real Valkey that dies and comes back."""

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from control.breakers import Ejected, write_breakers
from control.commands import following
from control.commands.following import since
from control.store import Store
from tests.cli import MITMESH, ROOT, Mitmesh, mitmesh_fixture, node  # noqa: F401
from tests.conftest import Valkey


def report(url: str, *nodes: object) -> None:
    async def write() -> None:
        store = Store(url)
        for each in nodes:
            await store.report(each, 60.0)  # type: ignore[arg-type]
        await store.close()

    asyncio.run(write())


def test_status_of_nothing(mitmesh: Mitmesh) -> None:
    assert mitmesh("status").out == "mesh mesh: revision 0, 0 documents, 0 live nodes\n"
    assert json.loads(mitmesh("status", "--json").out) == {
        "mesh": "mesh",
        "revision": 0,
        "services": [],
        "timed": [],
        "nodes": [],
        "endpoints": [],
        "certificate_refusals": 0,
        "canaries": [],
    }


def test_status_says_what_expires(mitmesh: Mitmesh) -> None:
    text = (
        'service: a\nroutes: [{name: b, timeout: 1s, for: 1h, since: "2026-01-01T00:00:00Z"}]\n'
        "faults: [{abort: 503, for: 2h}]"
    )
    assert mitmesh("apply", "-f", "-", stdin=text).code == 0
    _, fault, route = mitmesh("status").out.splitlines()
    assert re.fullmatch(r"a: faults\[0\] expires in (119m|2h) \(.*Z\)", fault)
    assert re.fullmatch(r"a: b expired \d+d ago \(2026-01-01T01:00:00.000Z\)", route)
    first, second = json.loads(mitmesh("status", "--json").out)["timed"]
    assert (first["service"], first["place"], first["expired"]) == ("a", "faults[0]", False)
    ended = {"service": "a", "place": "b", "ends": "2026-01-01T01:00:00.000Z", "expired": True}
    assert second == ended


def test_status(mitmesh: Mitmesh, redis_url: str) -> None:
    mitmesh("apply", "-f", "-", stdin="{service: a, retry: 2}")
    now = time.time()
    report(
        redis_url,
        node("late", 0, "refused revision 1: a\nb", started=now - 7300, version="1.2"),
        node("fine", 1, service="", started=now - 30, addresses=("127.0.0.1:3000",)),
    )
    ran = mitmesh("status")
    first, heading, *rows = ran.out.splitlines()
    assert (ran.code, first) == (0, "mesh mesh: revision 1, 1 document, 2 live nodes")
    assert heading.split() == ["NODE", "SERVICE", "REVISION", "AGE", "SEEN", "VERSION", "ERROR"]
    assert rows[0].split() == ["fine", "-", "1", "30s", rows[0].split()[4], "-"]
    assert rows[1].split(maxsplit=7)[:5] == ["late", "web", "0", "(not", "current)"]
    assert "2h" in rows[1]
    assert rows[1].endswith("1.2      refused revision 1: a\\nb")
    data = json.loads(mitmesh("status", "--json").out)
    fine, late = data["nodes"]
    assert (data["revision"], data["services"]) == (1, ["a"])
    assert (fine["node"], fine["current"], fine["error"]) == ("fine", True, "")
    assert fine["addresses"] == ["127.0.0.1:3000"]
    assert fine["certificate"] is None
    assert 30 <= fine["age"] < 40
    assert 0 <= fine["seen"] < 10
    assert (late["current"], late["error"], late["version"]) == (False, "refused revision 1: a\nb", "1.2")


def test_certificates_that_are_near_their_end_and_refusals(mitmesh: Mitmesh, redis_url: str) -> None:
    now = time.time()

    def identity(
        obtained: float, not_after: float, name: str = "spiffe://mesh/service/web", error: str = ""
    ) -> dict:
        said = {"id": name, "obtained": obtained, "not_after": not_after, "root": "ab", "bundle": 1}
        return {"identity": json.dumps({**said, "error": error})}

    report(
        redis_url,
        node("a", extra=identity(now - 10, now + 7200)),
        node("b", extra=identity(now - 9000, now + 890, error="no answer")),
        node("c", extra=identity(now - 9000, now - 1)),
        node("d", extra=identity(0, 0, name="", error="refused")),
        node("e"),
        node("f", extra={"identity": "[]"}),
    )

    async def refuse() -> None:
        store = Store(redis_url)
        for number in range(2):
            await store.tell_refusal("web", "n1", f"reason {number}")
        await store.close()

    asyncio.run(refuse())
    ran = mitmesh("status")
    heading, *rows = ran.out.splitlines()[1:]
    assert heading.split()[-2:] == ["CERTIFICATE", "ERROR"]
    for row, said in zip(
        rows,
        ["119m left +-", "14m left, ending +no answer", "expired +-", "none yet +refused", "- +-", "- +-"],
        strict=True,
    ):
        assert re.search(f"{said}$", row), row
    assert ran.err.startswith("warning: 2 certificate requests were refused, the last ")
    assert ran.err.endswith("ago, web at n1: reason 1 (`mitmesh ca status`)\n")
    data = json.loads(mitmesh("status", "--json").out)
    assert data["certificate_refusals"] == 2
    certificate = data["nodes"][1]["certificate"]
    assert (certificate["ending"], certificate["error"], certificate["root"]) == (True, "no answer", "ab")
    assert 840 < certificate["left"] <= 890


def test_status_of_breakers(mitmesh: Mitmesh, redis_url: str) -> None:
    ejected = [
        Ejected("reviews", "10.0.0.1:80", "open", 4.0, 6.0, 1),
        Ejected("", "10.0.0.2:80", "open", 40.0, 0.0, 3),
        Ejected("reviews", "10.0.0.3:80", "half-open", 0.1, 0.0, 2),
    ]
    report(redis_url, node("one", 0, extra={"breakers": write_breakers(ejected)}), node("two", 0))
    _, _, *rows = mitmesh("status").out.splitlines()
    blank = rows.index("")
    assert [row.split() for row in rows[blank + 1 :]] == [
        ["NODE", "SERVICE", "ENDPOINT", "BREAKER", "EJECTIONS"],
        ["one", "reviews", "10.0.0.1:80", "open,", "probed", "in", "6.0s", "1"],
        ["one", "-", "10.0.0.2:80", "open,", "the", "next", "request", "is", "a", "probe", "3"],
        ["one", "reviews", "10.0.0.3:80", "half-open", "2"],
    ]
    one, two = json.loads(mitmesh("status", "--json").out)["nodes"]
    assert one["breakers"] == [each.data() for each in ejected]
    assert two["breakers"] == []


class Watching:
    """`mitmesh watch` as a process of its own."""

    def __init__(self, url: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*MITMESH, "watch", *arguments],
            cwd=ROOT,
            env={**os.environ, "MITMESH_REDIS": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.err().startswith("watching redis://127.0.0.1:")

    def out(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def err(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def end(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, err


@pytest.fixture
def watching() -> Iterator[list[Watching]]:
    started: list[Watching] = []
    yield started
    for each in started:
        each.process.kill()
        each.process.communicate()


def test_watch(mitmesh: Mitmesh, redis_url: str, watching: list[Watching]) -> None:
    mitmesh("apply", "-f", "-", stdin="{service: before, retry: 2}")
    watching.append(Watching(redis_url))
    watching.append(Watching(redis_url, "--json"))
    mitmesh("apply", "-f", "-", "-m", "why\x1b", stdin="{service: b, retry: 2}\n---\n{service: a, retry: 2}")
    mitmesh("delete", "a")
    lines = [watching[0].out(), watching[0].out()]
    assert [line.split("  ")[0] for line in lines] == ["2", "3"]
    assert lines[0].endswith("  a, b  why\\x1b\n")
    assert lines[1].endswith("  a\n")
    data = [json.loads(watching[1].out()) for _ in lines]
    assert [entry["revision"] for entry in data] == [2, 3]
    assert data[0] == json.loads(mitmesh("history", "--json").out)[1]
    assert [each.end() for each in watching] == [(130, "", "")] * 2


def test_watch_survives_a_restart(mitmesh: Mitmesh, valkey: Valkey, watching: list[Watching]) -> None:
    there = ("--redis", valkey.url)
    mitmesh("apply", "-f", "-", *there, stdin="{service: a, retry: 2}")
    watching.append(watch := Watching(valkey.url))
    valkey.kill()
    lost = watch.err()
    assert lost.startswith("warning: cannot reach Redis at redis://127.0.0.1:")
    assert lost.endswith("trying again\n")
    valkey.start()
    mitmesh("apply", "-f", "-", *there, stdin="{service: a, retry: 3}")
    assert watch.out().startswith("2  ")
    assert watch.err() == "connected again\n"
    assert watch.end() == (130, "", "")


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    opened = Store(redis_url)
    yield opened
    await opened.close()


async def put(store: Store, tries: int) -> None:
    await store.change(lambda stored: {"a": f'{{"retry":{{"attempts":{tries}}}}}'}, author="me", message="")


async def test_what_was_missed(
    store: Store,
    valkey_server: Valkey,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await since(store, 0) == ([], 0)
    for tries in range(1, 31):
        await put(store, tries)
    assert await since(store, 30) == ([], 30)
    entries, last = await since(store, 5)
    assert ([entry.revision for entry in entries], last) == (list(range(6, 31)), 30)
    assert capsys.readouterr().err == ""

    # Others write while it looks: what it finds goes beyond the revision that it knows of.
    newest = store.revision

    async def behind() -> int:
        return 6

    monkeypatch.setattr(store, "revision", behind)
    entries, last = await since(store, 5)
    assert ([entry.revision for entry in entries], last) == (list(range(6, 31)), 30)
    monkeypatch.setattr(store, "revision", newest)
    assert capsys.readouterr().err == ""

    valkey_server.command("XTRIM", "{mesh}:history", "MAXLEN", "2")
    entries, last = await since(store, 25)
    assert ([entry.revision for entry in entries], last) == ([29, 30], 30)
    assert capsys.readouterr().err == "warning: no longer in the history: revisions 26 to 28\n"

    valkey_server.command("DEL", "{mesh}:history")
    assert await since(store, 29) == ([], 30)
    assert capsys.readouterr().err == "warning: no longer in the history: revisions 30 to 30\n"

    valkey_server.command("FLUSHALL")
    assert await since(store, 30) == ([], 0)
    assert "went back from 30 to 0" in capsys.readouterr().err


async def test_a_lost_publication_is_found_out(
    store: Store,
    valkey_server: Valkey,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(following, "LOOK_AGAIN", 0.01)
    await put(store, 1)
    found = following.changes(store)
    coming = asyncio.ensure_future(anext(found))
    said = ""
    while "watching" not in said:
        await asyncio.sleep(0)
        said += capsys.readouterr().err
    # What a change writes, without what it publishes. The first may be seen in the look after subscribing.
    for revision in (2, 3):
        fields = ["time", "1.5", "author", "me", "message", "", "changes", '{"a":[null,"{}"]}']
        valkey_server.command("XADD", "{mesh}:history", f"{revision}-0", *fields)
        valkey_server.command("SET", "{mesh}:revision", str(revision))
        entry = await coming
        assert (entry.revision, list(entry.changes)) == (revision, ["a"])
        coming = asyncio.ensure_future(anext(found))
    coming.cancel()
    await asyncio.wait({coming})
    await found.aclose()
