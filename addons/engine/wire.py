"""HTTP/1.1 as bytes: heads, chunks, and which fields belong to one connection alone."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

Fields = tuple[tuple[bytes, bytes], ...]

_CR, _LF = b"\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# RFC 9110 section 7.6.1, and the two that only old software sends.
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)

# A recipient that merged such a trailer into the head would read the message, or its sender, differently.
_NO_TRAILERS = frozenset(
    b"authorization connection content-encoding content-length content-range content-type cookie expect host keep-alive"
    b" proxy-authorization proxy-connection set-cookie te trailer transfer-encoding upgrade".split()
)

_PLAIN = frozenset((b"keep-alive", b"close", b"upgrade", b"te", b"keep-alive, upgrade"))


def request_head(method: bytes, target: bytes, fields: Fields, version: bytes = b"HTTP/1.1") -> bytes:
    """The head of a request up to and with its empty line. ValueError when a line break is hidden in a part of it."""
    return _head(b" ".join((method, target, version)), fields)


def answer_head(status: int, reason: bytes, fields: Fields, version: bytes = b"HTTP/1.1") -> bytes:
    """The head of an answer up to and with its empty line. ValueError when a line break is hidden in a part of it."""
    return _head(b" ".join((version, _codes.get(status) or b"%d" % status, reason)), fields)


def _head(first_line: bytes, fields: Fields) -> bytes:
    parts: tuple[bytes, ...] = sum(fields, (first_line,))
    text = b"".join(parts)
    # What an addon or a policy puts into a value cannot become a field or a request.
    # As numbers: for bytes in bytes Python raises and drops an error before it looks.
    if _LF in text or _CR in text or 0 in text:
        raise ValueError("a line break or NUL inside a header")
    return _layouts[len(fields)] % parts


_codes = {status: b"%d" % status for status in range(100, 600)}


class _Layouts(dict[int, bytes]):
    """Heads with that many fields, to be filled in: one operation instead of one per line."""

    def __missing__(self, count: int) -> bytes:
        layout = self[count] = b"%b\r\n" + b"%b: %b\r\n" * count + b"\r\n"
        return layout


_layouts = _Layouts()


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body. Empty data gives nothing, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def last_chunk(trailers: Fields | None = None) -> bytes:
    """The end of a chunked body, with trailers if there are any. ValueError as for heads."""
    if not trailers:
        return LAST_CHUNK
    return _head(b"0", trailers)


def allowed_trailers(fields: Fields) -> Fields | None:
    """The fields that may stand behind a body (RFC 9110 section 6.5.1); None when there are none."""
    return tuple([field for field in fields if field[0].lower() not in _NO_TRAILERS]) or None


def value(fields: Fields, name: bytes) -> bytes | None:
    """The value of the first field of that (lower-case) name."""
    size = len(name)
    for key, found in fields:
        if len(key) == size and key.lower() == name:
            return found
    return None


def tokens(fields: Fields, name: bytes) -> frozenset[bytes]:
    """The lower-case members of a comma-separated field, all its lines together."""
    size = len(name)
    lines = [found for key, found in fields if len(key) == size and key.lower() == name]
    return (
        frozenset(token.strip().lower() for line in lines for token in line.split(b","))
        if lines
        else frozenset()
    )


Choice = tuple[Callable[[Fields], Fields] | None, int]
_chosen: defaultdict[frozenset[bytes], dict[tuple[bytes, ...], Choice]] = defaultdict(dict)
_MOST_REMEMBERED = 500
_LONGEST_REMEMBERED = 1000  # bytes; clients choose the names


def _remember(names: tuple[bytes, ...], drop: frozenset[bytes]) -> None:
    """What `end_to_end` keeps of fields with these names, and the place of the one Connection whose value is to be looked at."""
    known = _chosen[drop]
    lower = [name.lower() for name in names]
    if lower.count(b"connection") > 1 or sum(map(len, names)) > _LONGEST_REMEMBERED:
        return
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    unwanted = HOP_BY_HOP | drop
    kept = [index for index, name in enumerate(lower) if name not in unwanted]
    choose: Any = None
    if len(kept) != len(names):
        choose = itemgetter(*kept) if len(kept) > 1 else partial(_few, tuple(kept))
    known[names] = choose, lower.index(b"connection") if b"connection" in lower else -1


def _few(indices: tuple[int, ...], fields: Fields) -> Fields:
    return tuple([fields[index] for index in indices])


def end_to_end(fields: Fields, drop: frozenset[bytes] = frozenset()) -> Fields:
    """The fields without those of one connection alone (RFC 9110 section 7.6.1), and without `drop`, in lower case.

    The very same tuple where nothing is to go, which is the common case for requests.
    """
    # Which fields go is a question of the names, and heads with the same names come again and again.
    names = next(zip(*fields), ())  # noqa: B905 - each is a pair
    chosen = _chosen[drop].get(names)
    if chosen is not None:
        choose, connection = chosen
        if connection < 0 or fields[connection][1].lower() in _PLAIN:
            return fields if choose is None else choose(fields)
    else:
        _remember(names, drop)
    unwanted = HOP_BY_HOP | drop | tokens(fields, b"connection")
    kept = tuple([field for field in fields if field[0].lower() not in unwanted])
    return fields if len(kept) == len(fields) else kept
