"""Which requests mitmproxy has to carry itself, in its own lane, since the forwarder holds what it sends."""

from mitmproxy import http

from addons.engine.wire import tokens, value
from addons.forwarder import BUFFER

_BODILESS = ("GET", "HEAD", "OPTIONS", "DELETE", "TRACE")


def needs_own_path(request: http.Request) -> bool:
    """Whether the request's head says that the forwarder cannot hold the request."""
    fields = request.headers.fields
    if b"upgrade" in tokens(fields, b"connection"):
        return True
    if (value(fields, b"content-type") or b"").startswith(b"application/grpc"):
        return True
    length = value(fields, b"content-length")
    if length is not None:
        return length.isdigit() and int(length) > BUFFER
    if request.http_version.startswith("HTTP/1"):
        return value(fields, b"transfer-encoding") is not None
    return request.method not in _BODILESS
