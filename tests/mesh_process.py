"""Real proxies for the tests: mitmdump with the mesh's addons, its policy in a real Valkey, clients on plain sockets."""

import asyncio
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from control.policy.reading import normalize, read_bytes
from control.store import NodeReport, Store, Stored
from tests.conftest import Valkey, die_with_parent, free_port

ROOT = Path(__file__).parent.parent
MESH = ROOT / "addons/mesh.py"
MITMDUMP = [str(Path(sys.executable).with_name("mitmdump"))]
START_TIMEOUT = 40.0
PATIENCE = 20.0
"""Seconds that a slow machine may take for what a fast one does at once."""

FULL = {"mesh_fastlane": "false"}
LANES = [
    pytest.param({}, id="fast"),
    pytest.param({"options": FULL}, id="full"),
    pytest.param({"lean": True}, id="lean"),
]
"""What a Proxy is made with: mitmdump that serves HTTP/1.1 in the mesh's engine, mitmdump that does so itself, and what
`mitmesh proxy` runs.
"""

T = TypeVar("T")


def with_options(lane: dict[str, Any], **options: str) -> dict[str, Any]:
    """One of LANES with more options."""
    return {**lane, "options": {**lane.get("options", {}), **options}}


def eventually(look: Callable[[], T], within: float = PATIENCE, every: float = 0.01) -> T:
    """What `look` returns once that is true in itself; AssertionError with the last thing seen when time is over."""
    end = time.monotonic() + within
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < end, f"not within {within} s: {seen!r}"
        time.sleep(every)


@cache
def confdir() -> Path:
    """mitmproxy's certificates, made once for all proxies of this process."""
    folder = tempfile.TemporaryDirectory(prefix="mitmesh-confdir-")
    confdir.keep = folder  # type: ignore[attr-defined]  # it goes away with this process
    return Path(folder.name)


class Mesh:
    """The policy of one mesh in a Redis, written as `mitmesh apply` does."""

    def __init__(self, url: str, name: str = "mesh") -> None:
        self.url = url
        self.name = name

    def use(self, work: Callable[[Store], Awaitable[T]]) -> T:
        async def run() -> T:
            store = Store(self.url, self.name)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def apply(self, text: str) -> int:
        """Write these documents; the revision."""
        documents = {
            document.policy.service: normalize(document.policy)
            for document in read_bytes(textwrap.dedent(text).encode(), "test.yaml")
        }
        change = self.use(lambda store: store.change(lambda stored: documents, author="test", message=""))
        return change.revision

    def delete(self, service: str) -> int:
        change = self.use(
            lambda store: store.change(lambda stored: {service: None}, author="test", message="")
        )
        return change.revision

    def stored(self) -> Stored:
        return self.use(lambda store: store.read())

    def nodes(self) -> dict[str, NodeReport]:
        return {node.id: node for node in self.use(lambda store: store.nodes())}


class Proxy:
    """One process; its console goes to `console`, its access log to `access_log`, both in `folder`."""

    def __init__(
        self,
        folder: Path,
        redis: str | None,
        *,
        port: int | None = None,
        modes: Sequence[str] | None = None,
        options: dict[str, str] | None = None,
        scripts: Sequence[Path] = (),
        mesh_script: Path = MESH,
        lean: bool = False,
        command: Sequence[str] | None = None,
        environment: dict[str, str] | None = None,
        node: str | None = None,
    ) -> None:
        """lean: what `mitmesh proxy` runs. command: instead of all of the above. redis None: the default is relied on."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        self.node = node or f"node-{self.port}"
        self.console_file = folder / "console.log"
        self.access_log = folder / "access.log"
        settings = {
            "confdir": str(confdir()),
            "flow_detail": "0",
            "mesh_node": self.node,
            "mesh_access_log": str(self.access_log),
            **({} if redis is None else {"mesh_redis": redis}),
            **(options or {}),
        }
        program = [sys.executable, "-P", str(ROOT / "addons/lean_proxy.py")] if lean else MITMDUMP
        self.command = list(command) if command else [
            *program,
            *(part for mode in modes or [f"regular@{self.port}"] for part in ("--mode", mode)),
            *("--listen-host", "127.0.0.1"),
            *(part for script in (*scripts, *([] if lean else [mesh_script])) for part in ("-s", str(script))),
            *(part for name, value in settings.items() for part in ("--set", f"{name}={value}")),
        ]  # fmt: skip
        # Neither the checkout nor a mesh of the developer's own may come in by the environment.
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "MITMESH_REDIS", "MITMESH_NAME")
        } | (environment or {})
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> "Proxy":
        """Start it without waiting."""
        with self.console_file.open("ab") as console:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - system calls alone, no Python lock is taken
            )
        return self

    def start(self) -> "Proxy":
        """Start it; returns once it listens."""
        self.launch()
        assert self.process is not None
        end = time.monotonic() + START_TIMEOUT
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"the proxy does not listen:\n{self.console()}")
            time.sleep(0.01)

    def stop(self) -> int:
        """As `kill PID`; the exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def console(self) -> str:
        return self.console_file.read_text(errors="replace") if self.console_file.exists() else ""

    def lines(self) -> list[dict[str, Any]]:
        """The access log so far."""
        if not self.access_log.exists():
            return []
        text = self.access_log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def line(self, path: str) -> dict[str, Any]:
        """The one line about this path, as soon as it is written."""
        found = eventually(lambda: [line for line in self.lines() if line["path"] == path])
        assert len(found) == 1, found
        return found[0]

    def memory(self) -> int:
        """Bytes of main memory it uses (Linux)."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def in_force(self, mesh: Mesh, revision: int, within: float = PATIENCE) -> None:
        """Returns once it reports the revision to be in force."""

        def reported() -> bool:
            progress = mesh.use(lambda store: store.progress([self.node]))
            return progress.get(self.node, (-1, ""))[0] >= revision

        eventually(reported, within)


@contextmanager
def running(*proxies: Proxy) -> Iterator[None]:
    """Started, all of them, and ended."""
    try:
        for proxy in proxies:
            proxy.start()
        yield
    finally:
        for proxy in proxies:
            if proxy.process is not None and proxy.process.poll() is None:
                proxy.process.terminate()
        for proxy in proxies:
            if proxy.process is not None:
                try:
                    proxy.process.wait(PATIENCE)
                finally:
                    proxy.kill()


@dataclass(frozen=True)
class Answer:
    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.fields if key.lower() == name]
        return ", ".join(values) if values else None

    @property
    def flag(self) -> str | None:
        return self.header("x-mesh-flag")

    @property
    def text(self) -> str:
        return self.body.decode()


class Client:
    """A keep-alive connection to a proxy; requests name their whole URL, as `curl -x` sends them."""

    def __init__(self, port: int, timeout: float = PATIENCE) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def send(self, method: str, url: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        self.connection.request(method, url, body, headers or {})
        response = self.connection.getresponse()
        return Answer(response.status, response.getheaders(), response.read())

    def get(self, url: str, **headers: str) -> Answer:
        """`x_user="7"` sends x-user: 7."""
        return self.send(
            "GET", url, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def get(port: int, url: str, **headers: str) -> Answer:
    """One request on a connection of its own."""
    with Client(port) as client:
        return client.get(url, **headers)


def send(port: int, method: str, url: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    with Client(port) as client:
        return client.send(method, url, body, headers)


def curl(*arguments: str, within: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """curl as a person calls it, without the environment's proxies and its configuration."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.run(
        ["curl", "--disable", "--silent", "--show-error", "--max-time", str(within), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=within + 5,
        check=False,
    )


class World:
    """A Valkey, a mesh in it and one proxy, shared by the tests of a file; each test has services of its own."""

    def __init__(self, folder: Path, **proxy: Any) -> None:
        self.valkey = Valkey(folder / "valkey", persist=True)
        self.mesh = Mesh(self.valkey.url)
        self.proxy = Proxy(folder / "proxy", self.valkey.url, **proxy)
        self.full = FULL.items() <= proxy.get("options", {}).items()
        """mitmproxy's own stack serves HTTP/1.1."""
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self.valkey.start()
        try:
            self.proxy.start()
        except BaseException:
            self.valkey.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.proxy.stop()
        finally:
            self.valkey.kill()

    def name(self) -> str:
        """A service that no other test knows."""
        return f"service-{next(self._numbers)}"

    def serve(self, policy: str = "", *addresses: str) -> str:
        """Apply a document with these endpoints and wait until it is in force; the name of its service.

        `policy` is the rest of the document, from the margin.
        """
        service = self.name()
        self.change(service, policy, *addresses)
        return service

    def change(self, service: str, policy: str, *addresses: str) -> None:
        """As serve, for a service that is there already."""
        text = textwrap.dedent(policy)
        if addresses:
            text += f"\nendpoints: {json.dumps(addresses)}\n"
        self.apply(f"service: {service}\n{text}")

    def apply(self, text: str) -> int:
        revision = self.mesh.apply(text)
        self.proxy.in_force(self.mesh, revision)
        return revision

    def get(self, url: str, **headers: str) -> Answer:
        return get(self.proxy.port, url, **headers)

    def send(self, method: str, url: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        return send(self.proxy.port, method, url, body, headers)

    def line(self, path: str) -> dict[str, Any]:
        return self.proxy.line(path)
