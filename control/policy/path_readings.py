"""What an application may take a path for.

Servers differ in how they read a path: some merge slashes, decode escaped ones, drop `;parameters`, remove dots
before or after that. Envoy has a switch for each (normalize_path, merge_slashes, path_with_escaped_slashes_action)
and sends on what it made of the path. Here the path goes on as it came, so a rule that shall not be got around is
asked about every reading.
"""

import re
from urllib.parse import quote, unquote_to_bytes

from control.policy.facts import normalize_path, undotted

LONGEST = 2048
"""Characters of a path that can be read in several ways; a longer one is not looked at, and refused."""
MOST = 100
"""Readings of a path; one that has more is nobody's honest work."""

# Escapes of characters that mean nothing to any server (space, quotes, what is not ASCII) leave one reading.
_ODD = re.compile(r"//|/\.\.?(?:/|$)|[\\;\x00-\x20\x7f]|%(?:0[0-9A-Fa-f]|25|2[eEfF]|3[bB]|5[cC])")
_PARAMETERS = re.compile(r";[^/]*")
_SLASHES = re.compile(r"/{2,}")
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def is_plain(path: str) -> bool:
    """Whether every server reads this path (as on the wire, without the query) alike."""
    return _ODD.search(path) is None


def readings(path: str) -> list[str] | None:
    """Every path that it may be taken for, spelt as rules are; the first is `normalize_path`'s. None: too many to tell.

    A server may do each of these to it, or not, once or more often, in any order.
    """
    if len(path) > LONGEST:
        return None
    found = {path: None}
    waiting = [path]
    while waiting:
        text = waiting.pop()
        for read in (
            _decoded(text),
            text.partition("\0")[0],
            text.replace("\\", "/"),
            _PARAMETERS.sub("", text),
            _SLASHES.sub("/", text),
            undotted(text),
        ):
            if read not in found:
                found[read] = None
                waiting.append(read)
        if len(found) > MOST:
            return None
    return list(dict.fromkeys((normalize_path(path), *map(_spelt, found))))


def _decoded(path: str) -> str:
    return unquote_to_bytes(path.encode("latin-1", "replace")).decode("latin-1")


def _spelt(path: str) -> str:
    """Escapes as in a rule's path, dots and slashes left alone."""
    return _ESCAPES.sub(_upper, quote(path.encode("latin-1", "replace"), safe=_PUNCTUATION))


_ESCAPES = re.compile(r"%[0-9A-Fa-f]{2}")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


def _upper(found: re.Match[str]) -> str:
    char = chr(int(found[0][1:], 16))
    return char if _UNRESERVED.fullmatch(char) else found[0].upper()
