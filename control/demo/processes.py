"""Child processes that never outlive this one.

Each child leads a process group of its own, so that a Ctrl-C in the terminal reaches this program alone and
it ends the children in order. On Linux the kernel ends a child whose parent was killed outright.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from control.commands.failure import Failed

GRACE_SECONDS = 3.0
START_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> Callable[[], None] | None:
    """What a child runs before its program starts; None where the kernel offers nothing of the kind."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return arrange


class Child:
    """One program that was started; what it prints goes to `log`."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def last_line(self) -> str:
        """The last thing it said, for a person who asks why it ended."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {self.process.returncode}"

    def check(self) -> None:
        """Raises Failed when it has ended."""
        if self.process.poll() is not None:
            raise Failed(f"error: {self.name} ended: {self.last_line()}")

    async def listening(self, host: str, port: int) -> None:
        """Returns once it accepts connections. Raises Failed when it ends first or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                return
            await asyncio.sleep(0.02)
        raise Failed(f"error: {self.name} does not listen on {host}:{port} after {START_SECONDS:.0f}s")

    def stop(self) -> None:
        """SIGTERM to the group, SIGKILL after a grace. Without await, so that a second Ctrl-C cannot break it off."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        self._signal(signal.SIGKILL)  # also what the group's leader may have left behind
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Processes:
    """Starts children and, at the end of its `with` block, ends them in reverse order, whatever happened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[Child] = []

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Run `command` in the folder. Raises Failed when there is no such program."""
        log = self.folder / f"{name.replace(' ', '-')}.log"
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                    env={**os.environ, **(env or {})},
                    process_group=0,
                    preexec_fn=_die_with_parent(),  # noqa: PLW1509 - no other threads run when children start
                )
            except OSError as error:
                raise Failed(f"error: {name} cannot be started: {command[0]}: {error.strerror}") from None
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def check(self) -> None:
        """Raises Failed when one has ended."""
        for child in self.children:
            child.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.children:
            self.children.pop().stop()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_taken(port: int) -> bool:
    """Whether somebody listens on the port, on loopback or everywhere."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False
