"""Where a client's request wants to go, by the listener's mode and the form of its target."""

import re
from typing import NamedTuple

from mitmproxy import connection
from mitmproxy.proxy import mode_specs

from addons.engine.errors import BadRequest
from addons.engine.incoming import Incoming
from addons.engine.wire import Fields, value

# RFC 3986 section 3.2.2, and bytes beyond ASCII, which browsers send in names of their own.
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%\x80-\xff-]+)(?::([0-9]{0,5}))?")
_PORTS = {b"http": 80, b"https": 443}
_REMEMBERED = 1000
_HASH = ord("#")
"""A number: for bytes Python would raise and drop an error before it looks for them in others."""


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
    """`http://host/path` -> scheme, authority, path (b"" if the URL has none). Raises BadRequest."""
    scheme, separator, rest = target.partition(b"://")
    scheme = scheme.lower()
    if not separator or scheme not in _PORTS:
        raise BadRequest(400, "a target that is neither a path nor an http or https URL")
    end = min((index for mark in b"/?" if (index := rest.find(bytes((mark,)))) >= 0), default=len(rest))
    path = rest[end:]
    return scheme, rest[:end], b"/" + path if path.startswith(b"?") else path


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
        self._places: dict[bytes, dict[bytes | None, tuple[str, int]]] = {scheme: {} for scheme in _PORTS}

    def find(self, request: Incoming, client: connection.Client) -> Destination:
        """Raises BadRequest for a target that leads nowhere."""
        target = request.target
        fields = request.fields
        scheme = b"http"
        host = value(fields, b"host")
        if target.startswith(b"/") or (target == b"*" and request.method == b"OPTIONS"):
            path = target
        else:
            scheme, named, path = split_target(target)
            if not named:
                raise BadRequest(400, "a URL without a host")
            if not path:
                path = b"*" if request.method == b"OPTIONS" else b"/"
            if host != named:
                # RFC 9112, 3.2.2: a proxy ignores the Host that came with an absolute URL.
                host = named
                fields = with_host(fields, named)
        if _HASH in path:
            # As Envoy does: who takes the fragment for a part of the path matches other routes.
            raise BadRequest(400, "a target with a fragment")
        place = self._places[scheme].get(host)
        if place is None and host:
            if host == self._own_bytes:
                return Destination(self._own, 80, scheme, path, fields)
            place = self._place(scheme, host)
        if self._fixed is not None:
            address, port, scheme = self._fixed
            if self._host is not None and host != self._host:
                fields = with_host(fields, self._host)
            # Past the Python of a named tuple's constructor.
            return tuple.__new__(Destination, (address, port, scheme, path, fields))
        if self._transparent:
            address, port = client.sockname[:2]
            return Destination(address, port, b"http", path, fields)
        if place is None:
            raise BadRequest(400, "no host to send the request to")
        return tuple.__new__(Destination, (*place, scheme, path, fields))

    def _place(self, scheme: bytes, host: bytes) -> tuple[str, int]:
        place = split_authority(host, _PORTS[scheme])
        places = self._places[scheme]
        if len(places) < _REMEMBERED:
            places[host] = place
        return place


def with_host(fields: Fields, host: bytes) -> Fields:
    """The fields with that Host first, in place of any other."""
    return ((b"Host", host), *[field for field in fields if field[0].lower() != b"host"])
