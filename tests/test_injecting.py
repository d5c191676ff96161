"""What delays and aborts make of an attempt before it goes out."""

import asyncio
import math

import pytest

from addons.acting import Acting, Hit
from addons.deadline import Deadline
from addons.injecting import inject
from control.policy.answers import FixedAnswer
from control.policy.faulting import FaultState
from control.policy.snapshot import Snapshot
from tests.flows import attempted, make_flow, pinned, snapshot

WITHIN = 20.0


@pytest.mark.parametrize(
    ("delay", "abort", "per_try", "error", "status"),
    [
        (0.001, None, None, None, None),
        (None, FixedAnswer(503, (), b"x"), None, None, 503),
        (0.001, FixedAnswer(503, (), b"x"), None, None, 503),
        (None, "reset", None, "reset", None),
        (60.0, None, 0.001, "timeout", None),
        (None, "hang", 0.001, "timeout", None),
        (60.0, FixedAnswer(503, (), b"x"), 0.001, "timeout", None),
    ],
)
async def test_what_a_fault_makes_of_an_attempt(delay, abort, per_try, error, status):
    exchange = pinned(make_flow())
    attempt = attempted(exchange, delay=delay, abort=abort)
    deadline = Deadline(asyncio.get_running_loop())
    answer = await asyncio.wait_for(inject(attempt, deadline, per_try), WITHIN)
    assert (attempt.error, attempt.status) == (error, status)
    assert answer is (abort if status else None)
    assert attempt.injected is (error is not None or status is not None)
    assert not deadline.expired


@pytest.mark.parametrize("abort", [None, "hang"])
async def test_the_overall_timeout_ends_a_fault(abort):
    exchange = pinned(make_flow())
    attempt = attempted(exchange, delay=60.0, abort=abort)
    deadline = Deadline(asyncio.get_running_loop())
    deadline.start(0.01)
    assert await asyncio.wait_for(inject(attempt, deadline, None), WITHIN) is None
    assert (attempt.error, deadline.expired) == ("timeout", True)


def hits(exchange, policy: Snapshot, attempt) -> Acting:
    """All faults of the service web have hit the attempt."""
    acting = attempt.acting = Acting(exchange, attempt, lambda acting: None)
    for fault in policy.services["web"].own.faults:
        acting.add(Hit(fault, FaultState(fault), fault.effects, None))
    return acting


@pytest.mark.parametrize(
    ("faults", "gone", "left"),
    [
        ("{delay: 1h}", ["{delay: 1h}"], 0.0),
        ("{delay: 1h}, {delay: 10ms}", ["{delay: 1h}"], 0.01),
        ("{abort: hang}", ["{abort: hang}"], None),
        ("{delay: 1h, abort: hang}, {delay: 10ms}", ["{delay: 1h, abort: hang}"], 0.01),
    ],
)
async def test_a_wait_ends_with_its_fault(faults, gone, left):
    policy = snapshot(f"service: web\nfaults: [{faults}]")
    exchange = pinned(make_flow(), policy)
    exchange.facts = object()
    attempt = attempted(exchange)
    acting = hits(exchange, policy, attempt)
    deadline = Deadline(asyncio.get_running_loop())
    waiting = asyncio.ensure_future(inject(attempt, deadline, None))
    await asyncio.sleep(0)
    assert not waiting.done()
    acting.keep({hit.fault.key for hit in acting.hits[1:]})
    assert await asyncio.wait_for(waiting, WITHIN) is None
    assert (attempt.error, attempt.abort, attempt.injected) == (None, None, False)
    # What it has cost, for the metrics.
    assert attempt.delay is None if left is None else left <= attempt.delay < 100
    assert math.isfinite(attempt.delay or 0)


async def test_what_is_still_in_force_goes_on():
    policy = snapshot("service: web\nfaults: [{delay: 1h}, {delay: 2h}]")
    exchange = pinned(make_flow(), policy)
    attempt = attempted(exchange)
    acting = hits(exchange, policy, attempt)
    deadline = Deadline(asyncio.get_running_loop())
    waiting = asyncio.ensure_future(inject(attempt, deadline, None))
    await asyncio.sleep(0)
    acting.keep({acting.hits[1].fault.key})
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert attempt.delay == 7200
    deadline.abandon()
    assert await asyncio.wait_for(waiting, WITHIN) is None
    assert attempt.error == "timeout"
