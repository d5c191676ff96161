"""Registers this proxy as an endpoint of the service that it stands in front of, for callers with `endpoints: auto`."""

import asyncio
import contextlib
import logging
import re
import socket

from mitmproxy import ctx, exceptions
from mitmproxy.addonmanager import Loader

from addons.certificates import Certificates
from addons.ending import end_all
from addons.endpoint_sync import BEAT, LIFE
from addons.farewell import farewell
from addons.own_stack import stopping
from addons.policy_feed import PolicyFeed
from addons.redis_options import REDIS_OPTIONS, redis_url
from control.policy.addresses import address
from control.policy.destinations import DEFAULT_VERSION
from control.policy.endpoints import Registered
from control.policy.values import named
from control.store import Store, StoreError
from control.store_registry import Registration as Entry
from control.store_server import host_of

logger = logging.getLogger("mesh.registration")

_FIRST = 0.05
_QUIET = 0.3
"""Seconds without a request, after which no caller is taken to come here any more."""
_LEAST_GOODBYE = 0.5
_LONGEST_GOODBYE = 5.0
_ANY = ("", "0.0.0.0", "::")


class Registration:
    """Options: mesh_version, mesh_advertise, mesh_weight. Nothing is registered before there is a policy, or without a service."""

    def __init__(self, feed: PolicyFeed, certificates: Certificates) -> None:
        self._feed = feed
        self._certificates = certificates
        self._task: asyncio.Task[None] | None = None
        self._of = ("", "", "")
        self._registered = False
        self._told = ""

    def load(self, loader: Loader) -> None:
        loader.add_option(
            "mesh_version",
            str,
            DEFAULT_VERSION,
            "The version of the service that this proxy stands in front of.",
        )
        loader.add_option(
            "mesh_weight", str, "1", "Its share beside the version's other registered endpoints."
        )
        loader.add_option(
            "mesh_advertise", str, "", "host:port at which callers reach the first port of mesh_inbound."
        )

    def configure(self, updated: set[str]) -> None:
        options = ctx.options
        try:
            named(options.mesh_version)
        except ValueError as error:
            raise exceptions.OptionsError(f"mesh_version: {error}, got {options.mesh_version!r}") from None
        try:
            _weight(options.mesh_weight)
        except ValueError as error:
            raise exceptions.OptionsError(f"mesh_weight: {error}, got {options.mesh_weight!r}") from None
        try:
            if options.mesh_advertise:
                address(options.mesh_advertise)
        except ValueError as error:
            raise exceptions.OptionsError(
                f"mesh_advertise: {error}, got {options.mesh_advertise!r}"
            ) from None
        if self._task is not None and updated & {*REDIS_OPTIONS, "mesh_name", "mesh_node"}:
            self._leave()
            self.running()

    def running(self) -> None:
        if self._task is None:
            options = ctx.options
            self._of = redis_url(), options.mesh_name, self._feed.node
            self._task = asyncio.get_running_loop().create_task(self._run(), name="mesh registration")

    def done(self) -> None:
        if stopping():
            self._leave()
        elif self._task is not None:
            # At a reload the next instance goes on.
            self._task.cancel()
            self._task = None

    async def mesh_drain(self) -> None:
        """Let the callers know first, and stop listening only once they have ceased to come."""
        task, self._task = self._task, None
        if task is not None:
            await end_all([task])
        if not self._registered:
            return
        self._registered = False
        store = Store(*self._of[:2])
        try:
            async with asyncio.timeout(1.0):
                await store.deregister(self._of[2], LIFE)
        except (StoreError, TimeoutError) as error:
            logger.warning(f"callers were not told that this proxy stops: {error or 'Redis did not answer'}")
            return
        finally:
            await store.close()
        await self._until_quiet()

    async def _until_quiet(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while loop.time() - begun < _LONGEST_GOODBYE:
            before = self._feed.arrived
            await asyncio.sleep(_QUIET)
            if self._feed.arrived == before and loop.time() - begun >= _LEAST_GOODBYE:
                return

    def _leave(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if self._registered:
            self._registered = False
            url, mesh, node = self._of
            farewell(url, mesh, lambda store: store.deregister(node, LIFE))

    async def _run(self) -> None:
        url, mesh, node = self._of
        store = Store(url, mesh)
        try:
            while True:
                try:
                    await self._beat(store, node)
                except StoreError as error:
                    # The policy feed notices the same loss and says so; one voice is enough.
                    logger.debug(f"registration: {error}")
                except (OSError, ValueError) as error:
                    self._tell(f"not registered: {error}; say where callers reach it with mesh_advertise")
                await asyncio.sleep(BEAT if self._registered or self._told else _FIRST)
        finally:
            with contextlib.suppress(StoreError):
                await store.close()

    async def _beat(self, store: Store, node: str) -> None:
        options = ctx.options
        service = options.mesh_service.lower()
        snapshot = self._feed.sync.snapshot if self._feed.sync is not None else None
        if not service or not options.mesh_inbound or snapshot is None:
            return
        where = options.mesh_advertise or await _reached_at(int(options.mesh_inbound[0]), options.mesh_redis)
        if not where:
            self._tell(f"not registered: nothing listens on port {options.mesh_inbound[0]} of mesh_inbound")
            return
        speaks = snapshot.inbound_mtls(service) is not None and self._certificates.identity is not None
        weight = _weight(options.mesh_weight)
        endpoint = Registered(options.mesh_version, address(where), speaks, weight)
        await store.register(node, Entry(service, endpoint), LIFE)
        if not self._registered:
            logger.info(f"registered as {endpoint.address}, version {endpoint.version} of {service}")
        self._registered = True

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            logger.warning(text)


def _weight(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise ValueError("write a number of at least 0, such as 1 or 2.5")
    return float(text)


async def _reached_at(port: int, redis: str) -> str:
    """host:port of an inbound port: where it listens, or this host's address on the way to Redis. "": it does not listen."""
    listening = [
        host for host, number, *_ in ctx.master.addons.get("proxyserver").listen_addrs() if number == port
    ]
    if not listening:
        return ""
    host = next((each for each in listening if each not in _ANY), None) or await _own_address(redis)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _own_address(redis: str) -> str:
    """Raises OSError."""
    there = host_of(redis)
    if there is None:
        return "127.0.0.1"
    loop = asyncio.get_running_loop()
    family, kind, _, _, found = (await loop.getaddrinfo(*there, type=socket.SOCK_DGRAM))[0]
    with socket.socket(family, kind) as way:
        # Of UDP, so nothing is sent.
        way.connect(found)
        return str(way.getsockname()[0])
