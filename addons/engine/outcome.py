"""What follows each event of an exchange, and what follows when it does not come to its end."""

import asyncio
import logging
import time

from mitmproxy import flow as mitmproxy_flow
from mitmproxy import http

from addons.engine.carrier import Carrier
from addons.engine.errors import BadRequest, ClientGone, UpstreamError
from addons.engine.server import ServerConnection

logger = logging.getLogger("mesh.engine")

KILLED = mitmproxy_flow.Error.KILLED_MESSAGE
GONE = "Client disconnected."


class Killed(Exception):
    """An addon killed the flow."""


async def settled(flow: http.HTTPFlow, carrier: Carrier) -> None:
    """What follows each event: who shows flows is told, and one that was intercepted waits."""
    rest = carrier.hooks.run("update", [flow])
    if rest is not None:
        await rest
    if flow.intercepted:
        await flow.wait_for_resume()


def is_killed(flow: http.HTTPFlow) -> bool:
    """Whether it goes no further. Any other error that an addon gives a flow is a note, for mitmproxy as well."""
    return flow.error is not None and flow.error.msg == KILLED


def check(flow: http.HTTPFlow) -> None:
    if is_killed(flow):
        raise Killed


async def broke_off(
    client: ServerConnection,
    flow: http.HTTPFlow,
    carrier: Carrier,
    error: Exception | asyncio.CancelledError,
) -> None:
    """What ended the exchange before its end: what was sent of an answer must not look whole."""
    if isinstance(error, asyncio.CancelledError) and not isinstance(error, ClientGone):
        # Perhaps in the midst of `response`, and those behind have not heard that this is the end.
        client.settled = False
        error = RuntimeError("a hook was cancelled")
    if isinstance(error, Killed):
        await _fail(client, flow, carrier, None)
        client.abort()
        return
    if isinstance(error, ClientGone):
        carrier.error = error.refusal
        reason = GONE if error.refusal is None else error.refusal.reason
        last = error.refusal
    else:
        carrier.error = error
        if not isinstance(error, UpstreamError):
            logger.error("a request could not be served", exc_info=error)
        reason = str(error)
        last = BadRequest(*_last_words(error))
    if last is not None and flow.response is not None and not (client.answered or client.settled):
        # Its own answer is not the one that the client gets.
        flow.response = http.Response.make(last.status, last.reason.encode() + b"\n")
    await _fail(client, flow, carrier, reason)
    if last is not None and not client.answered:
        client.refuse(last)
    else:
        client.abort()


async def _fail(client: ServerConnection, flow: http.HTTPFlow, carrier: Carrier, reason: str | None) -> None:
    """Tell the addons, unless they have seen the response. reason: None when the flow tells it already."""
    carrier.end()
    flow.resume()
    if not client.settled:
        client.settled = True
        if reason is not None:
            flow.error = mitmproxy_flow.Error(reason, time.time())
        if (rest := carrier.hooks.event("error", flow)) is not None:
            await rest
        if carrier.hooks.hears_update or flow.intercepted:
            await settled(flow, carrier)


def _last_words(error: Exception) -> tuple[int, str, str]:
    """Status, text and flag for a client that was not told anything yet."""
    if isinstance(error, UpstreamError):
        status, flag = (504, "UT") if error.kind == "timeout" else (502, "UC")
        return status, f"the answer broke off: {error.detail}", flag
    return 500, "the request could not be served; see the proxy's log", "IE"
