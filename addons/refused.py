"""What the engine refuses before it is an exchange: told by the access log and the metrics as the exchanges are."""

import time

from mitmproxy import http

from addons.answers import FLAG_HEADER
from addons.exchange import exchange_of
from addons.policy_feed import PolicyFeed


class Refused:
    """The mesh's hook `mesh_refused(flow)` runs in the fast lane alone: mitmproxy's stack tells nobody what it refuses itself."""

    def __init__(self, feed: PolicyFeed) -> None:
        self._feed = feed

    def mesh_refused(self, flow: http.HTTPFlow) -> None:
        told = flow.response
        assert told is not None
        self._feed.pin(flow)
        # That answer is sent already, whatever else is to be said against this client.
        flow.response = told
        exchange = exchange_of(flow)
        assert exchange is not None
        exchange.flags = [told.headers[FLAG_HEADER]]
        exchange.started = time.perf_counter() - (time.time() - flow.timestamp_created)
