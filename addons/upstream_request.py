"""A flow's request as the head that goes upstream over HTTP/1.1."""

from mitmproxy import http
from mitmproxy.net.http.url import hostport

from addons.engine.upload import Upload
from addons.engine.wire import (
    Fields,
    allowed_trailers,
    chunk,
    end_to_end,
    last_chunk,
    request_head,
    value,
)

# Credentials for a proxy are meant for this one.
_DROPPED = frozenset((b"content-length", b"transfer-encoding", b"expect", b"proxy-authorization"))
_WITH_BODY = (b"POST", b"PUT", b"PATCH")


def head_of(request: http.Request, upload: Upload | None = None, upgrade: bool = False) -> bytes:
    """The head for a request whose whole body is at hand, or is an upload. `upgrade`: ask for what the client asks for.

    Framing is made anew, so what the client sent about it cannot be read in two ways upstream. A request
    that came over HTTP/2 gets the Host and the single Cookie header that HTTP/1.1 wants.
    """
    data = request.data
    fields = end_to_end(data.headers.fields, drop=_DROPPED)
    if not data.http_version.startswith(b"HTTP/1"):
        fields = _as_http1(request, fields)
    elif value(fields, b"host") is None:
        # HTTP/1.0 has none of its own; the URL it asked for names the host.
        host = f"[{request.host}]" if ":" in request.host else request.host
        fields = ((b"host", hostport(request.scheme, host, request.port).encode()), *fields)
    if upgrade and (protocol := value(data.headers.fields, b"upgrade")) is not None:
        fields += ((b"connection", b"upgrade"), (b"upgrade", protocol))
    body = data.content or b""
    if upload is not None:
        if upload.chunked:
            fields += ((b"transfer-encoding", b"chunked"),)
        else:
            fields += ((b"content-length", b"%d" % upload.length),)
    elif data.trailers:
        fields += ((b"transfer-encoding", b"chunked"),)
    elif body or data.method in _WITH_BODY:
        fields += ((b"content-length", b"%d" % len(body)),)
    return request_head(data.method, data.path, fields)


def body_of(request: http.Request) -> bytes:
    """The body, framed as `head_of` says."""
    data = request.data
    body = data.content or b""
    if data.trailers:
        return chunk(body) + last_chunk(allowed_trailers(data.trailers.fields))
    return body


def _as_http1(request: http.Request, fields: Fields) -> Fields:
    cookies = [text for name, text in fields if name.lower() == b"cookie"]
    kept = tuple([field for field in fields if field[0].lower() not in (b"cookie", b"host")])
    host = (request.host_header or request.authority).encode()
    fields = ((b"host", host), *kept)
    if cookies:
        fields += ((b"cookie", b"; ".join(cookies)),)
    return fields
