"""mitmesh top, and the sums behind it: histograms that are merged, reports that are read, two real proxies added up."""

import contextlib
import itertools
import json
import math
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.commands import top
from control.histogram import BUCKETS, EDGES, added, bucket_of, grown, quantile
from control.traffic import MOST_ROWS, Row, Total, Traffic, Windows, read_traffic, totals, write_traffic
from tests.cli import MITMESH, ROOT, Mitmesh, mitmesh_fixture, node  # noqa: F401
from tests.conftest import Valkey, die_with_parent, free_port
from tests.mesh_process import Client, Mesh, Proxy, confdir, eventually, running
from tests.test_cli_status import report
from tests.upstream import Upstream, answer, saying

LENGTHS = st.floats(min_value=0.0005, max_value=9e5)


def counted(lengths: list[float]) -> dict[int, int]:
    return added({bucket_of(length): 1} for length in lengths)


# Histograms


def test_the_edges_grow_by_a_tenth_and_name_the_round_numbers() -> None:
    assert list(EDGES) == sorted(set(EDGES))
    assert max(above / below for below, above in itertools.pairwise(EDGES)) < 1.0975
    assert {0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 100.0, 1000.0, 1e6} <= set(EDGES)


@given(st.floats(min_value=0, max_value=2e6))
def test_a_bucket_holds_what_lies_between_its_edges(length: float) -> None:
    bucket = bucket_of(length)
    assert bucket == BUCKETS - 1 or length <= EDGES[bucket]
    assert bucket == 0 or length > EDGES[bucket - 1]


@given(st.lists(st.lists(LENGTHS, max_size=40), min_size=1, max_size=5), st.sampled_from([0.5, 0.95, 0.99]))
def test_percentiles_of_merged_histograms_are_those_of_all_values_together(
    nodes: list[list[float]], share: float
) -> None:
    """Within the bucket, whatever node a value was seen at; averages of percentiles are not."""
    every = sorted(length for lengths in nodes for length in lengths)
    found = quantile(added(counted(lengths) for lengths in nodes), share)
    if not every:
        assert found is None
        return
    exact = every[max(0, math.ceil(share * len(every)) - 1)]
    bucket = bucket_of(exact)
    assert found is not None
    assert (EDGES[bucket - 1] if bucket else 0) <= found <= EDGES[bucket]


@given(st.lists(LENGTHS, max_size=30), st.lists(LENGTHS, max_size=30))
def test_what_grew_is_what_came(before: list[float], after: list[float]) -> None:
    states = [[0] * BUCKETS, [0] * BUCKETS]
    for state, lengths in zip(states, (before, before + after), strict=True):
        for length in lengths:
            state[bucket_of(length)] += 1
    assert grown(states[1], states[0]) == counted(after)


def test_lengths_beyond_the_last_edge() -> None:
    assert quantile({BUCKETS - 1: 3}, 0.5) == EDGES[-1]
    assert quantile({}, 0.5) is None
    assert quantile({0: 4}, 0.5) == pytest.approx(0.005)


# Reports

COUNTS = st.integers(min_value=0, max_value=10**9)
ROWS = st.builds(
    Row,
    COUNTS,
    COUNTS,
    COUNTS,
    st.dictionaries(st.integers(0, BUCKETS - 1), st.integers(1, 10**9), max_size=9),
)
KEYS = st.tuples(st.text(max_size=9), st.text(max_size=9), st.sampled_from(["inbound", "outbound"]))


@given(st.dictionaries(KEYS, ROWS, max_size=9), st.integers(0, 5))
def test_a_report_is_read_as_it_was_written(rows: dict[Any, Row], more: int) -> None:
    traffic = Traffic(1234.5, 1.001, rows, more)
    assert read_traffic(write_traffic(traffic)) == traffic


def test_the_busiest_rows_are_told() -> None:
    rows = {("a", f"v{number}", "outbound"): Row(number) for number in range(MOST_ROWS + 20)}
    told = read_traffic(write_traffic(Traffic(1.0, 1.0, rows, 3)))
    assert told is not None
    assert {row.requests for row in told.rows.values()} == set(range(20, MOST_ROWS + 20))
    assert told.more == 23


GOOD = {"form": 1, "end": 5.0, "seconds": 1.0, "rows": [["a", "v1", "outbound", 1, 0, 0, [3, 1]]], "more": 0}


def changed(**parts: Any) -> str:
    return json.dumps({**GOOD, **parts})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "{",
        changed(form=2),
        changed(seconds=0),
        changed(seconds=-1),
        changed(seconds="x"),
        changed(seconds=float("nan")),
        changed(end=None),
        changed(end=float("inf")),
        changed(seconds=10**400),
        "[" * 100_000,
        changed(more=-1),
        changed(rows=[["a", "v1", "outbound", 1, 0, 0]]),
        changed(rows=[["a", "v1", "outbound", -1, 0, 0, []]]),
        changed(rows=[["a", "v1", "outbound", 1.5, 0, 0, []]]),
        changed(rows=[["a", "v1", "outbound", 1, 0, 0, [3]]]),
        changed(rows=[["a", "v1", "outbound", 1, 0, 0, [BUCKETS, 1]]]),
        changed(rows=[["a", "v1", "outbound", 1, 0, 0, [-1, 1]]]),
        changed(rows={"a": 1}),
        changed(rows=3),
    ],
)
def test_a_report_that_is_none_tells_nothing(text: str) -> None:
    assert read_traffic(json.dumps(GOOD)) is not None
    assert read_traffic(text) is None


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(list(GOOD)), inner)))  # fmt: skip
def test_nothing_in_redis_breaks_the_reader(junk: Any) -> None:
    read_traffic(json.dumps(junk))
    if isinstance(junk, dict):
        read_traffic(changed(**junk))


# Sums


def told(seconds: float, end: float = 0.0, **rows: Row) -> Traffic:
    """v1=Row(...): of the service a, outbound."""
    return Traffic(end, seconds, {("a", version, "outbound"): row for version, row in rows.items()})


def test_rates_are_per_proxy_and_then_added() -> None:
    one = [told(1.0, v1=Row(100, 10, 1, {bucket_of(5): 100})), told(1.0, v1=Row(50))]
    other = [told(2.0, v1=Row(20, 20, 0, {bucket_of(900): 20}), v2=Row(7))]
    first, second = totals([one, other])
    assert (first.service, first.version, first.side) == ("a", "v1", "outbound")
    assert first.rate == pytest.approx(75 + 10)
    assert (first.requests, first.failed, first.injected) == (170, 30, 1)
    assert first.success == pytest.approx(140 / 170)
    assert first.p50 == pytest.approx(5, rel=0.1)
    assert first.p95 == pytest.approx(900, rel=0.1)
    assert (second.version, second.rate, second.p50) == ("v2", 3.5, None)


def text(end: float, requests: int = 1, seconds: float = 1.0) -> str:
    return write_traffic(told(seconds, end, v1=Row(requests)))


def test_windows_count_a_report_once_and_forget_the_old_and_the_dead() -> None:
    windows = Windows(3.0)
    for end in (1.0, 1.0, 2.0, 2.0, 3.0):
        windows.take({"one": text(end), "two": text(1.0, 5)})
    (total,) = windows.totals()
    assert (total.requests, total.rate) == (8, 6.0)
    assert windows.seconds == 3.0
    windows.take({"one": text(4.0, 100), "two": text(1.0, 5)})
    assert windows.totals()[0].requests == 107
    windows.take({"one": text(5.0, 0)})
    assert (windows.totals()[0].requests, windows.seconds) == (101, 3.0)
    windows.take({"one": "", "new": "nonsense"})
    assert windows.totals()[0].requests == 101
    windows.take({})
    assert (windows.totals(), windows.seconds, windows.more) == ([], 0.0, 0)


def test_a_long_silence_is_one_long_window() -> None:
    windows = Windows(1.0)
    windows.take({"one": text(1.0)})
    windows.take({"one": text(61.0, 600, seconds=60.0)})
    assert windows.totals()[0].rate == 10.0


# Words


@pytest.mark.parametrize(
    ("share", "words"),
    [(1.0, "100%"), (0.999999, "99.99%"), (0.99995, "99.99%"), (0.5, "50.00%"), (0.0, "0.00%")],
)
def test_only_what_never_failed_is_100_percent(share: float, words: str) -> None:
    assert top._percent(share) == words


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(None, "-"), (0.123, "0.12ms"), (1.25, "1.2ms"), (99.94, "99.9ms"), (512.3, "512ms"), (1234.0, "1.2s")],
)
def test_lengths(milliseconds: float | None, words: str) -> None:
    assert top._length(milliseconds) == words


def test_a_name_cannot_steer_the_terminal() -> None:
    total = Total("a\x1b[2J", "v\n1", "outbound", 1.0, 1, 0, 0, None, None, None)
    assert top._row(total)[:3] == ("a\\x1b[2J", "v\\n1", "outbound")


# The command


def tell(url: str, **nodes: str) -> None:
    report(url, *(node(name, extra={"traffic": traffic}) for name, traffic in nodes.items()))


ONE = Traffic(
    100.0,
    1.0,
    {
        ("reviews", "v1", "outbound"): Row(90, 9, 3, {bucket_of(2): 80, bucket_of(40): 10}),
        ("reviews", "v2", "outbound"): Row(10, 0, 0, {bucket_of(3): 10}),
        ("shop", "unknown", "inbound"): Row(5, 0, 0, {bucket_of(1): 5}),
    },
)
TWO = Traffic(100.5, 2.0, {("reviews", "v1", "outbound"): Row(20, 0, 0, {bucket_of(700): 20})}, more=4)


def test_once(mitmesh: Mitmesh, redis_url: str) -> None:
    assert mitmesh("top", "--once").out == "mesh mesh: 0 live nodes\n"
    tell(redis_url, one=write_traffic(ONE), two=write_traffic(TWO), silent="", strange="{}")
    ran = mitmesh("top", "--once")
    first, *rows = ran.out.splitlines()
    assert ran.code == 0
    assert first == "mesh mesh: 4 live nodes, the last 2 s, 4 more rows of quieter services are not told"
    assert [row.split() for row in rows] == [
        list(top.HEADINGS),
        ["reviews", "v1", "outbound", "100.0", "91.82%", *rows[1].split()[5:8], "2.73%"],
        ["reviews", "v2", "outbound", "10.0", "100%", *rows[2].split()[5:8], "-"],
        ["shop", "unknown", "inbound", "5.0", "100%", *rows[3].split()[5:8], "-"],
    ]
    only = mitmesh("top", "--once", "SHOP").out.splitlines()
    assert [row.split()[0] for row in only[2:]] == ["shop"]
    data = json.loads(mitmesh("top", "--once", "--json").out)
    assert (data["mesh"], data["nodes"], data["more"], len(data["rows"])) == ("mesh", 4, 4, 3)
    row = data["rows"][0]
    assert (row["requests"], row["failed"], row["injected"], row["rate"]) == (110, 9, 3, 100)
    assert row["success"] == pytest.approx(101 / 110, abs=1e-5)
    assert row["p50"] == pytest.approx(2, rel=0.1)
    # 90 of 110 at one node took up to 40 ms; all that is slower was seen by the other one.
    assert row["p95"] == pytest.approx(700, rel=0.1)


@pytest.mark.parametrize("over", ["x", "10", "0", "500ms", "2h"])
def test_usage(mitmesh: Mitmesh, over: str) -> None:
    ran = mitmesh("top", "--once", "--over", over)
    assert (ran.code, ran.out) == (2, "")
    assert f"--over {over}: " in ran.err


def test_no_redis(mitmesh: Mitmesh) -> None:
    ran = mitmesh("top", "--redis", f"redis://127.0.0.1:{free_port()}/0")
    assert ran.code == 1
    assert "cannot reach Redis" in ran.err


class Top:
    """`mitmesh top` as a process of its own."""

    def __init__(self, url: str, *arguments: str, stdout: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [*MITMESH, "top", *arguments],
            cwd=ROOT,
            env={**os.environ, "MITMESH_REDIS": url, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - system calls alone, no Python lock is taken
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def said(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@pytest.fixture
def tops() -> Iterator[contextlib.ExitStack]:
    """Whatever is started in a test ends with it."""
    with contextlib.ExitStack() as stack:
        yield stack


def started(tops: contextlib.ExitStack, *arguments: Any, **more: Any) -> Top:
    process = Top(*arguments, **more)
    tops.callback(process.process.communicate)
    tops.callback(process.process.kill)
    return process


def test_piped_it_tells_a_row_per_line_over_a_lost_redis(valkey: Valkey, tops: contextlib.ExitStack) -> None:
    tell(valkey.url, one=write_traffic(ONE))
    lines, data = started(tops, valkey.url), started(tops, valkey.url, "--json")
    assert lines.said().split() == ["TIME", *top.HEADINGS]
    assert [lines.line().split()[1:3] for _ in range(3)] == [
        ["reviews", "v1"],
        ["reviews", "v2"],
        ["shop", "unknown"],
    ]
    assert json.loads(data.line())["rows"][0]["service"] == "reviews"
    valkey.kill()
    assert lines.said().startswith("warning: cannot reach Redis")
    valkey.start()
    tell(valkey.url, one=write_traffic(ONE))
    assert lines.said() == "connected again\n"
    assert "reviews" in lines.line()
    assert (lines.end(), data.end()) == (130, 130)


def test_on_a_terminal_it_is_drawn_in_place(redis_url: str, tops: contextlib.ExitStack) -> None:
    tell(redis_url, one=write_traffic(ONE))
    terminal, theirs = pty.openpty()
    tops.callback(os.close, terminal)
    drawn = started(tops, redis_url, stdout=theirs)
    os.close(theirs)
    seen = ""
    end = time.monotonic() + 20
    # Twice drawn: the second time over the first.
    while seen.count("REQ/S") < 2:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 65536).decode()
    assert "mesh mesh: 1 live node, the last 1 s" in seen
    assert "reviews" in seen
    assert "90.00%" in seen
    assert "\x1b[1A" in seen
    assert drawn.end() == 130


# Two real proxies


def lean(folder: Path, redis: str, name: str) -> Proxy:
    port = free_port()
    settings = {"mesh_redis": redis, "confdir": str(confdir()), "mesh_node": name, "mesh_service": "web"}
    settings["mesh_access_log"] = str(folder / name / "access.log")
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    script = str(Path(ROOT, "addons/lean_proxy.py"))
    command = [sys.executable, "-P", script, "--mode", f"regular@{port}", "--listen-host", "127.0.0.1", *sets]
    return Proxy(folder / name, redis, port=port, command=command, node=name)


def test_two_proxies_are_added_up_as_a_plain_computation_over_their_logs_does(
    tmp_path: Path, redis_url: str, tops: contextlib.ExitStack
) -> None:
    def slow_at_times(request: Any, connection: Any) -> bytes:
        if "slow" in request.target:
            time.sleep(0.06)
        return answer(503 if "bad" in request.target else 200, b"ok")

    mesh = Mesh(redis_url)
    one, two = lean(tmp_path, redis_url, "one"), lean(tmp_path, redis_url, "two")
    with Upstream(slow_at_times) as upstream, Upstream(saying()) as other, running(one, two):
        revision = mesh.apply(
            f'service: back\nendpoints: {{v1: ["{upstream.address}"], v2: ["{other.address}"]}}\n'
            f"to: v1\nroutes: [{{match: {{path: /v2}}, to: v2}}]"
        )
        for proxy in (one, two):
            proxy.in_force(mesh, revision)
        watching = started(tops, redis_url, "--json", "--over", "1m")
        assert json.loads(watching.line())["nodes"] == 2
        # One sees the fast ones, the other the slow ones: no average of two p95 is the p95 of all.
        with Client(one.port) as client:
            for number in range(60):
                assert client.get("http://back/bad" if number % 10 == 0 else "http://back/").status in (
                    200,
                    503,
                )
            for _ in range(7):
                client.get("http://back/v2")
        with Client(two.port) as client:
            for _ in range(20):
                assert client.get("http://back/slow").status == 200
        rows: dict[str, Any] = {}
        while sum(row["requests"] for row in rows.values()) < 87:
            rows = {row["version"]: row for row in json.loads(watching.line())["rows"]}
        lines = eventually(lambda: logged if len(logged := [*one.lines(), *two.lines()]) == 87 else [])
    assert {version: row["requests"] for version, row in rows.items()} == {"v1": 80, "v2": 7}
    for version, row in rows.items():
        mine = [line for line in lines if (line["version"] == version)]
        failed = sum(line["status"] >= 500 for line in mine)
        assert (row["failed"], row["success"]) == (failed, pytest.approx(1 - failed / len(mine), abs=1e-5))
        lengths = sorted(line["duration_ms"] for line in mine)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            exact = lengths[math.ceil(share * len(lengths)) - 1]
            # A bucket is a tenth wide.
            assert row[name] == pytest.approx(exact, rel=0.12, abs=0.005), name
    assert rows["v1"]["p95"] > 55 > 10 > rows["v1"]["p50"]


def test_a_total_of_nothing_has_not_failed() -> None:
    assert Total("a", "v1", "outbound", 0.0, 0, 0, 0, None, None, None).success == 1.0


def test_status_shows_what_it_did_before(mitmesh: Mitmesh, redis_url: str) -> None:
    tell(redis_url, one=write_traffic(ONE))
    assert "reviews" not in mitmesh("status").out
