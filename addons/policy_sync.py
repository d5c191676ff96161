"""Keeps a compiled snapshot of the policy as near to Redis as the network allows.

A subscription says when to look, a look every few seconds catches what the
subscription lost, and a report to Redis says what this proxy has in force. A
policy that does not compile is refused whole and the last good one stays.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from addons.ending import end_all
from addons.endpoint_sync import EndpointSync, look_for_endpoints
from addons.policy_building import Builder
from addons.policy_cache import PolicyCache
from addons.policy_expiry import expire
from control.policy.errors import PolicyErrors
from control.policy.snapshot import Snapshot
from control.signing import UntrustedError, Verifier
from control.store import Hint, NodeReport, Store, StoreError
from control.store_records import Moved

logger = logging.getLogger("mesh.policy_feed")

RESYNC = 2.0
"""Seconds between looks at the revision, for changes whose publication was lost."""
HEARTBEAT = 1.0
"""Seconds between reports."""
REPORT_TTL = 3.0
"""Seconds until a proxy that stopped reporting is taken for dead."""
FULL_READ = 15.0
"""Seconds between comparisons of the whole policy, which find what was edited by hand."""
_LONGEST_WAIT = 0.5
_SHORTEST_WAIT = 0.05


class PolicySync:
    """Runs until cancelled; `snapshot` is replaced by one assignment and never changed in place."""

    def __init__(
        self,
        store: Store,
        describe: Callable[[], NodeReport],
        cache: Path | None = None,
        on_change: Callable[[Snapshot], None] = lambda snapshot: None,
        clock: Callable[[], float] = time.monotonic,
        last: Snapshot | None = None,
        wall: Callable[[], float] = time.time,
        verifier: Verifier | None = None,
    ) -> None:
        """`describe` gives this proxy's report, revision and error are filled in here; `on_change` hears of each swap.

        `last` is in force until Redis gives a newer one. `wall` is the time of day, by which parts of a policy expire.
        With a `verifier` only signed policy comes into force.
        """
        self.snapshot = last
        self.swapped = asyncio.Event()
        """Set whenever another snapshot is in force."""
        self.connected = False
        self.error = ""
        """Why the newest policy is not in force; empty: it is."""
        self.settled = asyncio.Event()
        """Set once the first attempt to get a policy ended, well or badly."""
        self._store = store
        self._describe = describe
        self._cache = PolicyCache(cache, store.mesh)
        self._on_change = on_change
        self._clock = clock
        self._wall = wall
        self._endpoints = EndpointSync(store, clock)
        if last is not None:
            self._endpoints.begin_with(last.registered)
        self._documents: dict[str, str] = {}
        self._seen: int | None = None
        self._read_whole = float("-inf")
        self._lock = asyncio.Lock()
        self._verifier = verifier
        self._builder = Builder(verifier, wall)
        self._signature = ""

    async def run(self) -> None:
        """Follow Redis for ever; only cancellation ends it."""
        tasks = [
            asyncio.create_task(self._listen(), name="mesh policy subscription"),
            asyncio.create_task(self._look(), name="mesh policy resync"),
            asyncio.create_task(self._beat(), name="mesh node report"),
            asyncio.create_task(expire(self, self._wall), name="mesh policy expiry"),
            asyncio.create_task(look_for_endpoints(self), name="mesh endpoints"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end_all(tasks)

    async def _listen(self) -> None:
        wait = _SHORTEST_WAIT
        while True:
            try:
                # Subscribed first, read second: a change between the two is announced, not lost.
                async for hint in self._store.hints_and_moves():
                    if isinstance(hint, Moved):
                        await self.sync_endpoints()
                        continue
                    # A revision that is not new to us: read ahead of its publication, or made anew after a flush.
                    again = hint is None or self._seen is None or hint.revision <= self._seen
                    await self._sync(hint, whole=again)
                    if not self.connected:
                        # Before anything else is asked of it: a Redis that is lost then was there, and its loss is told.
                        self.connected = True
                        wait = _SHORTEST_WAIT
                        logger.info(f"following {self._store.url_shown}")
                        await self._report()
                    if hint is None:
                        await self.sync_endpoints()
            except StoreError as error:
                await self._lost(error)
            await asyncio.sleep(wait)
            wait = min(_LONGEST_WAIT, wait * 2)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(RESYNC)
            if self.connected:
                try:
                    await self._sync(None, whole=self._clock() - self._read_whole >= FULL_READ)
                except StoreError as error:
                    logger.debug(f"resync: {error}")

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            if self.connected:
                await self._report()

    async def _lost(self, error: StoreError) -> None:
        if self.connected or not self.settled.is_set():
            going_on = f"; going on with revision {self.snapshot.revision}" if self.snapshot else ""
            logger.warning(f"{error}{going_on}")
        self.connected = False
        if not self.settled.is_set():
            if self.snapshot is None:
                await self._load_cache()
            self.settled.set()

    async def _sync(self, hint: Hint | None, whole: bool) -> None:
        async with self._lock:
            signature = ""
            if self._verifier and not whole and await self._store.revision() == self._seen:
                return
            # A signature is of the whole policy, so that is read then.
            if whole or self._seen is None or self._verifier:
                stored = await self._store.read()
                self._read_whole = self._clock()
                revision, documents, signature = stored.revision, stored.documents, stored.signature
            else:
                delta = await self._store.read_since(self._seen, hint)
                revision = delta.revision
                documents = {} if delta.full else dict(self._documents)
                for service, text in delta.documents.items():
                    if text is None:
                        documents.pop(service, None)
                    else:
                        documents[service] = text
            signature = signature if self._verifier else ""
            if (revision, documents, signature) != (self._seen, self._documents, self._signature):
                self._seen, self._documents, self._signature = revision, documents, signature
                adopted = await self._adopt(revision, documents, signature)
                if not adopted and self.snapshot is None:
                    await self._load_cache()
                self.settled.set()
                await self._report()
                if adopted:
                    await self._cache.save(revision, documents, signature, self._endpoints.registered)
            self.settled.set()

    async def sync_endpoints(self) -> None:
        """Put it in force when endpoints have come or gone of which the policy makes use. Raises StoreError."""
        async with self._lock:
            snapshot = await self._endpoints.renewed(self.snapshot, self._wall())
            if snapshot is not None:
                self.put_in_force(snapshot)
                if not self.error:
                    # Otherwise the signature at hand is not of the policy in force.
                    kept = (snapshot.revision, dict(snapshot.texts), self._signature)
                    await self._cache.save(*kept, snapshot.registered)

    async def _adopt(self, revision: int, documents: dict[str, str], signature: str) -> bool:
        """Put it in force, or say why not."""
        if self.snapshot is not None and self.snapshot.revision and not revision and not documents:
            # Deleting the last service would have made a revision. A Redis without persistence was restarted.
            self._refuse(
                f"Redis is empty, as if it had lost its data; going on with revision {self.snapshot.revision}:"
                " apply the policy again"
            )
            return False
        try:
            registered = self._endpoints.registered
            made = partial(self._builder.build, last=self.snapshot)
            snapshot = await asyncio.to_thread(made, revision, documents, signature, registered)
            snapshot = await self._endpoints.completed(snapshot, self._wall())
        except UntrustedError as error:
            self._refuse(f"refused revision {revision}: {error} (mesh_policy_key)")
            return False
        except PolicyErrors as errors:
            self._refuse(*(f"refused revision {revision}: {problem}" for problem in errors.problems))
            return False
        except Exception as error:
            # Whatever a person wrote into Redis by hand, the next change must be heard.
            logger.warning("a policy that cannot be compiled", exc_info=True)
            self._refuse(f"refused revision {revision}: {type(error).__name__}: {error}")
            return False
        self.error = ""
        self.put_in_force(snapshot)
        logger.info(f"revision {revision} in force, {len(documents)} documents")
        return True

    def put_in_force(self, snapshot: Snapshot) -> None:
        """Swap it in, and tell everybody."""
        self.snapshot = snapshot
        self.swapped.set()
        self._on_change(snapshot)

    def _refuse(self, *reasons: str) -> None:
        self.error = reasons[0] if len(reasons) == 1 else f"{reasons[0]} (and {len(reasons) - 1} more)"
        for reason in reasons:
            # Not as errors, at which mitmproxy would exit while it starts.
            logger.warning(reason)

    async def _load_cache(self) -> None:
        snapshot = await self._cache.load(self._builder.build)
        if snapshot is not None:
            self._endpoints.begin_with(snapshot.registered)
            self.put_in_force(snapshot)

    async def _report(self) -> None:
        revision = self.snapshot.revision if self.snapshot else 0
        report = replace(self._describe(), revision=revision, error=self.error)
        try:
            await self._store.report(report, REPORT_TTL)
        except StoreError as error:
            # The subscription notices the same loss and says so; one voice is enough.
            logger.debug(f"report: {error}")
