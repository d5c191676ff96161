"""Catches what the features before it let fall: mitmproxy would send it to where the client wished."""

from mitmproxy import http

from addons.answers import own_answer
from addons.engine.marks import elsewhere
from addons.engine.outcome import is_killed
from addons.exchange import exchange_of
from addons.relay import relayed


class Backstop:
    """Enforcing: a request that has neither an answer nor a way of the mesh's choice goes nowhere."""

    @elsewhere
    def request(self, flow: http.HTTPFlow) -> None:
        if flow.response is not None or is_killed(flow):
            return
        exchange = exchange_of(flow)
        if relayed(flow) or (exchange is not None and exchange.streamed):
            return
        self.mesh_unanswered(flow)

    def mesh_unanswered(self, flow: http.HTTPFlow) -> None:
        """The engine asks, when nobody has answered a request."""
        exchange = exchange_of(flow)
        own_answer(flow, exchange, 500, "IE", "the mesh failed to handle this request; see the proxy's log")
