"""CPU time and memory of a program with all its threads and children, as Linux tells in /proc."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds since the program started."""

    user: float
    kernel: float

    @property
    def total(self) -> float:
        return self.user + self.kernel

    def since(self, before: "Cpu") -> "Cpu":
        return Cpu(self.user - before.user, self.kernel - before.kernel)

    def per(self, requests: int) -> "Cpu":
        """Seconds per 1,000 requests, which are milliseconds per request."""
        return Cpu(self.user / requests * 1000, self.kernel / requests * 1000)


def family(pid: int) -> list[int]:
    """The process, its children, and theirs."""
    found = [pid]
    for member in found:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{member}/task").iterdir():
                found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def cpu(pid: int) -> Cpu:
    """Used so far, by all threads of all processes of the family."""
    user = kernel = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            # The name may hold anything, spaces and parentheses too.
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            user += int(fields[11])
            kernel += int(fields[12])
    return Cpu(user / _TICKS, kernel / _TICKS)


def resident(pid: int) -> int:
    """Bytes in memory now; of several processes the sum, what they share counted for each."""
    return _memory(pid, "VmRSS")


def peak(pid: int) -> int:
    """Bytes in memory at most, since the start or `reset_peak`."""
    return _memory(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """From here on `peak` counts anew; without effect where the kernel does not allow it."""
    for member in family(pid):
        with contextlib.suppress(OSError):
            Path(f"/proc/{member}/clear_refs").write_text("5")


def _memory(pid: int, field: str) -> int:
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/status").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) * 1024
    return total
