"""What the loaded addons want to see that costs something, so that it is only done where one does."""

import logging
from functools import cache
from typing import Any

from mitmproxy import ctx

from addons.engine.marks import is_of_a_user, is_of_the_mesh
from addons.engine.narrowed_hooks import Hooks
from addons.engine.wire import Fields, value

logger = logging.getLogger("mesh.engine")

MOST = 1024 * 1024
"""Bytes; no longer answer is gathered for those who look at bodies."""
_ENDLESS = (b"text/event-stream", b"application/grpc")


def wants_messages(hooks: Hooks) -> bool:
    """Whether an addon looks at WebSocket messages, which only mitmproxy's own layer can show it."""
    return not all(map(is_of_the_mesh, hooks.find("websocket_message")))


def wants_bodies(hooks: Hooks) -> bool:
    """Whether an addon may look at the bodies of ordinary answers: a script's `response`, a view, a file of flows."""
    if any(map(is_of_a_user, hooks.find("response"))):
        return True
    options = getattr(ctx, "options", None)
    return bool(
        hooks.has_addon("view")
        or _option(options, "save_stream_file", None)
        or _option(options, "hardump", "")
        or _option(options, "modify_body", None)
        or _option(options, "flow_detail", 0) >= 3
    )


def wants_whole(hooks: Hooks, fields: Fields) -> bool:
    """Whether an addon may look at the body of an answer with these fields, which is none that cannot wait for its end."""
    kind = value(fields, b"content-type")
    return (kind is None or not kind.lower().startswith(_ENDLESS)) and wants_bodies(hooks)


def is_long(fields: Fields) -> bool:
    """Whether an answer is known by its fields to have more than MOST."""
    length = value(fields, b"content-length")
    return length is not None and int(length) > MOST


@cache
def tell_of_long() -> None:
    """Once in a process, since it would be true of every such answer."""
    logger.warning(
        "an answer was passed on without its body in flow.response, where an addon may look for it: it has more than "
        "1 MiB, or an unknown length; flow.response.stream = False in responseheaders gathers all of it, = True says "
        "that it is not needed (told once)"
    )


def _option(options: Any, name: str, default: Any) -> Any:
    """An option that not every master has."""
    return getattr(options, name) if options is not None and name in options else default
