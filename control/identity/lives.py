"""When a certificate is renewed, and when its end is near. Pure: times are Unix seconds, chance is an argument."""

from dataclasses import dataclass

ENDING = 0.25
"""The share of its life from which on a certificate that was not renewed is warned of."""
_JITTER = 0.1
_NEW_ROOT_WITHIN = 5.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


@dataclass(frozen=True)
class Life:
    """A certificate's, since it was obtained here: it may be backdated. chance: from 0 to 1, drawn once for each."""

    obtained: float
    not_after: float
    chance: float = 0.5

    @property
    def length(self) -> float:
        return max(0.0, self.not_after - self.obtained)

    @property
    def renewal(self) -> float:
        """Half of its life, a tenth of it sooner or later, so that proxies started together do not ask together."""
        return self.obtained + self.length * (0.5 + _JITTER * (2 * self.chance - 1))

    def renewal_under(self, new_root_since: float) -> float:
        """As `renewal`, where another root has signed since then: soon."""
        return min(self.renewal, new_root_since + self.chance * min(_NEW_ROOT_WITHIN, self.length / 10))

    def left(self, now: float) -> float:
        """The share of its life that is left, from 1 to 0."""
        return max(0.0, min(1.0, (self.not_after - now) / self.length)) if self.length else 0.0

    def ending(self, now: float) -> bool:
        return self.left(now) <= ENDING


def pause(failures: int, left: float, chance: float) -> float:
    """Seconds until the next try after so many failed ones, with `left` seconds of the present certificate to live.

    Doubles from half a second to half a minute, sooner where the end is near, with full jitter above the half.
    """
    longest = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, left / 10)) if left > 0 else _LONGEST_PAUSE
    return float(min(longest, _SHORTEST_PAUSE * 2 ** min(failures, 10))) * (0.5 + chance / 2)
