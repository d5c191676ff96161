"""Regular expressions of the policy language: RE2, so that no pattern can take more than linear time."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import re2

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 20
_SET_OPTIONS = re2.Options()
_SET_OPTIONS.log_errors = False
_SET_OPTIONS.max_mem = 8 << 20


@lru_cache(maxsize=4096)
def compile_regex(pattern: str) -> Any:
    """The compiled RE2 expression; its `fullmatch` takes str. Raises ValueError saying what RE2 objects to."""
    try:
        return re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        hint = "; RE2 has no lookaround and no backreferences" if "(?" in reason or "escape" in reason else ""
        raise ValueError(f"not an RE2 regular expression: {reason}{hint}") from None


class RegexSet:
    """Many expressions that a text is compared with at once, which takes about as long as with one of them."""

    __slots__ = ("_everything", "_set")

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises ValueError when RE2 cannot take them together, which needs memory."""
        self._set = re2.Set.FullMatchSet(_SET_OPTIONS)
        try:
            for pattern in patterns:
                self._set.Add(pattern)
            # Matches always: where it does not, RE2 has run out of memory on the way and says nothing else.
            self._set.Add("(?s).*")
            self._set.Compile()
        except re2.error as error:
            raise ValueError(f"too much for one set of expressions: {error}") from None
        self._everything = tuple(range(len(patterns)))

    def matching(self, text: str) -> Sequence[int]:
        """The places of those that match all of the text, or may do so."""
        found: list[int] = self._set.Match(text)
        if len(self._everything) not in found:
            return self._everything
        found.remove(len(self._everything))
        return found


def check_regex(pattern: str) -> str:
    """The pattern itself, if RE2 takes it; ValueError otherwise."""
    compile_regex(pattern)
    return pattern
