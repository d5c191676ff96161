"""Where a client's request wants to go, by the listener's mode and the form of its target."""

import re
from typing import NamedTuple

from mitmproxy import connection
from mitmproxy.proxy import mode_specs

from addons.engine.incoming import Incoming
from addons.engine.request_reader import BadRequest
from addons.engine.wire import Fields, value

_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(?::([0-9]{1,5}))?")
_PORTS = {b"http": 80, b"https": 443}


class Destination(NamedTuple):
    """host, port and scheme to connect to; path in origin form; fields with the Host that belongs to it."""

    host: str
    port: int
    scheme: bytes
    path: bytes
    fields: Fields


def split_authority(authority: bytes, default_port: int) -> tuple[str, int]:
    """`host:port`, `host` or `[v6]:port`. Raises BadRequest."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise BadRequest(400, "a bad host name")
    port = int(found[2]) if found[2] else default_port
    if not 0 < port < 65536:
        raise BadRequest(400, "a bad port")
    return found[1].decode("latin-1").strip("[]"), port


def split_target(target: bytes) -> tuple[bytes, bytes, bytes]:
    """`http://host/path` -> scheme, authority, path. Raises BadRequest."""
    scheme, separator, rest = target.partition(b"://")
    scheme = scheme.lower()
    if not separator or scheme not in _PORTS:
        raise BadRequest(400, "a target that is neither a path nor an http or https URL")
    end = min((index for mark in b"/?" if (index := rest.find(bytes((mark,)))) >= 0), default=len(rest))
    path = rest[end:]
    return scheme, rest[:end], path if path.startswith(b"/") else b"/" + path


class Destinations:
    """For one listener in one mode; `find` is cheap for targets in origin form that name the same host.

    own_host: the proxy's own name, which leads nowhere else in any mode.
    """

    def __init__(self, mode: mode_specs.ProxyMode, keep_host: bool, own_host: str = "") -> None:
        self._own = own_host
        self._own_bytes = own_host.encode()
        self._fixed: tuple[str, int, bytes] | None = None
        self._host: bytes | None = None
        self._transparent = isinstance(mode, mode_specs.TransparentMode)
        if isinstance(mode, mode_specs.ReverseMode):
            host, port = mode.address[:2]
            scheme = mode.scheme.encode()
            self._fixed = (host, port, scheme)
            if not keep_host:
                shown = f"[{host}]" if ":" in host else host
                self._host = (shown if _PORTS.get(scheme) == port else f"{shown}:{port}").encode()
        self._seen: dict[bytes, tuple[str, int]] = {}

    def find(self, request: Incoming, client: connection.Client) -> Destination:
        """Raises BadRequest for a target that leads nowhere."""
        target = request.target
        fields = request.fields
        named: bytes | None = None
        scheme = b"http"
        if target.startswith(b"/") or target == b"*":
            path = target
        else:
            scheme, named, path = split_target(target)
        host = named if named is not None else value(fields, b"host")
        if host == self._own_bytes and host:
            return Destination(self._own, 80, scheme, path, fields)
        if self._fixed is not None:
            address, port, scheme = self._fixed
            if self._host is not None and host != self._host:
                fields = with_host(fields, self._host)
            elif named is not None:
                fields = with_host(fields, named)
            return Destination(address, port, scheme, path, fields)
        if named is not None:
            # RFC 9112, 3.2.2: a proxy ignores the Host that came with an absolute URL.
            if value(fields, b"host") != named:
                fields = with_host(fields, named)
        elif self._transparent:
            address, port = client.sockname[:2]
            return Destination(address, port, scheme, path, fields)
        if not host:
            raise BadRequest(400, "no host to send the request to")
        place = self._seen.get(scheme + host)
        if place is None:
            place = split_authority(host, _PORTS[scheme])
            if len(self._seen) < 1000:
                self._seen[scheme + host] = place
        return Destination(place[0], place[1], scheme, path, fields)


def with_host(fields: Fields, host: bytes) -> Fields:
    """The fields with that Host first, in place of any other."""
    return (
        (b"Host", host),
        *[field for field in fields if len(field[0]) != 4 or field[0].lower() != b"host"],
    )
