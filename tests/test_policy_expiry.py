"""The expiry of a snapshot's parts: on a clock of the test's, and a loop that is stepped by hand."""

import asyncio

from addons import policy_expiry
from addons.policy_expiry import expire
from control.policy.expiring import stamped
from control.policy.reading import normalize, read_bytes
from control.policy.snapshot import Snapshot, build
from tests.engine_proxy import until


class Holder:
    def __init__(self, text: str, now: float) -> None:
        self.snapshot: Snapshot | None = made(text, now)
        self.swapped = asyncio.Event()
        self.swaps: list[Snapshot] = []

    def put_in_force(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.swapped.set()
        self.swaps.append(snapshot)


def made(text: str, now: float, revision: int = 3) -> Snapshot:
    documents = [stamped(each.policy, None, now) for each in read_bytes(text.encode(), "test.yaml")]
    return build(revision, {each.service: normalize(each) for each in documents}, now=now)


def faults(snapshot: Snapshot) -> list[float]:
    return [fault.effects.delay for fault in snapshot.services["web"].own.faults]


TWO = "service: web\nfaults: [{delay: 1s, for: 10s}, {delay: 2s, for: 1h}, {delay: 3s}]"


async def test_each_part_ends_at_its_time():
    now = 1000.0
    holder = Holder(TWO, now)
    task = asyncio.ensure_future(expire(holder, lambda: now))
    try:
        assert faults(holder.snapshot) == [1, 2, 3]
        now = 1010.0
        holder.swapped.set()  # as a change of the clock would be seen
        await until(lambda: len(holder.swaps) == 1)
        assert faults(holder.swaps[0]) == [2, 3]
        assert (holder.snapshot.revision, holder.snapshot.expires) == (3, 4600.0)
        now = 5000.0
        holder.swapped.set()
        await until(lambda: len(holder.swaps) == 2)
        assert faults(holder.snapshot) == [3]
        assert holder.snapshot.expires is None
    finally:
        task.cancel()


async def test_it_sleeps_until_then_by_itself(monkeypatch):
    # The time of day may be set while it sleeps, so that it looks again and again.
    monkeypatch.setattr(policy_expiry, "LONGEST_SLEEP", 0.001)
    now = 1000.0
    holder = Holder(TWO, now)
    task = asyncio.ensure_future(expire(holder, lambda: now))
    try:
        now = 1009.9
        for _ in range(10):
            await asyncio.sleep(0)
        assert holder.swaps == []
        now = 1010.0
        await until(lambda: holder.swaps)
        assert faults(holder.snapshot) == [2, 3]
    finally:
        task.cancel()


async def test_a_policy_that_comes_meanwhile_is_not_replaced(monkeypatch):
    now = 1010.0
    holder = Holder(TWO, 1000.0)
    newer = made("service: web\nfaults: [{delay: 9s}]", now, revision=4)
    plain = build

    def slowly(*arguments, **named):
        holder.snapshot = newer
        return plain(*arguments, **named)

    monkeypatch.setattr(policy_expiry, "build", slowly)
    task = asyncio.ensure_future(expire(holder, lambda: now))
    try:
        await until(lambda: holder.snapshot is newer)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert holder.swaps == []
        assert holder.snapshot is newer
    finally:
        task.cancel()


async def test_a_failure_is_tried_again(monkeypatch, caplog):
    now = 1010.0
    holder = Holder(TWO, 1000.0)
    plain = build
    calls = []

    def failing(*arguments, **named):
        calls.append(1)
        if len(calls) < 2:
            raise RuntimeError("boom")
        return plain(*arguments, **named)

    monkeypatch.setattr(policy_expiry, "build", failing)
    monkeypatch.setattr(policy_expiry, "_AFTER_FAILURE", 0.0)
    task = asyncio.ensure_future(expire(holder, lambda: now))
    try:
        await until(lambda: holder.swaps)
        assert faults(holder.snapshot) == [2, 3]
        assert "trying again" in caplog.text
    finally:
        task.cancel()
