"""What the certificate authority and the proxies tell each other through Redis, whichever way the commands get there.

Nothing of it is secret, and nothing of it is believed: the bundle is signed, a request proves who asks, and a
certificate is checked by who asked for it. docs/security.md says what a writer in Redis can do nevertheless.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control.store_records import as_text
from control.store_scripts import Script

REQUEST_LIFE = 60.0
"""Seconds that a request waits for the authority, and an answer for the proxy."""
MOST_REQUESTS = 1000
MOST_REFUSALS = 100

_GET = Script("return redis.call('GET', KEYS[1])")
_SET = Script("redis.call('SET', KEYS[1], ARGV[1])")
_ASK = Script("""
-- keys: requests. args: entries to keep, the request.
return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'request', ARGV[2])
""")
_WAITING = Script("""
-- keys: requests. args: how many. Returns {the time in milliseconds, {{id, {field, value, ...}}, ...}}, oldest first.
local now = redis.call('TIME')
return {now[1] * 1000 + math.floor(now[2] / 1000), redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1])}
""")
_ANSWER = Script("""
-- keys: requests, the answer's. args: the entry's id, milliseconds to live, the answer.
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[1])
""")
_DROP = Script("redis.call('XDEL', KEYS[1], ARGV[1])")
_REFUSE = Script("""
-- keys: refusals. args: entries to keep, fields and values.
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 2))
""")
_REFUSALS = Script("return redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[1])")
_TELL = Script("""
-- keys: the authority's. args: milliseconds to live, fields and values.
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
""")
_TOLD = Script("return redis.call('HGETALL', KEYS[1])")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that got no certificate; `time` in Unix seconds by Redis' clock."""

    time: float
    service: str
    node: str
    reason: str


class IdentityOperations(ABC):
    """A part of `Store`. Every failure is a StoreError."""

    mesh: str

    @abstractmethod
    async def _run(
        self, script: Script, keys: Sequence[str], args: Iterable[Any] = (), again: bool = True
    ) -> Any:
        """As in control/store_operations.py."""

    def _key(self, name: str) -> str:
        return f"{{{self.mesh}}}:{name}"

    # The trust bundle, text of control/identity/bundles.py

    async def bundle(self) -> str:
        """Empty: no authority has told one."""
        return as_text(await self._run(_GET, [self._key("bundle")]) or b"")

    async def set_bundle(self, text: str) -> None:
        await self._run(_SET, [self._key("bundle")], [text])

    # Requests, text of control/identity/requests.py, and their answers

    async def ask_certificate(self, text: str) -> None:
        await self._run(_ASK, [self._key("ca:requests")], [MOST_REQUESTS, text], again=False)

    async def certificate_answer(self, request_id: str) -> str | None:
        """None: not yet."""
        found = await self._run(_GET, [self._key(f"ca:answer:{request_id}")])
        return None if found is None else as_text(found)

    async def certificate_requests(self, most: int = 100) -> list[tuple[str, str]]:
        """(entry, text) of those that wait, the oldest first; those that waited too long are thrown away."""
        now, entries = await self._run(_WAITING, [self._key("ca:requests")], [most])
        waiting = []
        for entry, fields in entries:
            entry_id = as_text(entry)
            if int(now) - int(entry_id.partition("-")[0]) > REQUEST_LIFE * 1000:
                await self._run(_DROP, [self._key("ca:requests")], [entry_id])
            else:
                said = dict(zip(fields[::2], fields[1::2], strict=True))
                waiting.append((entry_id, as_text(said.get(b"request", b""))))
        return waiting

    async def answer_certificate(self, entry: str, request_id: str, text: str) -> None:
        """request_id empty: the request did not say where it wants its answer."""
        if not request_id:
            await self._run(_DROP, [self._key("ca:requests")], [entry])
            return
        keys = [self._key("ca:requests"), self._key(f"ca:answer:{request_id}")]
        await self._run(_ANSWER, keys, [entry, round(REQUEST_LIFE * 1000), text])

    # What the authority tells of itself

    async def tell_refusal(self, service: str, node: str, reason: str) -> None:
        fields = ["service", service, "node", node, "reason", reason]
        await self._run(_REFUSE, [self._key("ca:refusals")], [MOST_REFUSALS, *fields], again=False)

    async def refusals(self, most: int = 20) -> list[Refusal]:
        """The newest first."""
        found = []
        for entry, fields in await self._run(_REFUSALS, [self._key("ca:refusals")], [most]):
            said = {
                as_text(name): as_text(value) for name, value in zip(fields[::2], fields[1::2], strict=True)
            }
            when = int(as_text(entry).partition("-")[0]) / 1000
            found.append(Refusal(when, said.get("service", ""), said.get("node", ""), said.get("reason", "")))
        return found

    async def tell_authority(self, fields: Mapping[str, str], ttl: float) -> None:
        """What `ca serve` says about itself; gone after `ttl` seconds unless told again."""
        flat = [part for field in fields.items() for part in field]
        await self._run(_TELL, [self._key("ca")], [max(1, round(ttl * 1000)), *flat])

    async def authority(self) -> dict[str, str]:
        """Empty: none serves."""
        flat = [as_text(part) for part in await self._run(_TOLD, [self._key("ca")])]
        return dict(zip(flat[::2], flat[1::2], strict=True))
