"""The endpoints that register themselves, as far as Redis tells: the last that is known holds while it does not."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

from control.policy.endpoints import Registry
from control.policy.snapshot import Snapshot, build
from control.store_records import StoreError
from control.store_registry import Registration, by_service

logger = logging.getLogger("mesh.policy_feed")

LIFE = 1.5
"""Seconds after which an endpoint that does not register again is taken for dead."""
BEAT = 0.5
"""Seconds between registrations."""
LOOK = 0.5
"""Seconds between looks at who is there; who comes or goes is published besides."""
COMING_BACK = 3.0
"""Seconds that whoever was there has for registering again with a Redis that has lost its memory."""


class Registrations(Protocol):
    """What is needed of the store."""

    async def registered(self, state: str, ttl: float) -> tuple[str, dict[str, Registration] | None]: ...


class EndpointSync:
    """`registered`: service -> its endpoints; another object after each change."""

    def __init__(self, store: Registrations, clock: Callable[[], float] = time.monotonic) -> None:
        self.registered: Registry = {}
        self.asked = False
        """Redis has told who is there, once at least."""
        self._store = store
        self._clock = clock
        self._state = ""
        self._nodes: dict[str, Registration] = {}
        self._missing: dict[str, Registration] = {}
        self._until = 0.0

    def begin_with(self, registered: Registry) -> None:
        """What a cache holds, until Redis tells."""
        self.registered = registered

    async def completed(self, snapshot: Snapshot, now: float) -> Snapshot:
        """The snapshot with the endpoints that are registered, where it is the first to ask for any."""
        if not snapshot.registering or self.asked:
            return snapshot
        with contextlib.suppress(StoreError):
            await self.look()
        return await self._with_those(snapshot, now)

    async def renewed(self, snapshot: Snapshot | None, now: float) -> Snapshot | None:
        """The same policy with other endpoints, if it makes use of any that have come or gone. Raises StoreError."""
        if snapshot is None or not snapshot.registering or not await self.look():
            return None
        try:
            return await self._with_those(snapshot, now)
        except Exception:
            # Whatever somebody wrote into Redis by hand, the next change must be heard.
            logger.warning("registered endpoints that cannot be made use of", exc_info=True)
            return None

    async def _with_those(self, snapshot: Snapshot, now: float) -> Snapshot:
        texts = dict(snapshot.texts)
        return await asyncio.to_thread(build, snapshot.revision, texts, snapshot, now, self.registered)

    async def look(self) -> bool:
        """Whether it has changed. Raises StoreError while Redis is away; then nothing has."""
        state, nodes = await self._store.registered(self._state, LIFE)
        if nodes is None and not (self._missing and self._clock() >= self._until):
            return False
        if nodes is not None:
            if self._state and _epoch(state) != _epoch(self._state):
                self._missing = {**self._missing, **self._nodes}
                self._until = self._clock() + COMING_BACK
            self._nodes = nodes
            self._missing = {node: each for node, each in self._missing.items() if node not in nodes}
        if self._clock() >= self._until:
            self._missing = {}
        self._state = state
        before, self.registered = self.registered, by_service({**self._missing, **self._nodes})
        first, self.asked = not self.asked, True
        return first or before != self.registered


def _epoch(state: str) -> str:
    return state.partition("-")[0]


class Follower(Protocol):
    """Who has the snapshot in force."""

    connected: bool

    async def sync_endpoints(self) -> None: ...


async def look_for_endpoints(follower: Follower) -> None:
    """Until cancelled: for registrations whose time is over, and for changes whose publication was lost."""
    while True:
        await asyncio.sleep(LOOK)
        if follower.connected:
            try:
                await follower.sync_endpoints()
            except StoreError as error:
                logger.debug(f"endpoints: {error}")
