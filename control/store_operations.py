"""What the mesh keeps in Redis and how it is read and written, whichever way the commands get there.

docs/redis.md says which keys there are. An operation is one Lua script (store_scripts.py), so that it is one
round trip, and atomic on a single server, behind Sentinel and in a Cluster alike. Every failure is a StoreError.
"""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from control import store_records as records
from control import store_scripts as scripts
from control.store_changes import Changes
from control.store_records import Hint, NodeReport, Stored, StoreError, Update, Wanted


class Operations(Changes):
    """One mesh's keys and what is done with them; `Store` brings the connection."""

    def __init__(self, url_shown: str, mesh: str) -> None:
        self.url_shown = url_shown
        self.mesh = mesh
        self._revision, self._policy, self._history, self._signature, self._changes, self._node = (
            f"{{{mesh}}}:{key}" for key in ("revision", "policy", "history", "signature", "changes", "node:")
        )
        self._bucket = f"{{{mesh}}}:ratelimit:"

    @abstractmethod
    async def _scan(self, pattern: str) -> set[bytes]:
        """The keys that match."""

    # Policy

    async def revision(self) -> int:
        """The revision in force; 0 in a fresh Redis."""
        return self._number(await self._run(scripts.REVISION, [self._revision]), {})

    async def read(self) -> Stored:
        """The revision and the documents that belong to it."""
        keys = [self._revision, self._policy, self._signature]
        revision, pairs, signature = await self._run(scripts.READ, keys)
        documents = _documents(pairs)
        return Stored(self._number(revision, documents), documents, records.as_text(signature or b""))

    async def read_since(self, revision: int, hint: Hint | None = None) -> Update:
        """What has become of the policy since `revision`.

        hint: the publication that was heard, if any; it saves a look into the history if it is of the very next
        revision. A revision behind the known one, or too far ahead for the history, gives a full update.
        """
        services = hint.services if hint is not None and hint.revision == revision + 1 else ()
        keys = [self._revision, self._policy, self._history]
        current, *found = await self._run(scripts.READ_SINCE, keys, [revision, *services])
        if not found:
            return Update(revision, {}, full=False)
        if len(found) == 1:
            documents = _documents(found[0])
            return Update(self._number(current, documents), dict(documents), full=True)
        pairs = zip(found[0], found[1], strict=True)
        changed = {
            records.as_text(name): None if text is None else records.as_text(text) for name, text in pairs
        }
        return Update(self._number(current, {}), changed, full=False)

    # Nodes

    async def report(self, node: NodeReport, ttl: float) -> None:
        """Write what a proxy says about itself; it is gone after `ttl` seconds unless written again."""
        fields = [part for field in records.write_report(node, ttl).items() for part in field]
        await self._run(scripts.REPORT, [self._node + node.id], [max(1, round(ttl * 1000)), *fields])

    async def forget(self, node_id: str) -> None:
        """Take a proxy's report away, at its normal stop."""
        await self._run(scripts.FORGET, [self._node + node_id])

    async def node_ids(self) -> list[str]:
        """The nodes that are alive. Looks at every key of the database in steps: not for every few milliseconds."""
        keys = await self._scan(self._node + "*")
        return sorted(records.as_text(key)[len(self._node) :] for key in keys)

    async def nodes(self) -> list[NodeReport]:
        """The reports of the nodes that are alive, by id."""
        ids = await self.node_ids()
        reports = []
        for some in (ids[start : start + 500] for start in range(0, len(ids), 500)):
            found = await self._run(scripts.REPORTS, [self._node + node_id for node_id in some])
            for node_id, (fields, left) in zip(some, found, strict=True):
                reports.append(records.read_report(node_id, fields, left / 1000, time.time()))
        return [report for report in reports if report is not None]

    async def progress(self, node_ids: Sequence[str]) -> dict[str, tuple[int, str]]:
        """The revision in force and the error of each of these nodes, in one round trip; without those that are gone."""
        if not node_ids:
            return {}
        found = await self._run(scripts.PROGRESS, [self._node + node_id for node_id in node_ids])
        return {
            node_id: (int(values[0]), records.as_text(values[1] or b""))
            for node_id, values in zip(node_ids, found, strict=True)
            if values and values[0] is not None and values[0].isdigit()
        }

    # Rate limits

    async def take(self, wanted: Sequence[Wanted], now: int | None = None) -> list[tuple[int, int]]:
        """For each bucket how many of the requests pass, and after how many microseconds one more would.

        One round trip; all proxies count in the same buckets, by Redis' clock (or `now`, in microseconds). A bucket that
        is empty again is forgotten.
        """
        numbers = [n for each in wanted for n in (each.cost, each.rate, each.capacity, each.count)]
        keys = [self._bucket + each.bucket for each in wanted]
        taken = await self._run(scripts.TAKE, keys, ["" if now is None else now, *numbers])
        return [(int(granted), int(wait)) for granted, wait in taken]

    def _number(self, revision: bytes | None, documents: Mapping[str, str]) -> int:
        if revision is None and not documents:
            return 0
        try:
            return records.as_number(revision)
        except ValueError:
            said = (
                "is missing" if revision is None else f"is no number but {records.as_text(revision)[:40]!r}"
            )
            remedy = f"set it to the last revision in {self._history}, or delete every key of the mesh and apply again"
            raise StoreError(
                f"cannot use Redis at {self.url_shown}: {self._revision} {said}; {remedy}"
            ) from None


def _documents(pairs: Sequence[bytes]) -> dict[str, str]:
    texts = [records.as_text(part) for part in pairs]
    return dict(zip(texts[::2], texts[1::2], strict=True))
