"""The mesh's policy in Redis: read, write, publish, history, reports of nodes. The only module that imports redis.

This is the way to Redis: URL, connections, subscription, failures. What is done there is in store_operations.py.
"""

import os
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
)

from control import store_records as records
from control import store_scripts as scripts
from control.store_canaries import CanaryOperations, Held
from control.store_hints import Hints
from control.store_identity import IdentityOperations
from control.store_operations import Operations
from control.store_records import Change, Entry, Hint, NodeReport, Stored, StoreError, Update, Wanted
from control.store_registry import Registry
from control.store_server import describe, hide_password, parse_target

__all__ = [
    "Change",
    "Entry",
    "Held",
    "Hint",
    "NodeReport",
    "Store",
    "StoreError",
    "Stored",
    "Update",
    "Wanted",
]

PING_AFTER = 1.0  # seconds of silence on a subscription until a PING, and again until it counts as lost

_FAILURES = (RedisError, RedisClusterException, OSError)
_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": 2.0,
    "socket_timeout": 5.0,
    # What is tried again, and what must not be, is decided here and not in redis-py.
    "retry": Retry(NoBackoff(), 0),
    "protocol": 2,
    "driver_info": None,
}


class Store(Operations, CanaryOperations, IdentityOperations, Registry, Hints):
    """One mesh in one Redis. Connects when first used, and again by itself when a connection was lost.

    url: redis:// rediss:// unix:// as redis-py takes them, with its options such as ssl_ca_certs;
    redis+sentinel://[user:password@]host:port,.../SERVICE[/DB], redis+cluster://host:port,...; both with
    rediss+ too. Raises StoreError at once for one that cannot be right.
    """

    def __init__(self, url: str, mesh: str = "mesh") -> None:
        super().__init__(hide_password(url), mesh)
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", mesh):
            raise StoreError(f"{mesh!r} is no name of a mesh: use letters, digits, '.', '_' and '-'")
        self._subscriptions: set[AbstractConnection] = set()
        self._sentinel: Sentinel | None = None
        try:
            self._client = self._open(url)
        except (ValueError, TypeError, *_FAILURES) as error:
            said = re.sub(
                r".*unexpected keyword argument ('[^']*').*", r"\1 is no option of such a URL", str(error)
            )
            raise StoreError(f"cannot use the Redis URL {self.url_shown}: {said}") from None

    def _open(self, url: str) -> "Redis | RedisCluster":
        target = parse_target(url)
        options = {**_OPTIONS, **parse_url(target.plain)}
        for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"):
            if name in options and not os.path.exists(options[name]):
                raise ValueError(f"{name}: there is no {options[name]}")
        if target.kind == "single":
            single = Redis.from_pool(ConnectionPool(**options))
            self._connection(single)
            return single
        tls = target.plain.startswith("rediss:")
        for name in ("host", "port", "connection_class"):
            options.pop(name, None)
        if target.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in target.hosts]
            return RedisCluster(startup_nodes=nodes, ssl=tls, require_full_coverage=False, **options)
        own = {name: value for name, value in options.items() if name.startswith(("socket_", "ssl_"))}
        own |= {"ssl": tls, "retry": _OPTIONS["retry"], "protocol": 2, "driver_info": None}
        for name in ("username", "password"):
            own[name] = options.pop(f"sentinel_{name}", None)
        new_sentinel: Any = Sentinel
        self._sentinel = new_sentinel(target.hosts, sentinel_kwargs=own)
        client: Redis = self._sentinel.master_for(target.service, ssl=tls, **options)
        self._connection(client)
        return client

    @staticmethod
    def _connection(client: Redis) -> AbstractConnection:
        """A connection outside the pool, not opened yet. Raises TypeError for an option that does not exist."""
        pool: Any = client.connection_pool
        connection: AbstractConnection = pool.make_connection()
        return connection

    async def close(self) -> None:
        """Ends every connection, subscriptions included; a subscription that is waiting then raises StoreError."""
        for connection in list(self._subscriptions):
            await connection.disconnect(nowait=True)
        await self._client.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()

    # Hints

    async def _heard(self, *channels: str) -> AsyncGenerator[tuple[str, bytes] | None, None]:
        connection = await self._subscribe(channels)
        self._subscriptions.add(connection)
        try:
            yield None
            asked = False
            while True:
                try:
                    heard = await connection.read_response(
                        timeout=PING_AFTER, disconnect_on_error=False, push_request=True
                    )
                except ResponseError:
                    heard = ()  # a refused PING is an answer, too
                if heard is None and (asked or not connection.is_connected):
                    raise ConnectionError("Timeout: no answer to PING")
                if heard is None:
                    await connection.send_command("PING", check_health=False)
                asked = heard is None
                if heard and heard[0] == b"message":
                    yield records.as_text(heard[1]), heard[2]
        except _FAILURES as error:
            raise await self._explain(error) from error
        finally:
            self._subscriptions.discard(connection)
            await connection.disconnect(nowait=True)

    async def _subscribe(self, channels: Sequence[str]) -> AbstractConnection:
        try:
            if isinstance(self._client, RedisCluster):
                node: Any = await self._node_of(self._client, self._changes)
                connection: Any = node.connection_class(**node.connection_kwargs, retry=_OPTIONS["retry"])
            else:
                connection = self._connection(self._client)
            try:
                await connection.connect()
                await connection.send_command("SUBSCRIBE", *channels, check_health=False)
                for _ in channels:
                    await connection.read_response(push_request=True)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            opened: AbstractConnection = connection
            return opened
        except _FAILURES as error:
            raise await self._explain(error) from error

    async def _scan(self, pattern: str) -> set[bytes]:
        keys: set[bytes] = set()
        cursor: Any = 0
        try:
            scanner: Any = self._client
            if isinstance(self._client, RedisCluster):
                scanner = await self._node_of(self._client, pattern)
            while True:
                cursor, found = await scanner.execute_command("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                keys.update(found)
                if not int(cursor):
                    return keys
        except _FAILURES as error:
            raise await self._explain(error) from error

    async def _run(
        self, script: scripts.Script, keys: Sequence[str], args: Iterable[Any] = (), again: bool = True
    ) -> Any:
        call = (len(keys), *keys, *args)
        try:
            try:
                return await self._evaluate(script, call)
            except ConnectionError as error:
                # A pooled connection may have died since it was last used, or lead to a former primary, which
                # is certain to have done nothing.
                if isinstance(error, AuthenticationError) or not (again or "now a slave" in str(error)):
                    raise
                return await self._evaluate(script, call)
        except _FAILURES as error:
            raise await self._explain(error) from error

    async def _evaluate(self, script: scripts.Script, call: Sequence[Any]) -> Any:
        if isinstance(self._client, RedisCluster):
            await self._node_of(self._client, call[1])
        try:
            return await self._client.execute_command("EVALSHA", script.sha, *call)
        except NoScriptError:
            return await self._client.execute_command("EVAL", script.text, *call)

    @staticmethod
    async def _node_of(cluster: RedisCluster, key: str) -> Any:
        """The cluster's node that serves the key; where it is was asked when the first command was sent."""
        try:
            return (await cluster.initialize()).get_node_from_key(key)
        except IndexError:
            # redis-py's way to say that nobody serves any slot.
            raise SlotNotCoveredError("no slot is covered") from None

    async def _explain(self, error: BaseException) -> StoreError:
        where = f"cannot use Redis at {self.url_shown}"
        if "WRONGTYPE" in str(error):
            for key, kind in ((self._revision, "string"), (self._policy, "hash"), (self._history, "stream")):
                try:
                    found = records.as_text(await self._client.execute_command("TYPE", key))
                except _FAILURES:
                    continue
                if found not in (kind, "none"):
                    return StoreError(f"{where}: {key} is a {found}, not a {kind}; rename or delete that key")
        if "equal or smaller" in str(error):
            remedy = f"set {self._revision} to the id of the last entry there, or delete {self._history}"
            return StoreError(f"{where}: {self._history} is ahead of {self._revision}; {remedy}")
        return StoreError(
            describe(error, self.url_shown, self.mesh, answered=isinstance(error, ResponseError))
        )
