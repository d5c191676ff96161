"""Options that several commands share, and where they lead: which Redis, which mesh."""

import contextlib
import os
import re
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from control.commands.failure import Failed, usage

if TYPE_CHECKING:
    from control.signing import Signer
    from control.store import Store

DEFAULT_REDIS = "redis://127.0.0.1:6379/0"
DEFAULT_MESH = "mesh"

Redis = Annotated[
    str | None,
    typer.Option(
        "--redis", metavar="URL", help=f"Redis that holds the policy (MITMESH_REDIS, {DEFAULT_REDIS})"
    ),
]
Mesh = Annotated[
    str | None,
    typer.Option("--mesh", metavar="NAME", help=f"the mesh in that Redis (MITMESH_NAME, {DEFAULT_MESH})"),
]
RedisCa = Annotated[
    str | None,
    typer.Option(
        "--redis-ca", metavar="FILE", help="CA of a rediss:// server's certificate (MITMESH_REDIS_CA)"
    ),
]
RedisCert = Annotated[
    str | None,
    typer.Option("--redis-cert", metavar="FILE", help="certificate to show to it (MITMESH_REDIS_CERT)"),
]
RedisKey = Annotated[
    str | None, typer.Option("--redis-key", metavar="FILE", help="that one's key (MITMESH_REDIS_KEY)")
]
PolicyKey = Annotated[
    str | None,
    typer.Option(
        "--policy-key", metavar="FILE", help="signs every change of policy with this key (MITMESH_POLICY_KEY)"
    ),
]
Files = Annotated[
    list[str],
    typer.Option("--file", "-f", metavar="FILE|-|DIR", help="policy to read; may be given several times"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
Strict = Annotated[
    bool, typer.Option("--strict", help="refuse what is sound but can never work, instead of warning")
]
Message = Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="why, for the history")]
Wait = Annotated[
    str | None,
    typer.Option(
        "--wait", metavar="TIME", help="wait until every live proxy has the change in force, such as 5s"
    ),
]

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """Which mesh a command speaks of. `given_*`: named on the command line, not by environment or default."""

    given_redis: str | None
    given_mesh: str | None
    given_policy_key: str | None = None
    given_tls: Mapping[str, str] = field(default_factory=dict)
    """Files by the names of store_server.TLS_FILES."""

    @property
    def redis(self) -> str:
        return self.given_redis or os.environ.get("MITMESH_REDIS") or DEFAULT_REDIS

    @property
    def redis_with_tls(self) -> str:
        """The URL with the files of TLS. Those of the environment are for TLS alone."""
        from control.store_server import TLS_FILES, with_tls_files

        said = {name: os.environ.get(f"MITMESH_REDIS_{name.upper()}", "") for name in TLS_FILES}
        files = {**(said if self.redis.startswith("rediss") else {}), **self.given_tls}
        try:
            return with_tls_files(self.redis, files)
        except ValueError as error:
            raise usage(f"--redis-{next(iter(self.given_tls), 'key')}: {error}") from None

    @property
    def mesh(self) -> str:
        name = self.given_mesh or os.environ.get("MITMESH_NAME") or DEFAULT_MESH
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name, re.ASCII):
            raise usage(
                f"--mesh: use letters, digits, '.', '_' and '-', such as mesh or staging, got {name!r}"
            )
        return name

    def signer(self) -> "Signer | None":
        """What signs every change; None without a policy key. Raises Failed for a file that holds none."""
        path = self.given_policy_key or os.environ.get("MITMESH_POLICY_KEY")
        if not path:
            return None
        from pathlib import Path

        from control.identity.private_files import read_secret
        from control.signing import Signer, read_private

        try:
            return Signer(self.mesh, read_private(read_secret(Path(path).expanduser())))
        except OSError as error:
            raise Failed(f"error: --policy-key {path}: {error.strerror}") from None
        except ValueError as error:
            raise Failed(f"error: --policy-key {path}: {error}") from None

    def run(self, work: "Callable[[Store], Awaitable[T]]") -> T:
        """Do `work` with the mesh's store, open while it runs. Raises Failed where Redis does not play along."""
        import asyncio

        from control.store import Store, StoreError

        async def opened() -> T:
            store = Store(self.redis_with_tls, self.mesh)
            store.signer = self.signer()
            try:
                with _insistent_interrupt():
                    return await work(store)
            finally:
                await store.close()

        try:
            return asyncio.run(opened())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        except StoreError as error:
            raise Failed(f"error: {error}") from None


@contextlib.contextmanager
def _insistent_interrupt() -> Iterator[None]:
    """Ctrl-C cancels the task that asks, again and again until it ends.

    On Python 3.11 a cancellation that meets redis-py while it sends is lost in asyncio.wait_for.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    again: asyncio.TimerHandle | None = None

    def interrupt() -> None:
        nonlocal again
        task.cancel()
        again = loop.call_later(0.1, interrupt)

    try:
        loop.add_signal_handler(signal.SIGINT, interrupt)
    except (NotImplementedError, RuntimeError):
        # Windows, and threads other than the main one: asyncio's own way has to do.
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        if again is not None:
            again.cancel()


def target_of(context: typer.Context, redis: str | None, mesh: str | None) -> Target:
    """What was said after the command wins over what was said before it."""
    before = context.find_object(Target)
    if before is None:
        return Target(redis, mesh)
    return replace(before, given_redis=redis or before.given_redis, given_mesh=mesh or before.given_mesh)


def wait_seconds(wait: str | None) -> float | None:
    """Seconds of `--wait 5s`; None when it was not given."""
    if wait is None:
        return None
    from control.policy.units import parse_duration

    try:
        return parse_duration(wait)
    except ValueError as error:
        raise usage(f"--wait {wait}: {error}") from None
