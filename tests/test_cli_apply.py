"""apply, validate, diff, get, delete, history and rollback, on a real Valkey."""

import asyncio
import getpass
import json
import re
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from control.commands.changing import change_in
from control.commands.planning import Plan, plan
from control.policy.errors import PolicyErrors
from control.policy.reading import Document, read_bytes
from control.store import Store
from tests.cli import Mitmesh, Ran, mitmesh_fixture  # noqa: F401
from tests.conftest import Valkey

TWO = """
service: reviews
hosts: [reviews.example]
endpoints: {v1: ["10.0.0.1:80"], v2: ["10.0.0.2:80"]}
to: {v1: 90, v2: 10}
---
service: ratings
retry: 3
"""


def revision(mitmesh: Mitmesh) -> int:
    found: int = json.loads(mitmesh("status", "--json").out)["revision"]
    return found


def test_apply_says_what_it_did(mitmesh: Mitmesh) -> None:
    assert mitmesh("apply", "-f", "-", stdin=TWO) == Ran(
        0, "ratings: created\nreviews: created\nrevision 1\n", ""
    )
    again = mitmesh("apply", "-f", "-", stdin=TWO)
    assert again == Ran(0, "ratings: unchanged\nreviews: unchanged\nnothing to do, revision 1\n", "")
    assert revision(mitmesh) == 1
    changed = mitmesh("apply", "-f", "-", stdin=TWO.replace("retry: 3", "retry: 4"))
    assert changed == Ran(0, "ratings: changed\nreviews: unchanged\nrevision 2\n", "")


def test_apply_json(mitmesh: Mitmesh) -> None:
    ran = mitmesh("apply", "-f", "-", "--json", stdin=TWO)
    said = {"revision": 1, "services": {"ratings": "created", "reviews": "created"}, "dry_run": False}
    assert json.loads(ran.out) == said


def test_dry_run_writes_nothing(mitmesh: Mitmesh) -> None:
    ran = mitmesh("apply", "-f", "-", "--dry-run", stdin=TWO)
    expected = "ratings: would be created\nreviews: would be created\ndry run, nothing written, revision 0\n"
    assert ran == Ran(0, expected, "")
    assert revision(mitmesh) == 0
    assert mitmesh("apply", "-f", "-", stdin=TWO).code == 0
    assert mitmesh("apply", "-f", "-", "--dry-run", stdin=TWO).out.endswith("nothing to do, revision 1\n")
    refused = mitmesh("apply", "-f", "-", "--dry-run", stdin="{service: x, hosts: [reviews.example]}")
    assert (refused.code, refused.err.count("\n")) == (1, 1)


def test_files_and_folders_together(mitmesh: Mitmesh, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.yaml").write_text("{service: a, retry: 2}")
    (tmp_path / "more" / "b.json").write_text('{"service": "b", "retry": 2}')
    (tmp_path / "c.yml").write_text("{service: c, retry: 2}")
    ran = mitmesh("apply", "-f", str(tmp_path / "more"), "--file", str(tmp_path / "c.yml"))
    assert ran.out == "a: created\nb: created\nc: created\nrevision 1\n"


def test_all_problems_at_once_and_nothing_written(mitmesh: Mitmesh, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("service: a\nretry: {attempts: 999}\n---\nservice: b\nretri: 2\n")
    (tmp_path / "two.yaml").write_text("service: c\ntimeout: 5\n")
    (tmp_path / "good.yaml").write_text("service: d\nretry: 2\n")
    for command in ("apply", "validate", "diff"):
        ran = mitmesh(command, "-f", str(tmp_path), "-f", str(tmp_path / "missing.yaml"))
        assert (ran.code, ran.out) == (2 if command == "diff" else 1, ""), command
        lines = ran.err.splitlines()
        assert len(lines) == 4, lines
        for line, parts in zip(
            lines,
            [
                ("one.yaml", "attempts", "at most 100"),
                ("one.yaml", "retri"),
                ("two.yaml", "timeout"),
                ("missing.yaml",),
            ],
            strict=True,
        ):
            assert all(part in line for part in parts), line
    assert revision(mitmesh) == 0


def test_host_claimed_in_redis(mitmesh: Mitmesh) -> None:
    assert mitmesh("apply", "-f", "-", stdin=TWO).code == 0
    ran = mitmesh("apply", "-f", "-", stdin="{service: other, hosts: [reviews.example]}")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "reviews.example" in ran.err
    assert "other" in ran.err
    assert revision(mitmesh) == 1


def test_host_moves_to_another_service_in_one_apply(mitmesh: Mitmesh) -> None:
    assert mitmesh("apply", "-f", "-", stdin=TWO).code == 0
    moved = "{service: reviews, retry: 2}\n---\n{service: other, hosts: [reviews.example]}"
    assert mitmesh("apply", "-f", "-", stdin=moved).code == 0


def documents(text: str) -> list[Document]:
    return read_bytes(text.encode(), "test.yaml")


def test_a_claim_made_meanwhile_is_seen(mitmesh: Mitmesh, redis_url: str) -> None:
    """Another writer claims the host between our look and our write: we look again, and are refused."""
    mine = documents("{service: mine, hosts: [shop.example]}")
    seen = []

    def plan_for(stored: Mapping[str, str]) -> Plan:
        seen.append(sorted(stored))
        made = plan(stored, mine)
        if len(seen) == 1:
            other = threading.Thread(target=apply_other)
            other.start()
            other.join()
        return made

    def apply_other() -> None:
        theirs = documents("{service: theirs, hosts: [shop.example]}")

        async def write() -> None:
            store = Store(redis_url)
            await change_in(store, lambda stored: plan(stored, theirs), message="faster")
            await store.close()

        asyncio.run(write())

    async def race() -> None:
        store = Store(redis_url)
        try:
            with pytest.raises(PolicyErrors, match=r"shop\.example"):
                await change_in(store, plan_for, message="slower")
        finally:
            await store.close()

    asyncio.run(race())
    assert seen == [[], ["theirs"]]
    assert json.loads(mitmesh("status", "--json").out)["services"] == ["theirs"]


def test_two_conflicting_applies_at_once(redis_url: str) -> None:
    """Whoever is first wins; the other is refused, every time."""

    async def rival(name: str, start: asyncio.Event) -> bool:
        store = Store(redis_url)
        wanted = documents(f"{{service: {name}, hosts: [shop.example]}}")
        await store.revision()  # connected
        await start.wait()
        try:
            await change_in(store, lambda stored: plan(stored, wanted), message=name)
        except PolicyErrors:
            return False
        finally:
            await store.close()
        return True

    async def rounds() -> None:
        for _ in range(30):
            start = asyncio.Event()
            rivals = [asyncio.create_task(rival(name, start)) for name in ("a", "b", "c")]
            await asyncio.sleep(0)
            start.set()
            won = await asyncio.gather(*rivals)
            store = Store(redis_url)
            assert sorted(won) == [False, False, True]
            assert len((await store.read()).documents) == 1
            await store.erase()
            await store.close()

    asyncio.run(rounds())


NONSENSE = {
    "broken": "{not json",
    "alien": '{"service":"alien","colour":"green"}',
    "liar": '{"service":"honest"}',
}


@pytest.fixture
def nonsense(mitmesh: Mitmesh, valkey_server: Valkey) -> None:
    assert mitmesh("apply", "-f", "-", stdin=TWO).code == 0
    for service, text in NONSENSE.items():
        valkey_server.command("HSET", "{mesh}:policy", service, text)


@pytest.mark.usefixtures("nonsense")
def test_nonsense_in_redis_is_a_warning(mitmesh: Mitmesh) -> None:
    ran = mitmesh("apply", "-f", "-", stdin="{service: new, retry: 2}")
    assert (ran.code, ran.out) == (0, "new: created\nrevision 2\n")
    assert [line.split(": ")[:3] for line in ran.err.splitlines()] == [
        ["warning", "redis", service] for service in sorted(NONSENSE)
    ]
    # The good ones still count.
    assert mitmesh("apply", "-f", "-", stdin="{service: x, hosts: [reviews.example]}").code == 1
    # Nothing is said of what the apply puts right.
    repaired = mitmesh("apply", "-f", "-", stdin="{service: broken, retry: 2}")
    assert (repaired.code, repaired.out) == (0, "broken: changed\nrevision 3\n")
    assert len(repaired.err.splitlines()) == 2


@pytest.mark.usefixtures("nonsense")
def test_nonsense_in_redis_shown_and_deleted(mitmesh: Mitmesh) -> None:
    ran = mitmesh("get")
    assert (ran.code, ran.out.count("service:"), len(ran.err.splitlines())) == (0, 2, 3)
    one = mitmesh("get", "broken")
    assert (one.code, one.out, "{not json" in one.err, one.err.count("\n")) == (1, "", True, 1)
    differs = mitmesh("diff", "-f", "-", stdin="{service: broken, retry: 2}")
    assert (differs.code, "-{not json" in differs.out) == (1, True)
    assert mitmesh("delete", "broken", "alien", "liar").out.startswith(
        "alien: deleted\nbroken: deleted\nliar: deleted\n"
    )
    assert mitmesh("get").err == ""
    back = mitmesh("rollback", "1")
    assert back.code == 0 or "revision 1" in back.err


def test_unsound_in_redis_does_not_stop_other_changes(mitmesh: Mitmesh, valkey_server: Valkey) -> None:
    """Two documents put there by hand claim one host: that is nobody's fault who changes a third."""
    for service in ("a", "b"):
        valkey_server.command(
            "HSET", "{mesh}:policy", service, f'{{"hosts":["x.example"],"service":"{service}"}}'
        )
    valkey_server.command("SET", "{mesh}:revision", "1")
    ran = mitmesh("apply", "-f", "-", stdin="{service: c, retry: 2}")
    assert (ran.code, ran.out) == (0, "c: created\nrevision 2\n")
    assert "warning: " in ran.err
    assert "x.example" in ran.err
    assert mitmesh("apply", "-f", "-", stdin="{service: d, hosts: [x.example]}").code == 1
    assert mitmesh("delete", "b").err == ""


def test_validate(mitmesh: Mitmesh) -> None:
    assert mitmesh("validate", "-f", "-", stdin=TWO) == Ran(0, "valid: 2 documents (reviews, ratings)\n", "")
    good = json.loads(mitmesh("validate", "-f", "-", "--json", stdin=TWO).out)
    assert good == {"valid": True, "services": ["reviews", "ratings"], "problems": []}
    twice = mitmesh("validate", "-f", "-", stdin="{service: a, hosts: [x]}\n---\n{service: b, hosts: [x]}")
    assert (twice.code, twice.out, len(twice.err.splitlines())) == (1, "", 1)
    bad = mitmesh("validate", "-f", "-", "--json", stdin="{service: a, retry: 999}")
    data = json.loads(bad.out)
    assert (bad.code, bad.err, data["valid"], data["services"]) == (1, "", False, [])
    assert [problem["file"] for problem in data["problems"]] == ["stdin"]
    assert set(data["problems"][0]) == {"file", "line", "document", "field", "message"}


def test_diff(mitmesh: Mitmesh) -> None:
    new = mitmesh("diff", "-f", "-", stdin="{service: a, retry: 2}")
    assert new.code == 1
    assert new.out.splitlines()[:2] == ["--- redis/a", "+++ files/a"]
    assert mitmesh("apply", "-f", "-", stdin=TWO).code == 0
    assert mitmesh("diff", "-f", "-", stdin=TWO) == Ran(0, "", "")
    ran = mitmesh("diff", "-f", "-", stdin=TWO.replace("retry: 3", "retry: 4"))
    changed = [line for line in ran.out.splitlines()[2:] if line[0] in "+-"]
    assert (ran.code, [(line[0], line[-2:].strip(" }")) for line in changed]) == (1, [("-", "3"), ("+", "4")])
    data = json.loads(mitmesh("diff", "--json", "-f", "-", stdin=TWO.replace("retry: 3", "retry: 4")).out)
    assert data["services"]["ratings"]["verb"] == "changed"
    assert data["services"]["ratings"]["diff"] == ran.out.splitlines()
    assert json.loads(mitmesh("diff", "--json", "-f", "-", stdin=TWO).out) == {"services": {}}
    refused = mitmesh("diff", "-f", "-", stdin="{service: x, hosts: [reviews.example]}")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)


def test_get_reads_back(mitmesh: Mitmesh) -> None:
    assert mitmesh("get").err.startswith("no policy yet")
    assert mitmesh("get", "--json").out == "[]\n"
    assert mitmesh("apply", "-f", "-", stdin=TWO).code == 0
    for form in (["-o", "yaml"], ["-o", "json"], ["--json"]):
        for service in ("reviews", "RATINGS"):
            text = mitmesh("get", service, *form).out
            assert "nothing to do" in mitmesh("apply", "-f", "-", stdin=text).out, text
    assert "nothing to do" in mitmesh("apply", "-f", "-", stdin=mitmesh("get").out).out
    assert [found["service"] for found in json.loads(mitmesh("get", "--json").out)] == ["ratings", "reviews"]


@pytest.mark.parametrize("command", ["get", "delete"])
def test_no_such_service(mitmesh: Mitmesh, command: str) -> None:
    empty = mitmesh(command, "reviws")
    assert (empty.code, empty.out, "mitmesh apply" in empty.err, empty.err.count("\n")) == (1, "", True, 1)
    assert mitmesh("apply", "-f", "-", stdin=TWO).code == 0
    near = mitmesh(command, "reviws")
    assert (near.code, near.err) == (1, "error: no document for service reviws; did you mean reviews?\n")
    far = mitmesh(command, "zzz")
    assert (far.code, "mitmesh get" in far.err) == (1, True)


def test_delete(mitmesh: Mitmesh) -> None:
    assert mitmesh("apply", "-f", "-", stdin=TWO).code == 0
    assert mitmesh("delete", "ratings", "-m", "gone") == Ran(0, "ratings: deleted\nrevision 2\n", "")
    assert mitmesh("delete", "ratings").code == 1
    assert json.loads(mitmesh("delete", "Reviews", "--json").out)["services"] == {"reviews": "deleted"}
    assert mitmesh("get", "--json").out == "[]\n"


def test_delete_of_what_another_reaches(mitmesh: Mitmesh) -> None:
    front = '{service: front, to: reviews/v1, endpoints: ["10.0.0.3:80"]}'
    assert mitmesh("apply", "-f", "-", stdin=f"{TWO}\n---\n{front}").code == 0
    ran = mitmesh("delete", "reviews")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "front" in ran.err
    assert mitmesh("delete", "reviews", "front").code == 0


def test_history(mitmesh: Mitmesh) -> None:
    assert mitmesh("history") == Ran(0, "", "no changes yet\n")
    mitmesh("apply", "-f", "-", "-m", "first", stdin=TWO)
    mitmesh("apply", "-f", "-", "--message", "more tries", stdin="{service: ratings, retry: 4}")
    lines = mitmesh("history").out.splitlines()
    assert lines[0].split() == ["REVISION", "TIME", "AUTHOR", "SERVICES", "MESSAGE"]
    author = f"{getpass.getuser()}@{socket.gethostname()}"
    cells = [[cell for cell in line.split("  ") if cell] for line in lines[1:]]
    assert [(c[0], c[2].strip(), c[3].strip(), c[4].strip()) for c in cells] == [
        ("2", author, "ratings", "more tries"),
        ("1", author, "ratings, reviews", "first"),
    ]
    assert len(mitmesh("history", "reviews").out.splitlines()) == 2
    assert len(mitmesh("history", "-n", "1").out.splitlines()) == 2
    assert mitmesh("history", "zzz").err == "no changes of zzz in the history\n"
    entries = json.loads(mitmesh("history", "RATINGS", "--json").out)
    assert [entry["revision"] for entry in entries] == [2, 1]
    assert entries[0]["changes"]["ratings"]["before"]["retry"] == {"attempts": 3}
    assert entries[0]["changes"]["ratings"]["after"]["retry"] == {"attempts": 4}
    assert entries[1]["changes"]["ratings"]["before"] is None
    assert entries[0]["time"].endswith("Z")


def test_message_of_bytes_that_are_no_text(mitmesh: Mitmesh) -> None:
    assert mitmesh("apply", "-f", "-", "-m", "caf\udce9\nx", stdin=TWO).code == 0
    assert mitmesh("history").out.splitlines()[1].endswith("caf?\\nx")


def test_rollback(mitmesh: Mitmesh) -> None:
    mitmesh("apply", "-f", "-", stdin=TWO)
    first = mitmesh("get").out
    mitmesh("apply", "-f", "-", stdin="{service: ratings, retry: 9}\n---\n{service: new, retry: 2}")
    mitmesh("delete", "reviews")
    ran = mitmesh("rollback", "1")
    assert ran == Ran(0, "new: deleted\nratings: changed\nreviews: created\nrevision 4\n", "")
    assert mitmesh("get").out == first
    assert json.loads(mitmesh("history", "--json").out)[0]["message"] == "rollback to 1"
    assert mitmesh("rollback", "1").out == "nothing to do, revision 4\n"
    assert mitmesh("rollback", "3", "-m", "back again").code == 0
    assert json.loads(mitmesh("history", "--json").out)[0]["message"] == "back again"
    assert json.loads(mitmesh("rollback", "0", "--json").out)["services"] == {
        "new": "deleted",
        "ratings": "deleted",
    }
    assert mitmesh("get", "--json").out == "[]\n"


def test_rollback_out_of_reach(mitmesh: Mitmesh, valkey_server: Valkey) -> None:
    for tries in (2, 3, 4):
        mitmesh("apply", "-f", "-", stdin=f"{{service: a, retry: {tries}}}")
    ahead = mitmesh("rollback", "7")
    assert (ahead.code, ahead.out, ahead.err.count("\n")) == (1, "", 1)
    assert "7" in ahead.err
    valkey_server.command("XTRIM", "{mesh}:history", "MAXLEN", "1")
    trimmed = mitmesh("rollback", "1")
    assert (trimmed.code, trimmed.out, trimmed.err.count("\n")) == (1, "", 1)
    assert mitmesh("rollback", "2").code == 0


def test_rollback_to_what_is_no_policy_any_more(mitmesh: Mitmesh, valkey_server: Valkey) -> None:
    """As after an upgrade that knows a field no longer: refused, for proxies would refuse it, too."""
    mitmesh("apply", "-f", "-", stdin="{service: a, retry: 2}")
    valkey_server.command("HSET", "{mesh}:policy", "a", '{"colour":"green","service":"a"}')
    mitmesh("apply", "-f", "-", stdin="{service: a, retry: 3}")
    ran = mitmesh("rollback", "1")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("revision 1: a: ")
    assert "colour" in ran.err
    assert revision(mitmesh) == 2


def test_rollback_into_a_conflict(mitmesh: Mitmesh, valkey_server: Valkey) -> None:
    """What comes back claims a host that a document put there by hand has claimed since."""
    mitmesh("apply", "-f", "-", stdin=TWO)
    mitmesh("delete", "reviews")
    valkey_server.command("HSET", "{mesh}:policy", "thief", '{"hosts":["reviews.example"],"service":"thief"}')
    ran = mitmesh("rollback", "1")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("revision 1: reviews: ")
    assert "thief" in ran.err


def test_rollback_is_to_the_letter(mitmesh: Mitmesh, valkey_server: Valkey) -> None:
    """Also where the text of then is not as this release would write it."""
    text = '{"service": "a", "retry": {"attempts": 2}}'
    mitmesh("apply", "-f", "-", stdin="{service: a, retry: 3}")
    valkey_server.command("HSET", "{mesh}:policy", "a", text)
    mitmesh("apply", "-f", "-", stdin="{service: a, retry: 4}")
    assert mitmesh("rollback", "1").code == 0
    assert text.encode() in valkey_server.command("HGET", "{mesh}:policy", "a")


# ---- for a while

TIMED = "{service: web, faults: [{abort: 503, for: 1h}], retry: 2}"


def test_for_counts_from_the_apply_that_brings_it(mitmesh: Mitmesh) -> None:
    first = mitmesh("apply", "-f", "-", stdin=TIMED)
    assert (first.code, first.out) == (0, "web: created\nrevision 1\n")
    assert re.fullmatch(r"web: faults\[0\] expires \S+Z\n", first.err)
    again = mitmesh("apply", "-f", "-", stdin=TIMED)
    assert (again.out, again.err) == ("web: unchanged\nnothing to do, revision 1\n", first.err)
    printed = mitmesh("get", "web").out
    assert "since: " in printed
    assert mitmesh("apply", "-f", "-", stdin=printed).out.endswith("nothing to do, revision 1\n")
    assert mitmesh("diff", "-f", "-", stdin=TIMED) == Ran(0, "", first.err)
    elsewhere = mitmesh("apply", "-f", "-", stdin=TIMED.replace("retry: 2", "retry: 3"))
    assert (elsewhere.out, elsewhere.err) == ("web: changed\nrevision 2\n", first.err)
    renewed = mitmesh("apply", "--renew", "-f", "-", stdin=TIMED)
    assert renewed.out == "web: changed\nrevision 3\n"
    assert renewed.err > first.err


def test_what_has_expired_is_not_started_again_unasked(mitmesh: Mitmesh) -> None:
    over = TIMED.replace("for: 1h", "for: 1h, since: '2026-01-01T00:00:00Z'")
    said = "web: faults[0]: expired 2026-01-01T01:00:00Z: `mitmesh apply --renew` starts it again\n"
    assert mitmesh("apply", "-f", "-", stdin=over).err == f"warning: stdin: {said}"
    again = mitmesh("apply", "-f", "-", stdin=TIMED)
    assert again == Ran(0, "web: unchanged\nnothing to do, revision 1\n", f"warning: stdin: {said}")
    explained = mitmesh("explain", "GET", "http://web/").out
    assert "faults           none   (from web)\n" in explained
    assert "expired          web: faults[0] expired 2026-01-01T01:00:00Z\n" in explained
    assert "expires" in mitmesh("apply", "-f", "-", "--renew", stdin=TIMED).err
    explained = json.loads(mitmesh("explain", "GET", "http://web/", "--json").out)
    (fault,) = explained["faults"]
    assert set(fault) == {"abort", "for", "since", "expires"}


def test_explain_takes_a_file_as_if_it_were_applied_now(mitmesh: Mitmesh, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "service: web\nendpoints: {v1: ['a:1'], v2: ['b:1']}\nroutes: [{name: now, to: v2, for: 1h}, {to: v1}]"
    )
    said = mitmesh("explain", "GET", "http://web/", "-f", str(file)).out
    assert re.search(r"^route            now   \(expires \S+Z\)$", said, re.MULTILINE)
    file.write_text(file.read_text().replace("for: 1h", "for: 1h, since: '2026-01-01T00:00:00Z'"))
    said = mitmesh("explain", "GET", "http://web/", "-f", str(file)).out
    assert "considered       now: expired 2026-01-01T01:00:00Z\nroute            routes[1]\n" in said
