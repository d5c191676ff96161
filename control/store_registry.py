"""The endpoints that proxies register in Redis: written with a time to live, read by whoever calls them.

Whether one is alive is decided by Redis' clock alone, in the scripts below. Whoever comes first after a registration's
time takes it out and publishes, so that every caller learns of it at once.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control.policy.addresses import address
from control.policy.endpoints import Registered
from control.policy.values import MOST_WEIGHT, named
from control.store_records import as_text
from control.store_scripts import Script

QUIET = 1000
"""Milliseconds without a look at the registrations, by anybody, after which nobody is taken for dead at first: it was Redis
that stood still or was away, and the registrations have grown old meanwhile."""

_LOOK = """
-- keys: endpoints (node -> text), their expiry (node -> milliseconds), state. args: milliseconds to live, milliseconds of
-- quiet, channel. `now` is Redis' time.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local life, moved = tonumber(ARGV[1]), false
local known = redis.call('HMGET', KEYS[3], 'epoch', 'looked', 'grace')
if not known[1] then redis.call('HSET', KEYS[3], 'epoch', time[1] .. string.format('%06d', time[2])) end
local looked, grace = tonumber(known[2] or '0'), tonumber(known[3] or '0')
if now - looked > tonumber(ARGV[2]) then
  grace = now + life
  redis.call('HSET', KEYS[3], 'looked', now, 'grace', grace)
elseif now - looked > 200 then
  redis.call('HSET', KEYS[3], 'looked', now)
end
if now >= grace then
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
    redis.call('ZREM', KEYS[2], node)
    redis.call('HDEL', KEYS[1], node)
    moved = true
  end
end
local function state()
  if moved then
    redis.call('HINCRBY', KEYS[3], 'number', 1)
    -- Without the right to publish the others look by themselves, a little later.
    redis.pcall('PUBLISH', ARGV[3], 'moved')
  end
  local found = redis.call('HMGET', KEYS[3], 'epoch', 'number')
  return found[1] .. '-' .. (found[2] or '0')
end
"""

REGISTER = Script(
    _LOOK
    + """
-- further args: node, text.
if redis.call('HGET', KEYS[1], ARGV[4]) ~= ARGV[5] then
  redis.call('HSET', KEYS[1], ARGV[4], ARGV[5])
  moved = true
end
redis.call('ZADD', KEYS[2], now + life, ARGV[4])
return state()
"""
)

DEREGISTER = Script(
    _LOOK
    + """
-- further args: node.
redis.call('ZREM', KEYS[2], ARGV[4])
if redis.call('HDEL', KEYS[1], ARGV[4]) == 1 then moved = true end
return state()
"""
)

REGISTERED = Script(
    _LOOK
    + """
-- further args: the known state. Returns {state}, and with it, if it is another, the nodes and their texts.
local found = state()
if found == ARGV[4] then return {found} end
return {found, redis.call('HGETALL', KEYS[1])}
"""
)

ALIVE = Script("""
-- keys: endpoints, their expiry. Changes nothing. Returns the nodes and their texts.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local dead = {}
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do dead[node] = true end
local found, alive = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #found, 2 do
  if not dead[found[i]] then alive[#alive + 1] = found[i]; alive[#alive + 1] = found[i + 1] end
end
return alive
""")


@dataclass(frozen=True, slots=True)
class Registration:
    """One proxy's endpoint, of this service."""

    service: str
    endpoint: Registered


class Registry(ABC):
    """The registrations of one mesh. Every failure is a StoreError."""

    mesh: str

    @abstractmethod
    async def _run(
        self, script: Script, keys: Sequence[str], args: Iterable[Any] = (), again: bool = True
    ) -> Any:
        """What the script returns."""

    async def register(self, node: str, registration: Registration, ttl: float) -> None:
        """For `ttl` seconds, unless it is said again. What the node had registered before is replaced."""
        await self._look(REGISTER, ttl, node, write_registration(registration))

    async def deregister(self, node: str, ttl: float) -> None:
        """At once."""
        await self._look(DEREGISTER, ttl, node)

    async def registered(self, state: str, ttl: float) -> tuple[str, dict[str, Registration] | None]:
        """The state (text that is another after each change) and the registrations by node; None: it is the state given.

        A state's part before the `-` is another when Redis has lost its memory. ttl: as registrations are made with.
        """
        found = await self._look(REGISTERED, ttl, state)
        return as_text(found[0]), _read(found[1]) if len(found) > 1 else None

    async def registrations(self) -> dict[str, Registration]:
        """Those that are alive, by node; for a person, with no right to change anything."""
        return _read(await self._run(ALIVE, self._registry_keys()[:2]))

    async def _look(self, script: Script, ttl: float, *more: str) -> Any:
        channel = moves_channel(self.mesh)
        return await self._run(script, self._registry_keys(), [round(ttl * 1000), QUIET, channel, *more])

    def _registry_keys(self) -> list[str]:
        endpoints = f"{{{self.mesh}}}:endpoints"
        return [endpoints, f"{endpoints}:expiry", f"{endpoints}:state"]


def moves_channel(mesh: str) -> str:
    """Where it is published that an endpoint has come or gone."""
    return f"{{{mesh}}}:endpoints:moves"


def by_service(registrations: Mapping[str, Registration]) -> dict[str, tuple[Registered, ...]]:
    """Service -> its endpoints in one order; workers that share a port are one."""
    found: dict[str, set[Registered]] = {}
    for registration in registrations.values():
        found.setdefault(registration.service, set()).add(registration.endpoint)
    return {service: tuple(sorted(endpoints)) for service, endpoints in sorted(found.items())}


def write_registration(registration: Registration) -> str:
    """The text that Redis holds."""
    endpoint = registration.endpoint
    return json.dumps(
        {
            "service": registration.service,
            "version": endpoint.version,
            "address": endpoint.address,
            "mtls": endpoint.mtls,
            "weight": endpoint.weight,
        }
    )


def read_registration(text: str) -> Registration | None:
    """None for what is none: written by hand, or by a release to come."""
    try:
        said = json.loads(text)
        weight = float(said.get("weight", 1))
        if not 0 <= weight <= MOST_WEIGHT:
            return None
        endpoint = Registered(
            named(said["version"]), address(said["address"]), said.get("mtls") is True, weight
        )
        return Registration(named(said["service"]).lower(), endpoint)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _read(pairs: Sequence[bytes]) -> dict[str, Registration]:
    texts = [as_text(part) for part in pairs]
    found = {node: read_registration(text) for node, text in zip(texts[::2], texts[1::2], strict=True)}
    return {node: registration for node, registration in found.items() if registration is not None}
