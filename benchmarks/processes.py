"""Programs that are started for a measurement, each on the cores that are its own, and ended after it."""

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START = 30.0
"""Seconds that a program may take until it listens."""
GRACE = 5.0
"""Seconds from SIGTERM to SIGKILL."""
_PR_SET_PDEATHSIG = 1

Cores = frozenset[int]


class Broken(Exception):
    """Nothing can be measured; one line for a person."""


def prepare(cores: Cores) -> Callable[[], None]:
    """What a child runs before its program starts: keep to these cores, and end when this process does (on Linux)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def arrange() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if hasattr(os, "sched_setaffinity") and cores:
            os.sched_setaffinity(0, cores)

    return arrange


class Program:
    """One program that was started, in a process group of its own; what it says goes to `log`."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def last_line(self) -> str:
        """The last thing it said."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.process.returncode}"

    def listening(self, port: int) -> Self:
        """Return once it accepts connections on that port of 127.0.0.1. Raises Broken."""
        end = time.monotonic() + START
        while time.monotonic() < end:
            if self.ended:
                raise Broken(f"{self.name} ended: {self.last_line()}")
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise Broken(f"{self.name} does not listen on port {port} after {START:.0f} s: see {self.log}")

    def stop(self) -> None:
        """End it and what it started."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Programs:
    """Starts programs; at the end of its `with` block all have ended, the last one first, whatever happened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Program] = []

    def start(
        self,
        name: str,
        command: Sequence[object],
        cores: Cores,
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        """Run it; the parts of the command are turned into text. Raises Broken when there is no such program."""
        log = self.folder / f"{name.replace(' ', '-').replace('/', '-')}.log"
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                    env={**os.environ, **(environment or {})},
                    process_group=0,
                    preexec_fn=prepare(cores),  # noqa: PLW1509 - no other thread runs when programs start
                )
            except OSError as error:
                raise Broken(f"{name} cannot be started: {command[0]}: {error.strerror}") from None
        program = Program(name, process, log)
        self.running.append(program)
        return program

    def stop(self, program: Program) -> None:
        """End one before the others."""
        self.running.remove(program)
        program.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.running:
            self.running.pop().stop()


_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, below those that outgoing connections take theirs from."""
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
