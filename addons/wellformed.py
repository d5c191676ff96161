"""Refuses in mitmproxy's own lane what its parser lets through, though the next server may read it otherwise.

The engine refuses the same while it reads. What mitmproxy makes plain by itself (a line feed alone, a chunk's size with a
space behind it) is no matter: it goes upstream written anew.
"""

import logging
import re

from mitmproxy import ctx, http
from mitmproxy.net.http.url import hostport, parse_authority
from mitmproxy.proxy import mode_specs

from addons.answers import own_answer
from addons.engine.destination import split_authority, with_host
from addons.engine.errors import BadRequest
from addons.engine.marks import elsewhere
from addons.engine.request_reader import FIELDS_LIMIT, TARGET_LIMIT, check_size
from addons.engine.wire import Fields
from addons.exchange import exchange_of
from addons.fails_closed import fails_closed

logger = logging.getLogger("mesh.wellformed")

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"/[!-~]*")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_PORTS = {b"http": 80, b"https": 443}
_REFUSED = "mesh_refused"


class Wellformed:
    """Enforcing. Stands ahead of all addons: what the client sent is judged, not what an addon has made of it."""

    @elsewhere
    @fails_closed(logger, "check this request")
    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if _is_fine(flow):
            _agree(flow)

    @fails_closed(logger, "check this tunnel")
    def http_connect(self, flow: http.HTTPFlow) -> None:
        _is_fine(flow)

    @elsewhere
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        _flag(flow)

    def http_connect_error(self, flow: http.HTTPFlow) -> None:
        _flag(flow)


def is_refused(flow: http.HTTPFlow) -> bool:
    """Whether the client's request was found bad, by mitmproxy or here."""
    return _REFUSED in flow.__dict__


def check(request: http.Request, multiplexed: bool) -> None:
    """Raises BadRequest. multiplexed: it came over HTTP/2 or 3, whose frames say where it ends."""
    data = request.data
    fields = data.headers.fields
    if not multiplexed and data.http_version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadRequest(400, "neither HTTP/1.1 nor HTTP/1.0")
    if not _TOKEN.fullmatch(data.method):
        raise BadRequest(400, "a bad method")
    if len(data.path) > TARGET_LIMIT:
        raise BadRequest(414, f"a request target of more than {TARGET_LIMIT // 1024} KiB")
    if len(fields) > FIELDS_LIMIT:
        raise BadRequest(431, f"more than {FIELDS_LIMIT} header fields")
    check_size(fields)
    for name, text in fields:
        if not _TOKEN.fullmatch(name):
            raise BadRequest(400, "a bad header name")
        if not _VALUE.fullmatch(text):
            raise BadRequest(400, "a line break or another control character inside a header")
    _check_framing(data.method, fields, data.http_version, multiplexed)
    if data.method != b"CONNECT":
        _check_target(data.method, data.path)
    hosts = _all(fields, b"host")
    if len(hosts) > 1 or (not hosts and data.http_version == b"HTTP/1.1" and data.method != b"CONNECT"):
        raise BadRequest(400, "exactly one Host header is needed")
    for host in (*hosts, data.authority):
        if host:
            split_authority(host, _PORTS.get(data.scheme, 80))


def _check_target(method: bytes, path: bytes) -> None:
    if b"#" in path:
        raise BadRequest(400, "a target with a fragment")
    if not _TARGET.fullmatch(path) and (path, method) != (b"*", b"OPTIONS"):
        raise BadRequest(400, "a target that is no path, or with a character that belongs into none")


def _check_framing(method: bytes, fields: Fields, version: bytes, multiplexed: bool) -> None:
    codings, lengths = _all(fields, b"transfer-encoding"), _all(fields, b"content-length")
    if codings and (
        lengths or multiplexed or version == b"HTTP/1.0" or [text.lower() for text in codings] != [b"chunked"]
    ):
        raise BadRequest(400, "a Transfer-Encoding other than chunked, or where none may be")
    if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise BadRequest(400, "a bad Content-Length")
    if method == b"CONNECT" and not multiplexed and (codings or (lengths and int(lengths[0]))):
        raise BadRequest(400, "a CONNECT request with a body")


def _is_multiplexed(flow: http.HTTPFlow) -> bool:
    return (flow.client_conn.alpn or b"").startswith((b"h2", b"h3"))


def _is_fine(flow: http.HTTPFlow) -> bool:
    if flow.error is not None:
        # No addon's yet: mitmproxy has found it bad, tells addons of it all the same, and sends it nowhere.
        flow.__dict__[_REFUSED] = True
        return False
    if flow.is_replay:
        # An operator has made it.
        return False
    try:
        check(flow.request, _is_multiplexed(flow))
    except BadRequest as refusal:
        flow.__dict__[_REFUSED] = True
        own_answer(flow, None, refusal.status, "DPE", f"not a valid request: {refusal.reason}")
        if flow.response is not None and not _is_multiplexed(flow):
            flow.response.headers["connection"] = "close"
        return False
    return True


def _agree(flow: http.HTTPFlow) -> None:
    """Let the host that goes upstream be the one that the client named first (RFC 9112 3.2.2, RFC 9113 8.3.1)."""
    data, mode = flow.request.data, flow.client_conn.proxy_mode
    fields = data.headers.fields
    if _is_multiplexed(flow):
        if data.authority and _all(fields, b"host"):
            data.headers.fields = tuple([field for field in fields if field[0].lower() != b"host"])
    elif isinstance(mode, mode_specs.UpstreamMode):
        return
    elif data.authority:
        # mitmproxy would send the whole URL on.
        named, data.authority = data.authority, b""
        if not isinstance(mode, mode_specs.ReverseMode) or ctx.options.keep_host_header:
            data.headers.fields = with_host(fields, named)
    elif isinstance(mode, mode_specs.RegularMode) and not flow.server_conn.address:
        # Not in a tunnel, so that the host is the URL's or, without one, that of the header.
        for host in _all(fields, b"host"):
            if not _names(host, data):
                shown = f"[{data.host}]" if ":" in data.host else data.host
                named = hostport(data.scheme.decode(), shown, data.port).encode("idna")
                data.headers.fields = with_host(fields, named)


def _names(host: bytes, data: http.RequestData) -> bool:
    """Whether this Host is where the request goes, of whose name mitmproxy may have decoded the punycode."""
    if not host:
        return False
    name, port = split_authority(host, _PORTS.get(data.scheme, 80))
    plain = name.encode("latin-1").decode("utf-8", "surrogateescape")
    decoded, _ = parse_authority(host, check=False)
    return port == data.port and data.host.lower() in (plain.lower(), decoded.lower())


def _all(fields: Fields, name: bytes) -> list[bytes]:
    return [text for key, text in fields if key.lower() == name]


def _flag(flow: http.HTTPFlow) -> None:
    exchange = exchange_of(flow)
    if is_refused(flow) and exchange is not None:
        exchange.flag("DPE")
