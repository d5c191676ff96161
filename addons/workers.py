"""Several proxies on one port: the kernel spreads connections over them, and one that dies is started again."""

import os
import signal
import subprocess
import sys
import time
from types import FrameType

WORKER = "MITMESH_WORKER"
"""Set in a worker's environment to its number, from 1."""
_SHORTEST_LIFE = 1.0
_LONGEST_PAUSE = 5.0
_LOOK = 0.1


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
        self.pause = 0.0
        self.since = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, WORKER: str(self.number)}
        command = [sys.executable, "-P", os.path.join(os.path.dirname(__file__), "lean_proxy.py")]
        self.process = subprocess.Popen([*command, *self._arguments], env=environment)
        self.since = time.monotonic()

    def died(self) -> int | None:
        """The exit code of a worker that has ended; None while it runs."""
        return self.process.poll() if self.process is not None else None


def supervise(count: int, arguments: list[str]) -> int:
    """Run `count` workers until SIGTERM or SIGINT, or until none can start; the exit code."""
    workers = [_Worker(number + 1, arguments) for number in range(count)]
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for worker in workers:
        worker.start()
    started = False
    while not stopping:
        time.sleep(_LOOK)
        for worker in workers:
            code = worker.died()
            if code is None:
                started = started or time.monotonic() - worker.since > _SHORTEST_LIFE
            elif not started and code == 1:
                # It said itself what is wrong; starting it again would say it again.
                _end(workers)
                return 1
            elif time.monotonic() - worker.since >= worker.pause:
                print(
                    f"mitmesh proxy: worker {worker.number} ended with {code}; started again", file=sys.stderr
                )
                short = time.monotonic() - worker.since < _SHORTEST_LIFE
                worker.pause = min(_LONGEST_PAUSE, worker.pause * 2 or 0.5) if short else 0.0
                worker.start()
    _end(workers)
    return 0


def _end(workers: list[_Worker]) -> None:
    running = [worker.process for worker in workers if worker.process is not None]
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in running:
        process.wait()
