"""Lengths of time counted in buckets of about 10 % width, so that counts of several proxies can be added up.

Percentiles cannot be merged, buckets can: whoever wants the p99 of two proxies
adds their counts bucket by bucket and asks `quantile` of the sum.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from operator import sub

_DECADES = range(-2, 6)
_STEPS = ((1.0, 2.5, 10), (2.5, 5.0, 8), (5.0, 10.0, 8))


def _edges() -> tuple[float, ...]:
    edges = []
    for decade in _DECADES:
        for low, high, steps in _STEPS:
            for step in range(steps):
                # The 1, 2.5 and 5 of each decade exactly: they are the buckets that Prometheus is told.
                digits = low if step == 0 else round(low * (high / low) ** (step / steps), 4)
                edges.append(float(f"{digits}e{decade}"))
    return (*edges, float(f"1e{_DECADES.stop}"))


EDGES = _edges()
"""Upper edges in milliseconds, from 0.01 to 1,000,000 (17 minutes); bucket i counts EDGES[i-1] < t <= EDGES[i]."""
BUCKETS = len(EDGES) + 1
"""The last bucket is for whatever took longer."""
_LAST = EDGES[-1]


def bucket_of(milliseconds: float) -> int:
    """The bucket that counts this length of time."""
    return bisect_left(EDGES, milliseconds)


def tally(buckets: list[int], milliseconds: list[float]) -> None:
    """Count each length of time in its bucket; the list is sorted, then all of one bucket stand together."""
    milliseconds.sort()
    start, every = 0, len(milliseconds)
    while start < every:
        bucket = bisect_left(EDGES, milliseconds[start])
        end = bisect_right(milliseconds, EDGES[bucket], start) if bucket < len(EDGES) else every
        buckets[bucket] += end - start
        start = end


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """Milliseconds that this share (0 to 1) of what was counted took at most; None: nothing was counted.

    `counts` maps buckets to counts. Between a bucket's edges the counted are taken to be spread evenly, as
    Prometheus' histogram_quantile does; the error is at most the bucket's width, a tenth of the value.
    """
    total = sum(counts.values())
    if total == 0:
        return None
    rank = share * total
    below = 0
    for bucket in sorted(counts):
        count = counts[bucket]
        if count and below + count >= rank:
            if bucket >= len(EDGES):
                return _LAST
            lower = EDGES[bucket - 1] if bucket else 0.0
            return lower + (EDGES[bucket] - lower) * max(0.0, rank - below) / count
        below += count
    return _LAST


def added(all_counts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Bucket by bucket."""
    total: dict[int, int] = {}
    for counts in all_counts:
        for bucket, count in counts.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def grown(now: Sequence[int], before: Sequence[int]) -> dict[int, int]:
    """What was counted between two states of one list of buckets."""
    # Without a step of the interpreter for each of the buckets, of which most are alike.
    growth = list(map(sub, now, before))
    return {bucket: growth[bucket] for bucket in compress(range(len(growth)), growth)}
