"""How the policy in Redis is changed, and what was changed before: one optimistic transaction, one history."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from control import store_records as records
from control import store_scripts as scripts
from control.store_records import Change, Entry, Hint, Stored, StoreError

if TYPE_CHECKING:
    from control.signing import Signature, Signer

HISTORY_LENGTH = 1000  # entries kept, about: Redis drops them in blocks
_random = Random()


class Changes(ABC):
    """A part of `Store`."""

    mesh: str
    signer: "Signer | None" = None
    """Signs every change; what is stored has to be signed, too, before anything is made of it."""
    _revision: str
    _policy: str
    _history: str
    _signature: str
    _changes: str

    @abstractmethod
    async def _run(
        self, script: scripts.Script, keys: Sequence[str], args: Iterable[Any] = (), again: bool = True
    ) -> Any:
        """What the script returns. again: it may run twice, so try once more when the connection was stale."""

    @abstractmethod
    async def read(self) -> Stored:
        """The revision and the documents that belong to it."""

    async def change(
        self,
        edit: Callable[[Stored], Mapping[str, str | None]],
        *,
        author: str,
        message: str,
        trusted: Mapping[str, str] | None = None,
        sign_anyway: bool = False,
    ) -> Change:
        """Write what `edit` wants of what is stored: service -> text, None to delete it.

        `edit` may raise to refuse, and is called again when another writer was faster. What is already so is
        left out; if nothing remains, nothing is written. Not tried again when the connection is lost meanwhile.
        trusted: documents that may be signed whatever is stored now. sign_anyway: also if nothing remains.
        """
        tries = 0
        while True:
            stored = await self.read()
            wanted = edit(stored)
            changed = {
                service: (stored.documents.get(service), text)
                for service, text in wanted.items()
                if stored.documents.get(service) != text
            }
            if not changed and not sign_anyway:
                return Change(stored.revision, {})
            revision = stored.revision + 1
            signature = self._sign(stored, changed, trusted)
            written = await self._run(
                scripts.CHANGE,
                [self._revision, self._policy, self._history, self._signature],
                [
                    *(stored.revision, repr(time.time()), author, message, records.write_changes(changed)),
                    *(self._changes, records.write_hint(Hint(revision, tuple(changed))), HISTORY_LENGTH),
                    signature,
                    *(part for name, (_, text) in changed.items() for part in _step(name, text)),
                ],
                again=False,
            )
            if written:
                return Change(revision, changed)
            tries += 1
            await asyncio.sleep(_random.uniform(0, 0.002 * min(tries, 10)))

    def _sign(
        self,
        stored: Stored,
        changed: Mapping[str, tuple[str | None, str | None]],
        trusted: Mapping[str, str] | None,
    ) -> str:
        if self.signer is None:
            if stored.signature:
                raise StoreError(
                    "the policy of this mesh is signed: say with which key, mitmesh --policy-key FILE (MITMESH_POLICY_KEY)"
                )
            return ""
        after = {name: text for name, text in stored.documents.items() if name not in changed}
        after |= {name: text for name, (_, text) in changed.items() if text is not None}
        before: Signature | None = None
        try:
            before = self.signer.check(stored.revision, stored.documents, stored.signature)
        except ValueError as error:
            if after != trusted:
                raise StoreError(
                    f"the policy in Redis is not to be trusted, {error}: look at it with `mitmesh get`, then accept it"
                    " with `mitmesh key sign`, or go back with `mitmesh rollback REVISION`"
                ) from None
        return self.signer.sign(before, stored.revision + 1, after, time.time()).write()

    async def erase(self) -> None:
        """Take away the mesh and its history, for one that was only tried out; reports go with their proxies."""
        keys = [self._revision, self._policy, self._history, self._signature]
        await self._run(scripts.FORGET, keys)

    async def history(self, service: str | None = None, limit: int = 50) -> list[Entry]:
        """The last `limit` changes (of one service), newest first; what the store did not write is left out."""
        entries: list[Entry] = []
        last = "+"
        while len(entries) < limit and (
            page := await self._run(scripts.HISTORY, [self._history], [last, "-", 100])
        ):
            for entry_id, fields in page:
                entry = records.read_entry(entry_id, fields)
                if entry is not None and (service is None or service in entry.changes):
                    entries.append(entry)
            last = "(" + records.as_text(page[-1][0])
        return entries[:limit]

    async def at(self, revision: int) -> dict[str, str]:
        """The documents as they were at `revision`, found by undoing every later change.

        With a signer they have to be what was signed then: the history may be altered.
        """
        stored = await self.read()
        if not 0 <= revision <= stored.revision:
            raise StoreError(f"there is no revision {revision}: the newest is {stored.revision}")
        bounds = [f"{stored.revision}-0", f"{revision + 1}-0", 10 * HISTORY_LENGTH]
        later = [
            records.read_entry(*entry) for entry in await self._run(scripts.HISTORY, [self._history], bounds)
        ]
        documents: dict[str, str | None] = dict(stored.documents)
        for expected, entry in zip(range(stored.revision, revision, -1), [*later, None], strict=False):
            if entry is None or entry.revision != expected:
                raise StoreError(
                    f"revision {revision} is out of reach: the history goes back to {expected} only"
                )
            documents |= {name: before for name, (before, _) in entry.changes.items()}
        found = {name: text for name, text in documents.items() if text is not None}
        if self.signer is not None and (revision or found):
            return await self._signed(self.signer, revision, found)
        return found

    async def _signed(self, signer: "Signer", revision: int, documents: dict[str, str]) -> dict[str, str]:
        """The documents, or where they were altered behind the history's back what that itself says, if it was signed."""
        entries = [
            entry for entry in await self.history(limit=10 * HISTORY_LENGTH) if entry.revision <= revision
        ]
        signature = entries[0].signature if entries and entries[0].revision == revision else ""
        retold: dict[str, str | None] = {}
        for entry in reversed(entries):
            retold |= {name: after for name, (_, after) in entry.changes.items()}
        told = {name: text for name, text in retold.items() if text is not None}
        reason = ""
        for found in (told, documents):
            try:
                signer.check(revision, found, signature)
                return found
            except ValueError as error:
                reason = str(error)
        raise StoreError(
            f"revision {revision} is not to be trusted as the history has it, {reason}: apply your files instead"
        )


def _step(service: str, text: str | None) -> tuple[str, str, str]:
    return (service, "delete", "") if text is None else (service, "set", text)
