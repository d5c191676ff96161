"""Regular expressions of the policy language: RE2, so that no pattern can take more than linear time."""

from functools import lru_cache
from typing import Any

import re2

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 20


@lru_cache(maxsize=4096)
def compile_regex(pattern: str) -> Any:
    """The compiled RE2 expression; its `fullmatch` takes str. Raises ValueError saying what RE2 objects to."""
    try:
        return re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        hint = "; RE2 has no lookaround and no backreferences" if "(?" in reason or "escape" in reason else ""
        raise ValueError(f"not an RE2 regular expression: {reason}{hint}") from None


def check_regex(pattern: str) -> str:
    """The pattern itself, if RE2 takes it; ValueError otherwise."""
    compile_regex(pattern)
    return pattern
