"""Answers that need no service: fixed ones, and redirects."""

import logging

from mitmproxy import http
from mitmproxy.proxy import mode_specs

from addons.answers import made_answer
from addons.exchange import exchange_of
from addons.fails_closed import fails_closed
from addons.needs import needs

logger = logging.getLogger("mesh.direct_answers")


class DirectAnswers:
    """Enforcing: where the policy says so, the service is not called whatever happens here."""

    @needs("respond", "redirect")
    @fails_closed(logger, "answer this request")
    def mesh_routed(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        if exchange is None or (route := exchange.route) is None or flow.response is not None:
            return
        if (fixed := route.respond) is not None:
            flow.response = made_answer(flow.request, fixed.status, fixed.body, fixed.fields)
        elif (redirect := route.redirect) is not None:
            assert exchange.facts is not None
            # A reverse proxy has put its target's name in place of the one that the client wrote.
            known = not isinstance(flow.client_conn.proxy_mode, mode_specs.ReverseMode)
            location = redirect.location(exchange.facts, flow.request.scheme, host_known=known)
            fields = ((b"location", location.encode("latin-1")), (b"content-length", b"0"))
            flow.response = made_answer(flow.request, redirect.status, b"", fields)
