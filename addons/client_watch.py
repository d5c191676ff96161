"""Notices in mitmproxy's own lane that a client has left while its request is being forwarded.

mitmproxy tells nobody before the `request` hook has returned; without this a
request that hangs would hang for ever, and a long retry go on for no one.
"""

import asyncio

from mitmproxy import http
from mitmproxy.connection import ConnectionState

from addons.deadline import Deadline

INTERVAL = 0.5
"""Seconds between looks."""


class ClientWatch:
    """From its making until `stop` it ends what the deadline guards when the client is gone.

    A client that ends its side of the connection has left, as in Envoy.
    """

    def __init__(self, flow: http.HTTPFlow, deadline: Deadline) -> None:
        self._client = flow.client_conn
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(INTERVAL, self._look)

    def stop(self) -> None:
        """The request is answered."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._client.state & ConnectionState.CAN_READ:
            self._timer = self._loop.call_later(INTERVAL, self._look)
        else:
            self._deadline.abandon()
