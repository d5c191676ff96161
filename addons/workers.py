"""Several proxies on one port: the kernel spreads connections over them, and one that dies is started again."""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

WORKER = "MITMESH_WORKER"
"""Set in a worker's environment to its number, from 1."""
_SUPERVISOR = "MITMESH_SUPERVISOR"
_READY = "MITMESH_READY"
_SHORT_LIFE = 1.0
_LONGEST_PAUSE = 5.0
_LOOK = 0.1
_PR_SET_PDEATHSIG = 1


# In a worker


def worker_number() -> int:
    """From 1 on; 0 in a process that serves its ports alone."""
    return int(os.environ.get(WORKER, "0"))


def is_first() -> bool:
    """Whether no other worker listens yet, so that whoever holds a port is a stranger."""
    return _READY in os.environ


def tell_ready() -> None:
    """The supervisor may start the others."""
    descriptor = os.environ.pop(_READY, None)
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(int(descriptor), b".")
            os.close(int(descriptor))


def end_with_supervisor() -> None:
    """A worker is told to stop when its supervisor is killed (on Linux)."""
    supervisor = os.environ.get(_SUPERVISOR)
    if supervisor is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(supervisor):
        sys.exit("mitmesh proxy: the supervisor has ended")


# In the supervisor


def take_workers(arguments: list[str]) -> tuple[int, list[str]]:
    """`--workers N` out of the arguments; 1 without it."""
    if "--workers" not in arguments:
        return 1, arguments
    index = arguments.index("--workers")
    try:
        count = int(arguments[index + 1])
    except (IndexError, ValueError):
        count = 0
    if not 1 <= count <= 256:
        sys.exit("mitmesh proxy: --workers: write a number from 1 to 256")
    return count, arguments[:index] + arguments[index + 2 :]


class _Worker:
    def __init__(self, number: int, arguments: list[str]) -> None:
        self.number = number
        # A name of the user's own must still tell the workers apart in `mitmesh status`.
        self._arguments = [
            f"{argument}-{number}" if argument.startswith("mesh_node=") else argument
            for argument in arguments
        ]
        self._pause = 0.0
        self._since = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ready: int | None = None) -> None:
        environment = {**os.environ, WORKER: str(self.number), _SUPERVISOR: str(os.getpid())}
        if ready is not None:
            environment[_READY] = str(ready)
        command = [sys.executable, "-P", os.path.join(os.path.dirname(__file__), "lean_proxy.py")]
        self.process = subprocess.Popen(
            [*command, *self._arguments], env=environment, pass_fds=() if ready is None else (ready,)
        )
        self._since = time.monotonic()

    @property
    def code(self) -> int | None:
        """The exit code of a worker that has ended; None while it runs."""
        return self.process.poll() if self.process is not None else None

    def revive(self) -> None:
        """Start it again if it has ended; after a short life not before a pause that doubles each time."""
        code = self.code
        now = time.monotonic()
        if code is None or now - self._since < self._pause:
            return
        print(f"mitmesh proxy: worker {self.number} ended with {code}; started again", file=sys.stderr)
        short = now - self._since < self._pause + _SHORT_LIFE
        self._pause = min(_LONGEST_PAUSE, self._pause * 2 or 0.5) if short else 0.0
        self.start()


class _Signals:
    """Counts how often it was told to stop."""

    def __init__(self) -> None:
        self.stops = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stops += 1


def supervise(count: int, arguments: list[str]) -> int:
    """Run `count` workers until SIGTERM or SIGINT; the exit code. A worker that cannot start at first ends it all."""
    told = _Signals()
    workers = [_Worker(number + 1, arguments) for number in range(count)]
    code = _start_first(workers[0], told)
    if code is not None:
        # It said itself what is wrong; the others would say it again.
        return code
    if not told.stops:
        for worker in workers[1:]:
            worker.start()
    while not told.stops:
        time.sleep(_LOOK)
        for worker in workers:
            worker.revive()
    _end([worker.process for worker in workers if worker.process is not None], told)
    return 0


def _start_first(worker: _Worker, told: _Signals) -> int | None:
    """Start it and wait until it listens. Its exit code if it has ended instead."""
    ready, ours = os.pipe()
    worker.start(ours)
    os.close(ours)
    try:
        while not told.stops and not select.select([ready], [], [], _LOOK)[0]:
            pass
        if told.stops or os.read(ready, 1):
            return None
    finally:
        os.close(ready)
    assert worker.process is not None
    return worker.process.wait()


def _end(running: list[subprocess.Popen[bytes]], told: _Signals) -> None:
    """Let them finish; told to stop once more, kill them."""
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    once = told.stops
    while any(process.poll() is None for process in running):
        time.sleep(_LOOK / 2)
        if told.stops > once:
            for process in running:
                process.kill()
