"""What mitmproxy's own stack does with the body of an answer that passes through it: streams and counts it, or gathers it."""

from mitmproxy import http

from addons.engine.narrowed_hooks import Hooks
from addons.engine.wire import value
from addons.engine.wishes import is_long, tell_of_long, wants_whole
from addons.exchange import Exchange
from addons.own_stack import counted


def stream_or_gather(response: http.Response, exchange: Exchange, hooks: Hooks | None) -> None:
    """Let those who look at bodies have this one whole, if it is sure to be short: mitmproxy cannot change its mind."""
    fields = response.headers.fields
    wanted = hooks is not None and response.status_code != 101 and wants_whole(hooks, fields)
    short = value(fields, b"content-length") is not None and not is_long(fields)
    if not (wanted and short) or "stream" in vars(response):
        stream(response, exchange, missed=wanted)


def stream(response: http.Response, exchange: Exchange, missed: bool) -> None:
    """Stream it, in the way that an addon has asked for, unless one has asked to have it whole.

    missed: somebody looks for the body who has asked for nothing, perhaps.
    """
    said = vars(response).get("stream")
    if said is None and missed:
        tell_of_long()
    if said is not False:
        response.stream = counted(said, exchange, "bytes_out")
