"""Answers in place of what an addon has made unfit to be sent, before anybody counts or logs it as what was sent."""

import logging

from mitmproxy import http

from addons.answers import own_answer
from addons.engine.carrier import carrier_of
from addons.engine.delivery import check
from addons.engine.marks import beside_others
from addons.exchange import exchange_of

logger = logging.getLogger("mesh.sendable")


class Sendable:
    """For the fast lane, which writes no line break that is hidden in a header, and no status that is no answer's."""

    @beside_others
    def response(self, flow: http.HTTPFlow) -> None:
        carrier, response = carrier_of(flow), flow.response
        if carrier is None or response is None:
            return
        if carrier.answer is not None and (response.stream or response.data.content is None):
            # It has gone out already, bit by bit.
            return
        try:
            check(response)
        except Exception as error:
            logger.error(
                f"an answer of {flow.request.host} that an addon has changed cannot be sent: {error}"
            )
            own_answer(flow, exchange_of(flow), 500, "IE", "the answer cannot be sent; see the proxy's log")
