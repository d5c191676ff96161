"""What the loaded addons want to see that costs something, so that it is only done where one does."""

from typing import Any

from mitmproxy import ctx

from addons.engine.narrowed_hooks import Hooks

_OURS = "addons."
_BUILT_IN = ("addons.", "mitmproxy.")


def wants_messages(hooks: Hooks) -> bool:
    """Whether an addon looks at WebSocket messages, which only mitmproxy's own layer can show it."""
    return any(not _module(hook).startswith(_OURS) for hook in hooks.find("websocket_message"))


def wants_bodies(hooks: Hooks) -> bool:
    """Whether an addon may look at the bodies of ordinary answers: a script's `response`, a view, a file of flows."""
    if any(not _module(hook).startswith(_BUILT_IN) for hook in hooks.find("response")):
        return True
    options = getattr(ctx, "options", None)
    return bool(
        hooks.has_addon("view")
        or _option(options, "save_stream_file", None)
        or _option(options, "modify_body", None)
        or _option(options, "flow_detail", 0) >= 3
    )


def _module(hook: Any) -> str:
    return getattr(hook, "__module__", None) or ""


def _option(options: Any, name: str, default: Any) -> Any:
    """An option that not every master has."""
    return getattr(options, name) if options is not None and name in options else default
