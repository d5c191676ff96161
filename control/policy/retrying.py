"""Whether, when and how often a request is tried again."""

import re
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from random import Random

from control.policy.answer_conditions import AnswerCondition, Outcome, compile_condition
from control.policy.facts import Fields
from control.policy.model import Retry

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# An answer that asks for a longer wait is not waited for (Envoy's bound, too); the ordinary pause applies.
LONGEST_RETRY_AFTER = 300.0
_SECONDS = re.compile(r"\d+(\.\d*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How many retries may run beside the first tries (Envoy's retry budget)."""

    percent: float
    min_concurrent: int

    def try_acquire(self, active_requests: int, active_retries: int) -> bool:
        """Whether one more retry may start while so many requests and retries of this service run."""
        return active_retries < max(self.min_concurrent, self.percent / 100 * active_requests)


@dataclass(frozen=True, slots=True)
class CompiledHedge:
    """`after` seconds without an answer one more try begins; no more than `max` are under way at once."""

    after: float
    max: int


@dataclass(frozen=True, slots=True)
class CompiledRetry:
    """`attempts` counts the first try; times are seconds; `needs_body`: some condition looks at the answer's body."""

    source: Retry
    attempts: int
    methods: frozenset[str]
    per_try_timeout: float | None
    other_endpoint: bool
    retry_after: bool
    max_body: int
    backoff_base: float
    backoff_max: float
    budget: RetryBudget | None
    hedge: CompiledHedge | None
    conditions: tuple[AnswerCondition, ...]
    needs_body: bool
    # Most answers are good: these two say so without asking every condition.
    statuses: frozenset[int] = field(repr=False)
    looks_inside: bool = field(repr=False)


def compile_retry(retry: Retry) -> CompiledRetry:
    conditions = tuple(compile_condition(condition, retry.max_body) for condition in retry.on)
    return CompiledRetry(
        source=retry,
        attempts=retry.attempts,
        methods=IDEMPOTENT if retry.methods is None else frozenset(retry.methods),
        per_try_timeout=retry.per_try_timeout,
        other_endpoint=retry.other_endpoint,
        retry_after=retry.retry_after,
        max_body=retry.max_body,
        backoff_base=retry.backoff.base,
        backoff_max=retry.backoff.max,
        budget=None
        if retry.budget is None
        else RetryBudget(retry.budget.percent, retry.budget.min_concurrent),
        hedge=None if retry.hedge is None else CompiledHedge(retry.hedge.after, retry.hedge.max),
        conditions=conditions,
        needs_body=any(condition.needs_body for condition in conditions),
        statuses=frozenset(status for condition in conditions for status in condition.statuses),
        looks_inside=any(condition.looks_inside for condition in conditions),
    )


def why_retry(retry: CompiledRetry, outcome: Outcome) -> str | None:
    """The first condition that holds, as written (`5xx`, `503`, `body "failure\\n"`); None: the answer stands."""
    if outcome.error is None and not retry.looks_inside and outcome.status not in retry.statuses:
        return None
    for condition in retry.conditions:
        if condition.holds(outcome):
            return condition.label
    return None


def may_resend(retry: CompiledRetry, method: str, has_idempotency_key: bool, error: str | None) -> bool:
    """Whether sending the request once more can do no harm (RFC 9110, 9.2.2), or the policy or the caller says so.

    After `connect-failure` every method may: nothing was sent.
    """
    return error == "connect-failure" or has_idempotency_key or method in retry.methods


def has_idempotency_key(fields: Fields) -> bool:
    """Whether the caller marked the request as safe to send again."""
    return any(name.lower() in (b"idempotency-key", b"x-idempotency-key") for name, _ in fields)


def pause(retry: CompiledRetry, tries_done: int, random: Random) -> float:
    """Seconds to wait after that many tries: full jitter in [0, min(max, base * 2^(n-1)))."""
    return random.random() * min(retry.backoff_max, retry.backoff_base * 2.0 ** (tries_done - 1))


def retry_after(fields: Fields, now: float) -> float | None:
    """Seconds that an answer's Retry-After asks to wait (RFC 9110, 10.2.3: seconds or a date), `now` in epoch seconds.

    None: absent, unreadable, or longer than `LONGEST_RETRY_AFTER`. A date in the past is 0.
    """
    value = next((value for name, value in fields if name.lower() == b"retry-after"), None)
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    try:
        seconds = float(text) if _SECONDS.fullmatch(text) else max(0.0, _epoch(text) - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return seconds if 0 <= seconds <= LONGEST_RETRY_AFTER else None


def _epoch(date: str) -> float:
    """Of a date in any of HTTP's three forms; one without a zone is GMT."""
    moment = parsedate_to_datetime(date)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


__all__ = [
    "IDEMPOTENT",
    "LONGEST_RETRY_AFTER",
    "CompiledHedge",
    "CompiledRetry",
    "Outcome",
    "RetryBudget",
    "compile_retry",
    "has_idempotency_key",
    "may_resend",
    "pause",
    "retry_after",
    "why_retry",
]
