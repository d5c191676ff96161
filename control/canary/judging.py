"""What a canary does next, from its plan, its step and what was seen of the step's traffic. Pure: a table of cases.

The step's requests to the new version are one sample. While the step lasts only what chance can hardly explain
counts, so that one failure among the first few requests ends nothing; at its end the plain figures count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

from control.canary.plan import Plan, number
from control.histogram import EDGES, quantile
from control.traffic import Row

CHANCE = 0.01
"""A limit is broken before the step's end where a service within it would look so bad less often than this."""


@dataclass(frozen=True)
class Window:
    """What was seen of the new version in this step. `elapsed`: seconds that count; `ended`: all proxies have told.

    `waited`: seconds beyond the step's time. `silent` says why there can be no requests, "" if there may be.
    """

    row: Row
    elapsed: float
    ended: bool
    waited: float = 0.0
    silent: str = ""


@dataclass(frozen=True)
class Next:
    """One thing to do: `go` (to the next step), `done`, `back`, or `wait`; and why."""

    action: str
    why: str = ""


def next_action(plan: Plan, step: int, window: Window) -> Next:
    """The one thing to do now at this step (from 0)."""
    seen = counted(plan, window.row)
    enough = seen.requests >= plan.min_requests
    if enough and (broken := _broken(plan, seen, surely=not window.ended)):
        return Next("back", broken)
    if not window.ended:
        return Next("wait")
    if not enough:
        short = f"{seen.requests} of {plan.min_requests} requests to {plan.to} so far"
        if plan.max_wait is not None and window.waited >= plan.max_wait:
            return Next("back", f"not judged, for too little traffic: {short}")
        return Next("wait", f"{short}{f': {window.silent}' if window.silent else ''}")
    return Next("done" if step == len(plan.steps) - 1 else "go")


def counted(plan: Plan, row: Row) -> Row:
    """The row as the plan counts: without the failures that faults made, unless it says so."""
    if plan.count_injected:
        return row
    return Row(row.requests - row.injected, row.failed - row.injected, 0, row.latency)


def error_rate(row: Row) -> float:
    """Failed requests in per cent."""
    return 100 * row.failed / row.requests if row.requests else 0.0


def _broken(plan: Plan, row: Row, *, surely: bool) -> str:
    """Which limit is broken, in words with the figures; "": none."""
    if plan.max_error_rate is not None:
        allowed = plan.max_error_rate / 100
        if _above(row.failed, row.requests, allowed, surely=surely):
            rate = f"{error_rate(row):.2f} % of {row.requests} requests to {plan.to} failed ({row.failed})"
            return f"{rate}, more than {number(plan.max_error_rate)} %"
    if plan.max_p99 is not None:
        most = plan.max_p99 * 1000
        timed = sum(row.latency.values())
        p99 = quantile(row.latency, 0.99)
        slow = slower(row.latency, most)
        # The p99 is above the limit where more than one of a hundred takes longer.
        if p99 is not None and p99 > most and (not surely or _above(slow, timed, 0.01, surely=True)):
            return f"the p99 of {plan.to} is {milliseconds(p99)}, more than {milliseconds(most)} ({timed} requests)"
    return ""


def slower(latency: Mapping[int, int], limit: float) -> int:
    """How many took surely longer than `limit` milliseconds."""
    return sum(count for bucket, count in latency.items() if bucket > 0 and EDGES[bucket - 1] >= limit)


def milliseconds(value: float) -> str:
    return f"{value / 1000:.3g}s" if value >= 1000 else f"{value:.3g}ms"


def _above(count: int, total: int, allowed: float, *, surely: bool) -> bool:
    """Whether `count` of `total` is more than the allowed share; surely: more than chance explains."""
    if total == 0 or count <= allowed * total:
        return False
    return not surely or chance(count, total, allowed) < CHANCE


def chance(count: int, total: int, share: float) -> float:
    """An upper bound of the probability of `count` or more of `total` where each comes with this share (Chernoff).

    For a count above the share; needs no sum over binomial terms, and is never too small.
    """
    if share <= 0:
        return 0.0
    if share >= 1:
        return 1.0
    seen = count / total
    distance = seen * log(seen / share)
    if seen < 1:
        distance += (1 - seen) * log((1 - seen) / (1 - share))
    return exp(-total * distance)
