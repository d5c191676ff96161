"""Shows the service another path or Host than the caller wrote. Log, routing and redirects go by the caller's."""

import logging

from mitmproxy import http

from addons.engine.wire import value
from addons.exchange import exchange_of
from addons.fails_closed import fails_closed
from addons.needs import needs

logger = logging.getLogger("mesh.rewrite")

ORIGINAL_PATH = b"x-envoy-original-path"
ORIGINAL_HOST = b"x-envoy-original-host"
"""Envoy's names, since frameworks know them."""


class Rewrite:
    """Enforcing: what cannot be rewritten is not sent as it was."""

    @needs("rewrite")
    @fails_closed(logger, "rewrite this request")
    def mesh_routed(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        if exchange is None or (route := exchange.route) is None or (rewrite := route.rewrite) is None:
            return
        if flow.response is not None:
            return
        assert exchange.facts is not None
        request = flow.request
        if rewrite.path is not None:
            target = rewrite.path.target(exchange.facts).encode("latin-1")
            if target != request.data.path:
                _note(request, ORIGINAL_PATH, request.data.path)
                request.data.path = target
        if rewrite.host is not None:
            before = request.host_header or request.data.host
            if before != rewrite.host:
                _note(request, ORIGINAL_HOST, before.encode("utf-8", "surrogateescape"))
                # The destination stays: this sets the field, or the authority of HTTP/2, alone.
                request.host_header = rewrite.host


def _note(request: http.Request, name: bytes, text: bytes) -> None:
    """Set a field in place of one that the caller may have made up."""
    headers = request.data.headers
    if value(headers.fields, name) is not None:
        headers.fields = tuple(field for field in headers.fields if field[0].lower() != name)
    headers.fields += ((name, text),)
