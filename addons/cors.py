"""Answers browsers' preflights, and tells them which websites may read an answer."""

import logging

from mitmproxy import http

from addons.answers import made_answer
from addons.exchange import exchange_of
from addons.fails_closed import fails_closed
from addons.needs import needs

logger = logging.getLogger("mesh.cors")

_ALREADY = "mesh_cors"


class Cors:
    """Enforcing: what the service says about origins never takes the place of the policy."""

    @needs("cors")
    @fails_closed(logger, "answer this preflight")
    def mesh_routed(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        if exchange is None or (route := exchange.route) is None or (cors := route.cors) is None:
            return
        if flow.response is not None:
            return
        assert exchange.facts is not None
        fields = cors.answer_to_preflight(exchange.facts)
        if fields is not None:
            flow.response = made_answer(flow.request, 200, b"", (*fields, (b"content-length", b"0")))
            flow.__dict__[_ALREADY] = True

    @needs("cors")
    @fails_closed(logger, "say who may read this answer")
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        if exchange is None or (route := exchange.route) is None or (cors := route.cors) is None:
            return
        if flow.response is None or exchange.facts is None or _ALREADY in flow.__dict__:
            return
        headers = flow.response.data.headers
        headers.fields = cors.apply(exchange.facts, headers.fields)
