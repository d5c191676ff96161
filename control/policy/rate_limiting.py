"""Whether a request finds room in a rate limit's bucket. Pure: clock and state are arguments.

The generic cell rate algorithm in its form of a leaky bucket (ITU-T I.371), which is a token bucket seen from below: every
request pours `cost` into the bucket, `rate` leaks out each microsecond, and what would rise above `capacity` is refused. All
numbers are whole, so that nothing is lost by rounding and Redis' Lua (control/store_scripts.py) counts the very same way.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b
from math import gcd
from typing import Literal

from control.policy.facts import RequestFacts
from control.policy.rates import ByHeader, RateLimit

MOST_BUCKETS = 50_000
"""Buckets that a proxy keeps for one limit. Beyond that the one that was not asked for the longest time starts anew."""
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class CompiledRateLimit:
    """`key` stays the same across snapshots while the limit's text and the place that declares it do: state is kept by it."""

    source: RateLimit
    key: str
    cost: int
    rate: int
    capacity: int
    by: Literal["", "source", "client_ip"]
    header: bytes | None
    shared: bool
    """All proxies count together."""
    allow_without: bool
    """Of a shared one: requests pass while nobody can count them."""

    def bucket(self, facts: RequestFacts, client_ip: str) -> str:
        """Which of the limit's buckets the request is counted in; of bounded length, printable ASCII."""
        if self.header is not None:
            name = facts.field(self.header) or ""
        elif self.by == "source":
            name = facts.source.lower()
        elif self.by == "client_ip":
            # The same client, whichever family the listener's socket has.
            name = client_ip.removeprefix("::ffff:")
        else:
            return ""
        if len(name) > _LONGEST_NAME or not name.isascii() or not name.isprintable():
            return "#" + blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        return name


def compile_rate_limit(limit: RateLimit, owner: str) -> CompiledRateLimit:
    """`owner` names the level that declares it (service, and route if it is one)."""
    per = round(limit.per * 1e6)
    common = gcd(per, limit.requests)
    cost = per // common
    return CompiledRateLimit(
        source=limit,
        key=f"{owner}\n{limit.model_dump_json(exclude_unset=True)}",
        cost=cost,
        rate=limit.requests // common,
        capacity=cost * (limit.burst or limit.requests),
        by=limit.by if isinstance(limit.by, str) else "",
        header=limit.by.header.encode() if isinstance(limit.by, ByHeader) else None,
        shared=limit.scope == "mesh",
        allow_without=limit.without_redis != "deny",
    )


def take(limit: CompiledRateLimit, level: int, at: int, now: int, count: int = 1) -> tuple[int, int, int]:
    """How many of `count` requests pass, the level afterwards, and the wait until one more would (0: all pass).

    `at`: when the bucket had this level. Times are microseconds of one clock; one that went back counts as standing still.
    """
    level = max(0, level - max(0, now - at) * limit.rate)
    granted = min(count, (limit.capacity - level) // limit.cost)
    level += granted * limit.cost
    wait = 0 if granted == count else -((limit.capacity - level - limit.cost) // limit.rate)
    return granted, level, wait


def retry_after(wait: int) -> int:
    """A wait in microseconds as whole seconds, at least 1."""
    return max(1, -(-wait // 1_000_000))


class Buckets:
    """The buckets that one proxy keeps, by limit and name. Bounded, since names may come from callers."""

    def __init__(self, most: int = MOST_BUCKETS) -> None:
        self._most = most
        self._limits: dict[tuple[str, str], OrderedDict[str, tuple[int, int]]] = {}

    def take(self, limit: CompiledRateLimit, service: str, name: str, now: int) -> int:
        """0: the request passes; else microseconds until one would. `now`: microseconds."""
        buckets = self._limits.get((service, limit.key))
        if buckets is None:
            buckets = self._limits[service, limit.key] = OrderedDict()
        level, at = buckets.get(name) or (0, now)
        _, level, wait = take(limit, level, at, now)
        if name not in buckets and len(buckets) >= self._most:
            buckets.popitem(last=False)
        buckets[name] = level, now
        buckets.move_to_end(name)
        return wait

    def forget(self, live: Collection[str]) -> None:
        """Drop the buckets of limits whose key is not among these."""
        self._limits = {key: buckets for key, buckets in self._limits.items() if key[1] in live}

    def __len__(self) -> int:
        return sum(len(buckets) for buckets in self._limits.values())
