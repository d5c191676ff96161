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

from addons.chain import chain  # noqa: E402
from addons.fast_lane import FastLane  # noqa: E402
from addons.own_stack import settings  # noqa: E402


class Mesh:
    """Adds the chain when the script is loaded and takes it away when it is unloaded."""

    def __init__(self) -> None:
        self.features: list[object] = []

    def load(self, loader: Loader) -> None:
        self.features = [*chain(), FastLane()]
        ctx.master.addons.add(*self.features)
        ctx.options.update(**settings(ctx.options))

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
