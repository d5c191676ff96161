"""mitmesh canary as a command: what it refuses, what --status says, what is shown. Its walk: test_end_to_end_canary.py."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control.canary.plan import write_state
from control.commands.canary_hold import LIFE
from control.store import Store
from control.traffic import Row, Traffic, write_traffic
from tests.cli import MITMESH, ROOT, Mitmesh, mitmesh_fixture, node  # noqa: F401
from tests.conftest import die_with_parent, free_port
from tests.mesh_process import Mesh
from tests.test_canary_plan import STATE

POLICY = "{service: reviews, endpoints: {v1: ['127.0.0.1:1'], v2: ['127.0.0.1:2']}, to: v1}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "5,100"], "these options belong to a new canary: name its version with --to"),
        (["--count-injected"], "name its version with --to"),
        (["--status", "--abort"], "give one of them, and no --to"),
        (["--status", "--to", "v2"], "give one of them, and no --to"),
        (["--to", "v 2"], "--to, --from: write a version"),
        (["--to", "v2", "--from", "/"], "--to, --from: write a version"),
        (["--to", "v2", "--steps", "50,5"], "--steps 50,5: write shares that rise"),
        (["--to", "v2", "--every", "30"], "--every 30: write a duration with its unit"),
        (["--to", "v2", "--every", "10ms"], "--every 10ms: write a time from 1s to 168h"),
        (["--to", "v2", "--max-error-rate", "x"], "--max-error-rate x: write a share in per cent"),
        (["--to", "v2", "--max-p99", "300"], "--max-p99 300: write a duration"),
        (["--to", "v2", "--max-wait", "soon"], "--max-wait soon: write a duration"),
        (["--to", "v2", "--min-requests", "0"], "--min-requests 0: write a number of at least 1"),
        (["--to", "v2"], "there is no policy of reviews"),
        ([], "no canary of reviews is under way: say which version is to come with --to VERSION"),
        (["--abort"], "no canary of reviews is under way"),
    ],
)
def test_what_is_refused(mitmesh: Mitmesh, arguments: list[str], said: str) -> None:
    ran = mitmesh("canary", "reviews", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
    # Nothing is left behind that the next run had to wait for.
    assert json.loads(mitmesh("canary", "reviews", "--status", "--json").out) is None


def test_what_the_policy_does_not_have(mitmesh: Mitmesh) -> None:
    mitmesh("apply", "-f", "-", stdin=POLICY)
    for arguments, said in (
        (["--to", "v3"], "reviews has no version v3: known are v1, v2"),
        (["--to", "v2", "--route", "x"], "reviews has no route x"),
        (["--to", "v1"], "the split is between none but v1"),
        (["--to", "other/v2"], "no service other"),
    ):
        ran = mitmesh("canary", "reviews", *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.err


def test_what_redis_refuses_is_told_and_nothing_is_under_way(
    mitmesh: Mitmesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mitmesh("key", "init", "--out", ".").code == 0
    signed = ("--policy-key", "policy.key")
    assert mitmesh(*signed, "apply", "-f", "-", stdin=POLICY).code == 0
    ran = mitmesh("canary", "reviews", "--to", "v2")
    assert (ran.code, ran.out) == (2, "")
    assert "the policy of this mesh is signed" in ran.err
    assert mitmesh("canary", "reviews", "--status").out.startswith(
        "reviews: stopped at step 1 of 4, nothing put"
    )
    assert "canary" not in mitmesh("status").out
    options = ("--to", "v2", "--steps", "10", "--every", "1s", "--max-wait", "0s")
    gone_back = mitmesh(*signed, "canary", "reviews", *options)
    assert gone_back.code == 1
    assert "back to v1, revision 3: not judged" in gone_back.out


def test_no_redis(mitmesh: Mitmesh) -> None:
    for arguments in (["--to", "v2"], []):
        ran = mitmesh("canary", "reviews", *arguments, "--redis", f"redis://127.0.0.1:{free_port()}/0")
        assert ran.code == 2
        assert "cannot reach Redis" in ran.err


def keep(url: str, text: str, hold: float = 0.0) -> None:
    Mesh(url).use(lambda store: store.canary("reviews", "ann@laptop process 1 x", "force", hold, LIFE, text))


def test_status(mitmesh: Mitmesh, redis_url: str) -> None:
    assert mitmesh("canary", "Reviews", "--status").out == "no canary of reviews\n"
    keep(redis_url, write_state(STATE))
    ran = mitmesh("canary", "reviews", "--status")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "reviews: under way to v2, step 1 of 2: it stands at v1 1, revision 7",
        "nobody watches it: go on with mitmesh canary reviews, or go back with --abort",
    ]
    keep(redis_url, write_state(STATE), hold=60)
    assert len(mitmesh("canary", "reviews", "--status").out.splitlines()) == 1
    data = json.loads(mitmesh("canary", "reviews", "--status", "--json").out)
    assert (data["status"], data["step"], data["watched"], data["plan"]["from"]) == ("running", 1, True, "v1")
    keep(redis_url, write_state(STATE.ends("back", "too slow", 5.0)))
    assert mitmesh("canary", "reviews", "--status").out == "reviews: back to v1, revision 7: too slow\n"


def test_the_status_of_the_mesh_names_canaries_under_way(mitmesh: Mitmesh, redis_url: str) -> None:
    assert json.loads(mitmesh("status", "--json").out)["canaries"] == []
    keep(redis_url, write_state(STATE))
    assert mitmesh("status").out.splitlines()[-1] == (
        "canary of reviews: under way to v2, step 1 of 2: it stands at v1 1, revision 7"
        "; nobody watches it: mitmesh canary reviews, or with --abort back"
    )
    keep(redis_url, write_state(STATE), hold=60)
    assert mitmesh("status").out.endswith("it stands at v1 1, revision 7\n")
    (data,) = json.loads(mitmesh("status", "--json").out)["canaries"]
    assert (data["service"], data["watched"], data["percent"]) == ("reviews", True, 5)
    for text in (write_state(STATE.ends("done", "", 5.0)), "nonsense"):
        keep(redis_url, text)
        assert "canary" not in mitmesh("status").out


def test_what_another_release_wrote_is_not_guessed_at(mitmesh: Mitmesh, redis_url: str) -> None:
    mitmesh("apply", "-f", "-", stdin=POLICY)
    keep(redis_url, '{"form": 9}')
    for arguments in (["--to", "v2"], ["--status"], ["--abort"]):
        ran = mitmesh("canary", "reviews", *arguments)
        assert ran.code == 2
        assert "cannot be read by this release: delete the key canary:reviews" in ran.err


async def test_only_one_holds_a_canary(redis_url: str) -> None:
    store = Store(redis_url)
    assert (await store.canary("a")).state == ""
    assert (await store.canary("a", "one", "take", 60, 60, "x")).mine
    other = await store.canary("a", "two", "take", 60, 60, "y")
    assert (other.mine, other.runner, other.state, other.is_held) == (False, "one", "x", True)
    assert (await store.canary("a", "one", "keep", 0, 60)).mine
    assert (await store.canary("a", "two", "take", 60, 60)).state == "x"
    assert not (await store.canary("a", "one", "keep", 60, 60, "z")).mine
    assert (await store.canary("a", "one", "force", 60, 60, "z")).state == "z"
    assert not (await store.canary("b")).is_held
    await store.canary("a", "one", "keep", 0, 0.001)
    while (await store.canary("a")).runner:
        pass
    await store.close()


@contextlib.contextmanager
def telling(url: str, rows: Callable[[], dict[str, Row]]) -> Iterator[None]:
    """A proxy that has every revision in force and tells of these rows (version -> row) all the time."""
    over = threading.Event()

    async def tell(store: Store) -> None:
        end = 1.0
        while not over.wait(0.1):
            traffic = Traffic(end, 1.0, {("reviews", name, "outbound"): row for name, row in rows().items()})
            await store.report(node("one", 10**9, extra={"traffic": write_traffic(traffic)}), 60)
            end += 1

    thread = threading.Thread(target=lambda: Mesh(url).use(tell), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(20)


def test_a_route_of_a_mesh_in_json(mitmesh: Mitmesh, redis_url: str) -> None:
    routed = "{service: reviews, endpoints: {v1: ['a:1'], v2: ['a:2']}, routes: [{name: all, to: {v1: 1}}]}"
    mitmesh("apply", "-f", "-", stdin=routed)
    with telling(redis_url, lambda: {"v2": Row(100, 0, 0, {9: 100})}):
        ran = mitmesh(
            *("canary", "reviews", "--to", "v2", "--route", "all", "--steps", "10,20", "--every", "1s"),
            *("--json", "-m", "ticket 7"),
        )
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert (ran.code, ran.err) == (0, "")
    assert [each["step"] for each in events if each["event"] == "step"] == [1, 2]
    seen: dict[str, Any] = next(each for each in events if each.get("next") == "go")
    assert seen["versions"]["v2"]["requests"] >= 100
    assert (events[-1]["event"], events[-1]["status"], events[-1]["percent"]) == ("ended", "done", 20)
    document = json.loads(mitmesh("get", "reviews", "--json").out)
    assert document["routes"] == [{"name": "all", "to": {"v1": 80, "v2": 20}}]
    assert "to" not in document
    assert json.loads(mitmesh("history", "--json").out)[0]["message"] == "ticket 7: canary to v2: 20 %"


def test_too_little_traffic_goes_back_where_that_is_wished(mitmesh: Mitmesh, redis_url: str) -> None:
    mitmesh("apply", "-f", "-", stdin=POLICY)
    with telling(redis_url, dict):
        ran = mitmesh("canary", "reviews", "--to", "v2", "--every", "1s", "--max-wait", "0s")
    assert ran.code == 1
    assert (
        "back to v1, revision 3: not judged, for too little traffic: 0 of 50 requests to v2 so far" in ran.out
    )


def test_on_a_terminal_it_is_drawn_in_place(mitmesh: Mitmesh, redis_url: str) -> None:
    mitmesh("apply", "-f", "-", stdin=POLICY)
    terminal, theirs = pty.openpty()
    with telling(redis_url, lambda: {"v2": Row(70, 0, 0, {9: 70})}):
        process = subprocess.Popen(
            [*MITMESH, "canary", "reviews", "--to", "v2", "--steps", "10,100", "--every", "60s"],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - system calls alone, no Python lock is taken
        )
        os.close(theirs)
        seen, end = "", time.monotonic() + 30
        while seen.count("STEP") < 3 or "0.00%" not in seen:
            assert time.monotonic() < end, seen
            if select.select([terminal], [], [], 1)[0]:
                seen += os.read(terminal, 65536).decode()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    os.close(terminal)
    assert "under way to v2, step 1 of 2: it stands at v1 90, v2 10, revision 2" in seen
    assert "\x1b[1A" in seen
    assert process.returncode == 130
    assert "interrupted at step 1 of 2: v1 90, v2 10" in err


def test_sticky_users_of_further_versions_stay_where_they_are(mitmesh: Mitmesh, redis_url: str) -> None:
    three = (
        "{service: reviews, endpoints: {v1: ['a:1'], v2: ['a:2'], v3: ['a:3']}, to: {v1: 60, v2: 10, v3: 30},"
        " sticky: {header: x-user}}"
    )
    mitmesh("apply", "-f", "-", stdin=three)
    with telling(redis_url, lambda: {"v3": Row(100, 0, 0, {9: 100})}):
        ran = mitmesh("canary", "reviews", "--to", "v3", "--from", "v1", "--steps", "40,50", "--every", "1s")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(mitmesh("get", "reviews", "--json").out)
    assert document["to"] == {"v1": 45, "v2": 10, "v3": 45}
    # v3 grew by v1's users alone: those of v2 (60 to 70) and of v3 (70 to 100) are where they were.
    stretches = [dict(each) for each in document["sticky"]["stretches"]]
    assert stretches[-2:] == [{"v2": 10}, {"v3": 30}]
    assert sum(each.get("v1", 0) for each in stretches) == 45
