"""How mitmproxy has to be set up beside the mesh, and what it is about to do."""

import ssl
from typing import Any

from mitmproxy import ctx, options


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


def stopping() -> bool:
    """Whether the process ends. An addon's `done` is also called when mesh.py was edited and is loaded anew."""
    return ctx.master.should_exit.is_set()
