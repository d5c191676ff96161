"""The mesh as a mitmproxy script: `mitmdump -s addons/mesh.py`.

The features are added one by one at the end of mitmproxy's own chain. There
every other addon has had its say about a request before it is routed, and a
bug in one feature cannot switch off the next, as it would inside one script.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from mitmproxy import ctx, exceptions, hooks
from mitmproxy.addonmanager import Loader

# mitmproxy puts this file's folder on sys.path, never the one above it: in a bare checkout
# `addons` and `control` would not be found.
_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from addons.chain import ahead, chain  # noqa: E402
from addons.fast_lane import FastLane  # noqa: E402
from addons.guard import Guard  # noqa: E402
from addons.halting import halt_others_only  # noqa: E402
from addons.own_stack import put_first, settings, stopping  # noqa: E402

logger = logging.getLogger("mesh")


class Mesh:
    """Adds the chain when the script is loaded and takes it away when it is unloaded."""

    def __init__(self) -> None:
        self.features: list[object] = []

    def load(self, loader: Loader) -> None:
        halt_others_only(ctx.master.addons)
        guard = ctx.master.addons.get("guard")
        if guard is not None:
            ctx.master.addons.remove(guard)
        first, others = ahead(), [*chain(), FastLane()]
        self.features = [*first, *others]
        with _told():
            put_first(ctx.master.addons, first)
            ctx.master.addons.add(*others)
            ctx.options.update(**settings(ctx.options))

    def configure(self, updated: set[str]) -> None:
        # Later changes of options reach the features themselves; this is for the first values.
        if self.features and updated >= set(ctx.options.keys()):
            for feature in self.features:
                # Those behind one that a mistake kept from loading have no options yet.
                if feature in ctx.master.addons:
                    with _told():
                        ctx.master.addons.invoke_addon_sync(feature, hooks.ConfigureHook(updated))

    def running(self) -> None:
        # Called at a reload too, when nobody else tells the new features that the proxy runs.
        for feature in self.features:
            ctx.master.addons.invoke_addon_sync(feature, hooks.RunningHook())

    def done(self) -> None:
        features, self.features = self.features, []
        for feature in features:
            if feature in ctx.master.addons:
                ctx.master.addons.remove(feature)
        if features and not stopping() and ctx.master.addons.get("guard") is None:
            ctx.master.addons.add(Guard())


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """An option's mistake is a line in the log, which ends a start; mitmproxy would add a traceback, or run without us."""
    try:
        yield
    except exceptions.OptionsError as error:
        logger.error(str(error))


addons = [Mesh()]
