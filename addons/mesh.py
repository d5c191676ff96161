"""The mesh as a mitmproxy script: `mitmdump -s addons/mesh.py`.

The features are added one by one at the end of mitmproxy's own chain. There
every other addon has had its say about a request before it is routed, and a
bug in one feature cannot switch off the next, as it would inside one script.
"""

import sys
from pathlib import Path

from mitmproxy import ctx, hooks
from mitmproxy.addonmanager import Loader

# mitmproxy puts this file's folder on sys.path, never the one above it: in a bare checkout
# `addons` and `control` would not be found.
_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from addons.access_log import AccessLog  # noqa: E402
from addons.fast_lane import FastLane  # noqa: E402
from addons.faults import Faults  # noqa: E402
from addons.forwarder import Forwarder  # noqa: E402
from addons.passthrough import Passthrough  # noqa: E402
from addons.policy_feed import PolicyFeed  # noqa: E402
from addons.retry import Retry  # noqa: E402
from addons.routing import Routing  # noqa: E402


def chain() -> list[object]:
    """The features in the order of a request's life."""
    routing, forwarder = Routing(), Forwarder()
    return [
        PolicyFeed(),  # pins the snapshot that all below look at
        routing,  # decides the service and route; nothing below works without
        Passthrough(routing, forwarder),  # takes what cannot be buffered, before its body is read
        Faults(),  # beneath retry: acts on each attempt before it goes out
        Retry(),  # judges each attempt's outcome, a fault's included
        forwarder,  # runs the attempts, asking the two above
        FastLane(),  # takes HTTP/1.1 connections over; runs the hooks of all addons itself
        AccessLog(),  # last, so that it tells the final answer
    ]


class Mesh:
    """Adds the chain when the script is loaded and takes it away when it is unloaded."""

    def __init__(self) -> None:
        self.features: list[object] = []

    def load(self, loader: Loader) -> None:
        self.features = chain()
        ctx.master.addons.add(*self.features)

    def configure(self, updated: set[str]) -> None:
        # Later changes of options reach the features themselves; this is for the first values.
        if self.features and updated >= set(ctx.options.keys()):
            for feature in self.features:
                ctx.master.addons.invoke_addon_sync(feature, hooks.ConfigureHook(updated))

    def running(self) -> None:
        # Called at a reload too, when nobody else tells the new features that the proxy runs.
        for feature in self.features:
            ctx.master.addons.invoke_addon_sync(feature, hooks.RunningHook())

    def done(self) -> None:
        features, self.features = self.features, []
        for feature in features:
            ctx.master.addons.remove(feature)


addons = [Mesh()]
