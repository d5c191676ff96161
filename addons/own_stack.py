"""How mitmproxy has to be set up beside the mesh, and what it is about to do."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from mitmproxy import ctx, hooks, http, options
from mitmproxy.addonmanager import AddonManager

from addons.exchange import Exchange

logger = logging.getLogger("mesh.own_stack")

_IGNORED = {
    # In the middle of a body it would begin to send what is not routed yet, or is refused.
    "stream_large_bodies": "the mesh itself streams what is large",
    # It would hold for some connections only, and never for answers.
    "body_size_limit": "the mesh passes bodies of any size on and by itself gathers only small ones",
}


def settings(given: options.Options) -> dict[str, Any]:
    """Options to update; `given` is what the user said."""
    # mitmproxy would dial what the client named before anyone has routed the request.
    changes: dict[str, Any] = {"connection_strategy": "lazy"}
    if given.ssl_verify_upstream_trusted_ca is None and given.ssl_verify_upstream_trusted_confdir is None:
        # It brings authorities of its own, but both lanes shall trust the same: the system's.
        system = ssl.get_default_verify_paths()
        changes["ssl_verify_upstream_trusted_ca"] = system.cafile
        changes["ssl_verify_upstream_trusted_confdir"] = system.capath
    return changes


def ignore_limits(updated: set[str]) -> None:
    """Switch off, with a warning, what mitmproxy would do about large bodies behind the mesh's back."""
    for name in updated & _IGNORED.keys():
        if getattr(ctx.options, name):
            logger.warning(f"{name}: ignored, {_IGNORED[name]}")
            setattr(ctx.options, name, None)


def put_first(manager: AddonManager, addons: Sequence[object]) -> None:
    """Add these ahead of all that are there."""
    added = [manager.register(addon) for addon in addons]
    # A new list: events under way go on with the old one.
    manager.chain = [*added, *manager.chain]


def stopping() -> bool:
    """Whether the process ends. An addon's `done` is also called when mesh.py was edited and is loaded anew."""
    return ctx.master.should_exit.is_set()


async def resumed(flow: http.HTTPFlow) -> None:
    """Wait for a flow that an addon holds back. mitmproxy does so after all hooks of an event, the mesh's included."""
    await ctx.master.addons.trigger_event(hooks.UpdateHook([flow]))
    await flow.wait_for_resume()


def upstream_of(flow: http.HTTPFlow) -> asyncio.Transport | None:
    """The connection over which mitmproxy itself has the flow's answer; None: there is none any more."""
    handler = ctx.master.addons.get("proxyserver").connections.get(flow.client_conn.id)
    for end, io in list(handler.transports.items()) if handler is not None else []:
        if end is flow.server_conn and io.writer is not None:
            transport: asyncio.Transport = io.writer.transport
            return transport
    return None


def counted(transform: Any, exchange: Exchange, name: str) -> Callable[[bytes], bytes | list[bytes]]:
    """What an addon's `stream` does, with the bytes counted on the client's side of it."""

    def count(piece: bytes) -> bytes | list[bytes]:
        given = transform(piece) if callable(transform) else piece
        if not isinstance(given, bytes):
            given = list(given)
        size = (
            len(piece) if name == "bytes_in" else len(b"".join(given) if isinstance(given, list) else given)
        )
        setattr(exchange, name, getattr(exchange, name) + size)
        return given

    return count
