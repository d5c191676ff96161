"""What `mitmesh proxy` runs: mitmdump's command line on a master that has only what a proxy of the mesh needs."""

import asyncio
import gc
import sys
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from addons import lean_imports  # noqa: E402

lean_imports.install()

from mitmproxy import exceptions, hooks, master, options  # noqa: E402
from mitmproxy.addonmanager import Loader  # noqa: E402
from mitmproxy.addons import (  # noqa: E402
    core,
    errorcheck,
    next_layer,
    proxyserver,
    script,
    termlog,
    tlsconfig,
)
from mitmproxy.tools import cmdline  # noqa: E402
from mitmproxy.tools import main as tools  # noqa: E402

from addons.chain import ahead, chain  # noqa: E402
from addons.engine.hooks import HookTable  # noqa: E402
from addons.halting import halt_others_only  # noqa: E402
from addons.listener import Listeners  # noqa: E402
from addons.mtls import Mtls  # noqa: E402
from addons.own_stack import settings  # noqa: E402
from addons.workers import (  # noqa: E402
    end_with_supervisor,
    supervise,
    take_workers,
    tell_ready,
    worker_number,
)
from control.policy.snapshot import Snapshot  # noqa: E402
from control.policy.units import parse_duration  # noqa: E402


class LeanOptions:
    """What only `mitmesh proxy` has: its options, and a process of its own to tune."""

    def __init__(self) -> None:
        self._frozen = False

    def load(self, loader: Loader) -> None:
        loader.add_option("mesh_fastlane", bool, True, "Serve HTTP/1.1 in the mesh's own fast lane.")
        loader.add_option(
            "mesh_drain", str, "10s", "How long requests under way may take when the proxy stops."
        )

    def configure(self, updated: set[str]) -> None:
        if "mesh_drain" in updated:
            self.drain()

    def mesh_policy(self, snapshot: Snapshot) -> None:
        """What was made until the first policy stays for good: the collector need not walk through it ever again."""
        if not self._frozen:
            self._frozen = True
            gc.collect()
            gc.freeze()
            # Exchanges leave next to no cycles; the default of 700 would look for them 50 times a second.
            gc.set_threshold(20_000, 20, 50)

    def drain(self) -> float:
        """Seconds. Raises OptionsError."""
        from mitmproxy import ctx

        try:
            return parse_duration(ctx.options.mesh_drain)
        except ValueError as error:
            raise exceptions.OptionsError(f"mesh_drain: {error}, got {ctx.options.mesh_drain!r}") from None


class ErrorCheck(errorcheck.ErrorCheck):
    """mitmproxy's, without its second line: the error was told."""

    async def shutdown_if_errored(self) -> None:
        await asyncio.sleep(0)
        if self.logger.has_errored:
            sys.exit(1)


class LeanMaster(master.Master):
    """The needed built-in addons, the user's scripts, the chain; stops when what runs is done."""

    def __init__(self, opts: options.Options) -> None:
        super().__init__(opts, with_termlog=False)
        halt_others_only(self.addons)
        self._options = LeanOptions()
        self._features = [self._options, *chain()]
        self.addons.add(
            *ahead(),
            # Standard output is the access log's.
            termlog.TermLog(sys.stderr),
            core.Core(),
            proxyserver.Proxyserver(),
            script.ScriptLoader(),
            next_layer.NextLayer(),
            tlsconfig.TlsConfig(),
            *self._features,
            ErrorCheck(),
        )
        mtls = next((feature for feature in self._features if isinstance(feature, Mtls)), None)
        self._listeners = Listeners(HookTable(self.addons), worker_number(), mtls)
        self._listeners.install()

    async def run(self) -> None:
        # What was given on the command line was told already; this is for the defaults.
        updated = set(self.options.keys())
        for feature in self._features:
            self.addons.invoke_addon_sync(feature, hooks.ConfigureHook(updated))
        self.options.update(**settings(self.options))
        await super().run()

    async def running(self) -> None:
        await super().running()
        tell_ready()

    async def done(self) -> None:
        await self._listeners.hooks.trigger("mesh_drain")
        servers = self.addons.get("proxyserver").servers
        await servers.update([])
        await self._listeners.drain(self._options.drain())
        await super().done()


def _mend_eager_tasks() -> None:
    """Python 3.13.0 to 3.13.2: uvloop hands asyncio's eager task factory, which mitmproxy sets, a word it learnt later."""
    if (3, 13) <= sys.version_info < (3, 13, 3):
        plain: Any = asyncio.eager_task_factory  # type: ignore[attr-defined, unused-ignore]

        def factory(loop: Any, coro: Any, *, eager_start: Any = None, **words: Any) -> Any:
            return plain(loop, coro, **words)

        asyncio.eager_task_factory = factory  # type: ignore[attr-defined, unused-ignore]


def main(arguments: list[str]) -> None:
    """Run until told to stop. Exits with 1, and a line on standard error, when it cannot start."""
    workers, arguments = take_workers(arguments)
    if workers > 1:
        sys.exit(supervise(workers, arguments))
    end_with_supervisor()
    if sys.platform != "win32":
        import uvloop

        _mend_eager_tasks()
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        tools.run(LeanMaster, cmdline.mitmdump, arguments)
    except exceptions.OptionsError as error:
        print(f"mitmesh proxy: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
