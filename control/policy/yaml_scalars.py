"""What an unquoted word of YAML means: by the rules of YAML 1.2's core schema, and where those surprise, text.

Only `true` and `false` are booleans: `on`, `off`, `yes` and `no` are text. Numbers
are decimal: `0777`, `0x10`, `1_000`, `12:30:00` and dates are text. So are
infinity and NaN, which nothing in a policy could mean.
"""

import math
import re
from functools import lru_cache

Scalar = str | int | float | bool | None

INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,99})", re.ASCII)
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@lru_cache(maxsize=8192)
def plain_value(text: str) -> Scalar:
    """The value of a word that stands without quotes."""
    if text in WORDS:
        return WORDS[text]
    if text[0] not in "+-.0123456789" or len(text) > 100:
        return text
    if INTEGER.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text
