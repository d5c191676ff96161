"""Gives every request the policy in force when it arrived; without any policy, nothing passes."""

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from addons import redis_options
from addons.answers import own_answer
from addons.caller import identify
from addons.ending import closing
from addons.engine.hooks import HookTable
from addons.exchange import Exchange, attach, exchange_of
from addons.farewell import farewell
from addons.own_stack import stopping
from addons.policy_keys import verifier_of
from addons.policy_sync import PolicySync
from addons.reports import Reports
from control.policy.snapshot import Snapshot
from control.store import NodeReport, Store

logger = logging.getLogger("mesh.policy_feed")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_RESTART = {*redis_options.REDIS_OPTIONS, "mesh_name", "mesh_node", "mesh_cache", "mesh_policy_key"}


# Of the process, not of an instance: when mesh.py is edited, its addons are made anew and this module is not.
_started = time.time()
_last: tuple[str, str, Snapshot] | None = None


def default_node() -> str:
    """Host, process and start: unique, and readable in `mitmesh status`."""
    return f"{socket.gethostname()}-{os.getpid()}-{int(_started * 1000) & 0xFFFFFF:06x}"


def release() -> str:
    """The installed version, or what a bare checkout is."""
    try:
        return version("mitmesh")
    except PackageNotFoundError:
        return "checkout"


class PolicyFeed:
    """Options: mesh_redis..., mesh_name, mesh_service, mesh_node, mesh_cache, mesh_policy_key, mesh_inbound."""

    def __init__(self) -> None:
        self.sync: PolicySync | None = None
        self.node = default_node()
        self.reports = Reports()
        self.arrived = 0
        """Requests at inbound ports."""
        self._store: Store | None = None
        self._task: asyncio.Task[None] | None = None
        self._runs = asyncio.Event()
        self.service = ""
        """mesh_service, in lower case."""
        self._of = ("", "", "")
        self.inbound: frozenset[int] = frozenset()
        """The ports of mesh_inbound."""

    def load(self, loader: Loader) -> None:
        redis_options.add_options(loader)
        loader.add_option("mesh_service", str, "", "The service that this proxy stands for.")
        loader.add_option("mesh_node", str, "", "This proxy's name in `mitmesh status`.")
        loader.add_option(
            "mesh_cache", str, "", "File for the last good policy, read when Redis is away at start."
        )
        loader.add_option(
            "mesh_policy_key",
            Sequence[str],
            [],
            "Files with the public keys that policy has to be signed with.",
        )
        loader.add_option(
            "mesh_inbound", Sequence[str], [], "Listen ports that stand in front of the local application."
        )

    def configure(self, updated: set[str]) -> None:
        options = ctx.options
        for name in ("mesh_name", "mesh_service", "mesh_node"):
            value = getattr(options, name)
            if value and not _NAME.fullmatch(value):
                raise exceptions.OptionsError(f"{name}: use letters, digits, '.', '_' and '-', got {value!r}")
        if "mesh_name" in updated and not options.mesh_name:
            raise exceptions.OptionsError("mesh_name: give a name, such as mesh")
        try:
            self.inbound = frozenset(_port(text) for text in options.mesh_inbound)
        except ValueError as error:
            raise exceptions.OptionsError(f"mesh_inbound: {error}") from None
        if "mesh_policy_key" in updated:
            verifier_of(options.mesh_name, options.mesh_policy_key)
        if updated & redis_options.REDIS_OPTIONS:
            redis_options.check()
        self.service = options.mesh_service.lower()
        if options.mesh_node:
            self.node = options.mesh_node
        if self._task is not None and updated & _RESTART:
            self._stop(goodbye=True)
            self.running()

    @property
    def store(self) -> Store | None:
        """The Redis that the policy comes from; None before the proxy runs."""
        return self._store

    def running(self) -> None:
        if self._task is not None:
            return
        options = ctx.options
        redis_options.warn()
        self._store = Store(redis_options.redis_url(), options.mesh_name)
        cache = Path(options.mesh_cache).expanduser() if options.mesh_cache else None
        hooks = HookTable(ctx.master.addons)
        last = _last[2] if _last and _last[:2] == (redis_options.redis_url(), options.mesh_name) else None
        self._of = (redis_options.redis_url(), options.mesh_name, self.node)
        self.sync = PolicySync(
            self._store,
            self._describe,
            cache,
            partial(_announce, hooks),
            last=last,
            verifier=verifier_of(options.mesh_name, options.mesh_policy_key, cache),
        )
        follow = closing(self.sync.run, self._store)
        self._task = asyncio.get_running_loop().create_task(follow, name="mesh policy feed")
        self._task.add_done_callback(_say_if_dead)
        self._runs.set()

    def done(self) -> None:
        self._stop(goodbye=stopping())

    def _stop(self, goodbye: bool) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        if self.sync is not None and self.sync.snapshot is not None:
            # For the instance that follows at a reload, should Redis be away at that moment.
            global _last
            _last = (*self._of[:2], self.sync.snapshot)
        if goodbye and self.sync is not None and self.sync.connected:
            if stopping():
                _say_goodbye(*self._of)
            else:
                # Not sooner: a report that is on its way would come after it.
                task.add_done_callback(partial(_say_goodbye, *self._of))

    def requestheaders(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Pin the snapshot. Right after the start it waits for the first policy instead of refusing."""
        sync = self.sync
        snapshot = sync.snapshot if sync is not None else None
        if snapshot is not None and not self.inbound:
            # Most often, as below in short.
            attach(flow, Exchange(snapshot, self.node, self.service, False))
            return None
        if sync is None or (snapshot is None and not sync.settled.is_set()):
            return self._pin_when_settled(flow)
        self.pin(flow)
        return None

    def http_connect(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """A tunnel too, since what is inside may be no HTTP and is not looked at again."""
        return self.requestheaders(flow)

    async def _pin_when_settled(self, flow: http.HTTPFlow) -> None:
        # mitmproxy accepts connections before it says that it runs.
        await self._runs.wait()
        assert self.sync is not None
        await self.sync.settled.wait()
        self.pin(flow)

    def pin(self, flow: http.HTTPFlow) -> None:
        """Give the flow its exchange, with the policy of now; it is answered where there is none."""
        snapshot = self.sync.snapshot if self.sync else None
        inbound = flow.client_conn.sockname[1] in self.inbound if self.inbound else False
        attach(flow, Exchange(snapshot, self.node, "" if inbound else self.service, inbound))
        if inbound:
            exchange = exchange_of(flow)
            assert exchange is not None
            exchange.service = self.service
            self.arrived += 1
            identify(flow, exchange)
        if snapshot is None and flow.response is None:
            self._refuse(flow)

    def _refuse(self, flow: http.HTTPFlow) -> None:
        if self.sync is not None and self.sync.error:
            text = f"no policy: {self.sync.error}; there is no cache of an older one"
        else:
            where = self._store.url_shown if self._store else ctx.options.mesh_redis
            text = (
                f"no policy: Redis at {where} has given none yet and there is no cache;"
                " start Redis there, or name another with --set mesh_redis=URL"
            )
        own_answer(flow, exchange_of(flow), 503, "NP", text)

    def _describe(self) -> NodeReport:
        proxyserver = ctx.master.addons.get("proxyserver")
        addresses = proxyserver.listen_addrs() if proxyserver else []
        return NodeReport(
            id=self.node,
            service=self.service,
            revision=0,
            error="",
            version=release(),
            started=_started,
            addresses=tuple(
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port, *_ in addresses
            ),
            seen=time.time(),
            extra=self.reports.ask(),
        )


def _say_goodbye(url: str, mesh: str, node: str, _: object = None) -> None:
    farewell(url, mesh, lambda store: store.forget(node))


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"write a port from 1 to 65535, got {text!r}")
    return int(text)


def _announce(hooks: HookTable, snapshot: Snapshot) -> None:
    """Tell every addon that has a `mesh_policy(snapshot)` hook; it is called between requests and must not await."""
    hooks.run("mesh_policy", snapshot)


def _say_if_dead(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.critical("the policy feed died; restart this proxy", exc_info=error)
