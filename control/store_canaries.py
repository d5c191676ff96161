"""Where the canaries of a mesh stand, and who runs them, in Redis; whichever way the commands get there."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from control.store_records import as_text
from control.store_scripts import Script

_CANARY = Script("""
-- keys: a canary's. args: who asks ('' only looks), how: 'take' what nobody holds, 'keep' what is held, 'force';
-- milliseconds to hold it, milliseconds to live, state ('' leaves it as it is).
-- Returns {now in ms, 1 if it is held by who asks, who holds or held it, until when in ms, state}. Redis' own clock.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('HMGET', KEYS[1], 'runner', 'until', 'state')
local runner, held, state = found[1] or '', tonumber(found[2] or '0') or 0, found[3] or ''
local mine = ARGV[1] ~= '' and (ARGV[2] == 'force' or runner == '' or runner == ARGV[1]
  or (ARGV[2] == 'take' and held <= now))
if mine then
  if ARGV[5] ~= '' then state = ARGV[5] end
  redis.call('HSET', KEYS[1], 'runner', ARGV[1], 'until', string.format('%.0f', now + ARGV[3]), 'state', state)
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return {string.format('%.0f', now), mine and 1 or 0, runner, string.format('%.0f', held), state}
""")


@dataclass(frozen=True, slots=True)
class Held:
    """What is stored of a canary. Times in Unix seconds by Redis' clock.

    mine: who asked holds it now. `runner` held it before, or holds it until `until`. `state` is text of
    control/canary/plan.py, "" if there is none.
    """

    now: float
    mine: bool
    runner: str
    until: float
    state: str

    @property
    def is_held(self) -> bool:
        """Somebody holds it, or did until just now."""
        return self.runner != "" and self.until > self.now


class CanaryOperations(ABC):
    """A part of `Store`. Every failure is a StoreError."""

    mesh: str

    @abstractmethod
    async def _run(
        self, script: Script, keys: Sequence[str], args: Iterable[Any] = (), again: bool = True
    ) -> Any:
        """As in control/store_operations.py."""

    @abstractmethod
    async def _scan(self, pattern: str) -> set[bytes]:
        """As in control/store_operations.py."""

    @property
    def _canaries(self) -> str:
        return f"{{{self.mesh}}}:canary:"

    async def canaries(self) -> dict[str, Held]:
        """What is stored of each canary, by service; those that are over for a while yet."""
        keys = sorted(as_text(key) for key in await self._scan(self._canaries + "*"))
        services = [key[len(self._canaries) :] for key in keys]
        return {service: await self.canary(service) for service in services}

    async def canary(
        self,
        service: str,
        runner: str = "",
        how: str = "keep",
        hold: float = 0.0,
        life: float = 1.0,
        state: str = "",
    ) -> Held:
        """Look at a service's canary, and hold it for `hold` seconds where a `runner` asks for that and may.

        how: `take` what nobody holds any more, `keep` what the runner holds, `force`. Only who holds it writes a
        `state`; it lives for `life` seconds. What a runner may not do changes nothing and says so by `mine`.
        """
        args = [runner, how, round(hold * 1000), round(life * 1000), state]
        now, mine, before, until, text = await self._run(_CANARY, [self._canaries + service], args)
        return Held(int(now) / 1000, bool(mine), as_text(before), int(until) / 1000, as_text(text))
