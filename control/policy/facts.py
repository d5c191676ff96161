"""What a policy may ask about a request. Parts that cost something are read once, when they are first asked for."""

import re
import string
from urllib.parse import quote, unquote_plus

Fields = tuple[tuple[bytes, bytes], ...]

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def field_text(value: bytes) -> str:
    """A field's value as text: UTF-8 where it is that, Latin-1 otherwise (RFC 9110, 5.5); never fails."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def field_map(fields: Fields) -> dict[bytes, bytes]:
    """Lower-case name -> value; the values of a name that stands there more than once joined by ", "."""
    found = {name.lower(): value for name, value in fields}
    if len(found) != len(fields):
        found = {}
        for name, value in fields:
            name = name.lower()
            if name in found:
                value = found[name] + (b"; " if name == b"cookie" else b", ") + value
            found[name] = value
    return found


def _unescape(found: re.Match[str]) -> str:
    char = chr(int(found[1], 16))
    return char if char in _UNRESERVED else found[0].upper()


def _raw(text: str) -> bytes:
    """The bytes of wire text: a character for each byte, or UTF-8 with the rest as surrogates."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


def policy_path(path: str) -> str:
    """A path as people write it, normalized: `/café au lait` -> `/caf%C3%A9%20au%20lait`; escapes stay."""
    return normalize_path(quote(path, safe=string.punctuation))


def normalize_path(path: str) -> str:
    """The path that is matched: Istio's BASE normalization (RFC 3986, 6.2.2, and backslashes as slashes).

    Escapes of unreserved characters are decoded, other escapes spelt in upper case, what is not ASCII is escaped,
    dot segments are removed. `/a/%2e%2E/b%2f` -> `/b%2F`. Double slashes stay.
    """
    if not path.isascii():
        path = "".join(chr(byte) if byte < 128 else f"%{byte:02X}" for byte in _raw(path))
    if "%" in path:
        path = _ESCAPE.sub(_unescape, path)
    if "\\" in path:
        path = path.replace("\\", "/")
    if "/." in path:
        path = undotted(path)
    return path


class RequestFacts:
    """One request as matchers see it.

    `target` is the origin form (path and query) as on the wire, a character for each byte; `fields` are the
    header fields as received; `source` is the calling service, "" when nobody said; `client_ip` is the address that the
    client's connection comes from, "" until somebody sets it who needs it.
    """

    __slots__ = (
        "_by_name",
        "_cookies",
        "_path",
        "_query",
        "client_ip",
        "fields",
        "host",
        "method",
        "port",
        "source",
        "target",
    )

    def __init__(
        self, method: str, host: str, port: int, target: str, fields: Fields, source: str = ""
    ) -> None:
        self.method = method
        self.host = host
        self.port = port
        self.target = target
        self.fields = fields
        self.source = source
        self.client_ip = ""
        self._path: str | None = None
        self._by_name: dict[bytes, bytes] | None = None
        self._query: dict[str, str] | None = None
        self._cookies: dict[str, str] | None = None

    def read_as(self, path: str) -> "RequestFacts":
        """The same request with another normalized path, for a server that reads its path differently."""
        facts = RequestFacts(self.method, self.host, self.port, self.target, self.fields, self.source)
        facts._path = path
        return facts

    @property
    def path(self) -> str:
        """The normalized path without the query, see `normalize_path`."""
        path = self._path
        if path is None:
            path = self.target.partition("?")[0]
            if "%" in path or "/." in path or "\\" in path or not path.isascii():
                path = normalize_path(path)
            self._path = path
        return path

    def field(self, name: bytes) -> str | None:
        """The value of a header field, by its lower-case name; several joined by ", "; None: not there."""
        by_name = self._by_name
        if by_name is None:
            by_name = self._by_name = field_map(self.fields)
        value = by_name.get(name)
        return None if value is None else field_text(value)

    def header(self, name: str) -> str | None:
        """As `field`, for a name in text."""
        return self.field(name.encode("latin-1", "replace"))

    def query(self, name: str) -> str | None:
        """The first value of a query parameter, decoded; "" for a parameter without `=`; None: not there."""
        query = self._query
        if query is None:
            query = self._query = {}
            text = self.target.partition("?")[2]
            if not text.isascii():
                text = _raw(text).decode("utf-8", "replace")
            for part in text.split("&"):
                if part:
                    key, _, value = part.partition("=")
                    query.setdefault(unquote_plus(key), unquote_plus(value))
        return query.get(name)

    def cookie(self, name: str) -> str | None:
        """The first cookie of that name, without the quotes around its value; None: not there."""
        cookies = self._cookies
        if cookies is None:
            cookies = self._cookies = {}
            for part in (self.field(b"cookie") or "").split(";"):
                key, equals, value = part.partition("=")
                if equals:
                    value = value.strip()
                    if len(value) > 1 and value[0] == value[-1] == '"':
                        value = value[1:-1]
                    cookies.setdefault(key.strip(), value)
        return cookies.get(name)


def undotted(path: str) -> str:
    """The path without dot segments (RFC 3986, 5.2.4)."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
