"""What a canary does next: a table of windows; and the window, gathered from reports on a fake clock."""

from dataclasses import replace
from math import comb
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from control.canary.gathering import LATE, Gathering, Told
from control.canary.judging import CHANCE, Window, chance, milliseconds, next_action, slower
from control.histogram import bucket_of
from control.traffic import Row, Traffic, write_traffic
from tests.test_canary_plan import PLAN

FAST, SLOW = bucket_of(40), bucket_of(900)
TIMED = replace(PLAN, max_error_rate=None, max_p99=0.3)


def row(requests: int, failed: int = 0, injected: int = 0, slow: int = 0) -> Row:
    latency = {FAST: requests - slow, SLOW: slow}
    return Row(requests, failed, injected, {bucket: count for bucket, count in latency.items() if count})


RUNNING = {"elapsed": 10.0, "ended": False}
OVER = {"elapsed": 31.0, "ended": True, "waited": 1.0}


@pytest.mark.parametrize(
    ("plan", "step", "seen", "time", "action", "why"),
    [
        # While the step lasts, only what is beyond chance ends it.
        (PLAN, 0, row(0), RUNNING, "wait", ""),
        (PLAN, 0, row(1000), RUNNING, "wait", ""),
        (PLAN, 0, row(60, 1), RUNNING, "wait", ""),
        (PLAN, 0, row(49, 49), RUNNING, "wait", ""),
        (PLAN, 0, row(50, 50), RUNNING, "back", "100.00 % of 50 requests to v2 failed (50), more than 1 %"),
        (PLAN, 0, row(200, 10), RUNNING, "back", "5.00 % of 200 requests to v2 failed (10), more than 1 %"),
        (PLAN, 0, row(10_000, 100), RUNNING, "wait", ""),
        # At its end the plain figures count.
        (PLAN, 0, row(60, 1), OVER, "back", "1.67 % of 60 requests to v2 failed (1), more than 1 %"),
        (PLAN, 0, row(100, 1), OVER, "go", ""),
        (PLAN, 1, row(100, 1), OVER, "done", ""),
        (replace(PLAN, max_error_rate=0.0), 0, row(99_999, 1), RUNNING, "back", "0.00 % of 99999"),
        (replace(PLAN, max_error_rate=100.0), 0, row(99, 99), OVER, "go", ""),
        (replace(PLAN, max_error_rate=None), 0, row(99, 99), OVER, "go", ""),
        # Too few requests: it waits, for ever or as long as is said.
        (PLAN, 0, row(49, 49), OVER, "wait", "49 of 50 requests to v2 so far"),
        (PLAN, 0, row(0), {**OVER, "silent": "no live proxy"}, "wait", "so far: no live proxy"),
        (PLAN, 0, row(0), {**OVER, "waited": 1e9}, "wait", "0 of 50 requests to v2 so far"),
        (replace(PLAN, max_wait=60.0), 0, row(9), {**OVER, "waited": 59.0}, "wait", "9 of 50"),
        (replace(PLAN, max_wait=60.0), 0, row(9), {**OVER, "waited": 60.0}, "back", "too little traffic: 9 of 50"),
        # Failures on purpose are no failures, unless they are to be.
        (PLAN, 0, row(100, 40, 40), OVER, "go", ""),
        (PLAN, 0, row(60, 20, 20), OVER, "wait", "40 of 50 requests to v2 so far"),
        (PLAN, 0, row(100, 41, 40), OVER, "back", "1.67 % of 60 requests"),
        (replace(PLAN, count_injected=True), 0, row(100, 40, 40), RUNNING, "back", "40.00 % of 100"),
        # The p99, by the same rule.
        (TIMED, 0, row(1000, 999), RUNNING, "wait", ""),
        (TIMED, 0, row(100, slow=2), RUNNING, "wait", ""),
        (TIMED, 0, row(100, slow=2), OVER, "back", "the p99 of v2 is "),
        (TIMED, 0, row(100, slow=10), RUNNING, "back", "more than 300ms (100 requests)"),
        (TIMED, 0, row(200, slow=1), OVER, "go", ""),
        (replace(TIMED, max_p99=2.0), 0, row(100, slow=99), OVER, "go", ""),
    ],
)  # fmt: skip
def test_what_comes_next(plan: Any, step: int, seen: Row, time: Any, action: str, why: str) -> None:
    found = next_action(plan, step, Window(seen, **time))
    assert found.action == action
    assert why in found.why if why else found.why == ""


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.001, 0.5))
def test_chance_is_never_told_too_small(total: int, count: int, share: float) -> None:
    assume(share * total < count <= total)
    exact = sum(comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(count, total + 1))
    assert chance(count, total, share) >= exact * (1 - 1e-9)


def test_five_per_cent_are_seen_within_two_hundred_requests() -> None:
    assert chance(10, 200, 0.01) < CHANCE < chance(1, 60, 0.01)
    assert (chance(1, 9, 0.0), chance(9, 9, 1.0)) == (0.0, 1.0)


def test_figures() -> None:
    assert slower({0: 1, FAST: 2, SLOW: 3}, 300) == 3
    assert slower({FAST: 2}, 40) == 0
    assert (milliseconds(0.5), milliseconds(300), milliseconds(1500)) == ("0.5ms", "300ms", "1.5s")


# Gathering


def told(node: str, end: float, revision: int = 7, more: int = 0, error: str = "", **versions: Row) -> Told:
    rows = {("reviews", version, "outbound"): each for version, each in versions.items()}
    rows["reviews", "v2", "inbound"] = Row(1000)
    rows["other", "v2", "outbound"] = Row(1000)
    return Told(node, revision, write_traffic(Traffic(end, 1.0, rows, more)), error)


def gathering() -> Gathering:
    return Gathering("reviews", ("v2", "v1"), 7, 2.0, 100.0)


def test_each_report_counts_once_from_the_second_on() -> None:
    seen = gathering()
    for at, ends in ((100.4, (1, 1)), (100.8, (2, 1)), (101.2, (2, 2)), (101.6, (2, 2)), (102.0, (3, 3))):
        seen.take([told("one", ends[0], v2=Row(10, 1), v1=Row(5)), told("two", ends[1], v2=Row(1))], at)
    assert seen.row("v2") == Row(22, 2)
    assert seen.row("v1") == Row(10)
    assert seen.row("v3") == Row()


def test_a_step_ends_when_each_proxy_told_after_its_time() -> None:
    seen = gathering()
    seen.take([told("one", 1), told("two", 1)], 100.5)
    seen.take([told("one", 2), told("two", 2)], 101.5)
    assert not seen.window("v2", 101.5).ended
    seen.take([told("one", 3), told("two", 2)], 102.5)
    assert not seen.window("v2", 102.5).ended
    seen.take([told("one", 3), told("two", 3)], 102.6)
    window = seen.window("v2", 102.6)
    assert (window.ended, window.elapsed, window.waited) == (True, pytest.approx(2.1), pytest.approx(0.1))


def test_a_proxy_that_tells_nothing_more_holds_a_step_up_for_some_seconds_only() -> None:
    seen = gathering()
    for at in (100.5, 101.5, 102.5, 103.5, 104.5, 105.6):
        seen.take([told("one", at), told("two", 1)], at)
    assert not seen.window("v2", 102.5 + LATE - 0.1).ended
    assert seen.window("v2", 102.5 + LATE).ended


def test_a_proxy_that_has_not_taken_the_split_does_not_count_and_delays_the_start_a_little() -> None:
    seen = gathering()
    old = told("old", 1, revision=6, error="refused", v2=Row(99))
    seen.take([told("one", 1), old], 101.0)
    assert (seen.elapsed(101.0), [each.node for each in seen.behind]) == (0.0, ["old"])
    seen.take([told("one", 2, v2=Row(1)), replace(old, traffic=told("", 2, v2=Row(99)).traffic)], 100 + LATE)
    assert (seen.row("v2").requests, seen.elapsed(101 + LATE)) == (1, 1.0)
    seen.take([told("one", 3), told("old", 3, revision=8)], 101 + LATE)
    assert seen.behind == ()


def test_time_without_redis_does_not_count() -> None:
    seen = gathering()
    seen.take([told("one", 1)], 100.0)
    seen.take([told("one", 2)], 101.0)
    seen.take([told("one", 60)], 161.0)
    assert seen.elapsed(161.5) == pytest.approx(1.5)


def test_why_there_may_be_no_requests() -> None:
    seen = gathering()
    seen.take([], 100.0)
    assert seen.window("v2", 109.0).silent == "no live proxy"
    assert seen.window("v2", 109.0).ended
    seen.take([told("one", 1, more=3), Told("new", 7, "")], 101.0)
    assert "no room" in seen.window("v2", 109.0).silent
    seen.take([told("one", 2, more=3, v2=Row(1))], 102.0)
    assert seen.window("v2", 109.0).silent == ""
