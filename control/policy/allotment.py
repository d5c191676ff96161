"""Which users of a sticky split have which version, so that a change of weights moves as few as can be.

Every user is a point between 0 and WHOLE, by a hash; a version has stretches
of it, as long in all as its share. With two versions, the first by name from
the left and the other from the right, weights alone say which. With more they
cannot: where v1 falls for v3's sake and v2 keeps its share, v2's users stay
only if it is known where v1 and v2 were before. So where it matters `apply`
writes the stretches into the document, and every proxy has the same.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, groupby

from control.policy.hashing import hash64

WHOLE = 10**12
_PER_CENT = WHOLE // 100
_ROUNDING = 64
"""A length that differs by no more than this is the same: what a rounding may make of it."""

Stretches = tuple[tuple[str, int], ...]
"""From the left to the right without gaps: version and length; lengths above 0, WHOLE in all, neighbours differ."""


def plain(weights: Mapping[str, float]) -> Stretches:
    """The stretches where nothing is known of earlier ones: by name. Weights of at least 0, not all of them 0."""
    wanted = _targets(weights)
    names = sorted(wanted)
    lengths = {name: int(wanted[name]) for name in names}
    largest = max(names, key=lambda name: wanted[name])
    lengths[largest] += WHOLE - sum(lengths.values())
    return _joined((name, lengths[name]) for name in names)


def grown(before: Stretches, weights: Mapping[str, float]) -> Stretches:
    """The stretches for these weights that are made of earlier ones.

    A version whose share does not fall keeps all it has; one whose share falls gives from its right end; so nobody else moves.
    """
    by_name = plain(weights)
    return by_name if keeps(before, by_name, weights) else _regrown(before, weights)


def keeps(before: Stretches, after: Stretches, weights: Mapping[str, float]) -> bool:
    """Whether all users of versions whose share does not fall to what `weights` say stay where they are."""
    wanted = _targets(weights)
    had = lengths_of(before)
    kept: dict[str, int] = dict.fromkeys(had, 0)
    for name, length in _overlaps(before, after):
        kept[name] += length
    return all(
        kept[name] >= length - _ROUNDING
        for name, length in had.items()
        if wanted.get(name, 0) >= length - _ROUNDING
    )


def lengths_of(stretches: Stretches) -> dict[str, int]:
    """What each version has in all."""
    lengths: dict[str, int] = {}
    for name, length in stretches:
        lengths[name] = lengths.get(name, 0) + length
    return lengths


def _regrown(before: Stretches, weights: Mapping[str, float]) -> Stretches:
    wanted = _targets(weights)
    had = lengths_of(before)
    goal = {}
    for name in {**wanted, **had}:
        target, has = wanted.get(name, Fraction(0)), had.get(name, 0)
        goal[name] = has if abs(target - has) <= _ROUNDING and target else int(target)
    if all(goal[name] >= had.get(name, 0) for name in goal):
        return before
    # What roundings leave over or lack is on the account of a version that changes anyway, and stays.
    spare = WHOLE - sum(goal.values())
    bearers = [name for name in wanted if goal[name] != had.get(name, 0) and goal[name] + spare >= 0]
    goal[max(bearers or wanted, key=lambda name: (goal[name], name))] += spare
    rising = {name: more for name in sorted(goal) if (more := goal[name] - had.get(name, 0)) > 0}
    surplus = {name: less for name in goal if (less := had.get(name, 0) - goal[name]) > 0}
    made: list[tuple[str, int]] = []
    # From the right to the left.
    for name, length in reversed(before):
        left = gives = min(length, surplus.get(name, 0))
        while left and rising:
            # The neighbour, if it takes any: the fewer stretches the better.
            beside = made[-1][0] if made else ""
            taker = beside if beside in rising else next(iter(rising))
            part = min(left, rising[taker])
            made.append((taker, part))
            left -= part
            rising[taker] -= part
            if not rising[taker]:
                del rising[taker]
        if name in surplus:
            surplus[name] -= gives
        made.append((name, length - gives + left))
    return _joined(reversed(made))


def _targets(weights: Mapping[str, float]) -> dict[str, Fraction]:
    exact = {name: Fraction(str(weight)) for name, weight in weights.items() if weight > 0}
    total = sum(exact.values())
    return {name: weight / total * WHOLE for name, weight in exact.items()}


def _joined(stretches: Iterable[tuple[str, int]]) -> Stretches:
    some = (each for each in stretches if each[1] > 0)
    return tuple(
        (name, sum(length for _, length in group)) for name, group in groupby(some, lambda each: each[0])
    )


def _overlaps(one: Stretches, other: Stretches) -> Iterable[tuple[str, int]]:
    """What has the same version in both."""
    places = [list(accumulate((length for _, length in each), initial=0)) for each in (one, other)]
    first = second = 0
    while first < len(one) and second < len(other):
        start = max(places[0][first], places[1][second])
        end = min(places[0][first + 1], places[1][second + 1])
        if one[first][0] == other[second][0]:
            yield one[first][0], end - start
        if places[0][first + 1] == end:
            first += 1
        if places[1][second + 1] == end:
            second += 1


def to_document(stretches: Stretches) -> list[dict[str, float]]:
    """As a policy says them, in per cent."""
    return [{name: length / _PER_CENT} for name, length in stretches]


def from_document(said: Sequence[Mapping[str, float]]) -> Stretches:
    """What `to_document` has written, or a person; lengths are put right if they are not WHOLE in all."""
    stretches = [(name, round(share * _PER_CENT)) for each in said for name, share in each.items()]
    place = max(range(len(stretches)), key=lambda place: stretches[place][1])
    name, length = stretches[place]
    stretches[place] = (name, length + WHOLE - sum(each[1] for each in stretches))
    return _joined(stretches)


@dataclass(frozen=True, slots=True)
class Allotment:
    """Stretches made ready: `bounds` are where each ends."""

    salt: str
    names: tuple[str, ...]
    bounds: tuple[int, ...]

    def version(self, user: str) -> str:
        """The version of this user, told apart by a text; the same at every proxy."""
        point = hash64(f"{self.salt}\n{user}") * WHOLE >> 64
        return self.names[bisect_right(self.bounds, point)]


def allot(stretches: Stretches, salt: str) -> Allotment:
    """`salt`: the service, so that nobody is in every service's canary."""
    return Allotment(
        salt,
        tuple(name for name, _ in stretches),
        tuple(accumulate(length for _, length in stretches)),
    )
