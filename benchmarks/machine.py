"""What a measurement ran on: the cores, and what has which version."""

import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.processes import Cores

BUSY = 0.7
"""Load average from which on other programs disturb the measurement."""


@dataclass(frozen=True)
class Split:
    """Which cores are whose. Empty sets: the system cannot pin, or there is only one core."""

    proxy: Cores
    load: Cores
    wide: Cores
    """For a proxy of two processes; on a machine with two cores it shares one with the load."""

    def __str__(self) -> str:
        if not self.proxy:
            return "not pinned to cores"
        shared = " (shared)" if self.wide & self.load else ""
        return f"proxies on core {_list(self.proxy)}, two workers on {_list(self.wide)}{shared}, wrk and nginx on {_list(self.load)}"


def split() -> Split:
    """One core for the proxies, the rest for wrk and nginx."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return Split(frozenset(), frozenset(), frozenset())
    if len(cores) == 2:
        return Split(frozenset(cores[:1]), frozenset(cores[1:]), frozenset(cores))
    return Split(frozenset(cores[:1]), frozenset(cores[2:]), frozenset(cores[:2]))


def describe(checkout: Path, nginx: str, wrk: str, envoy: Path) -> dict[str, str]:
    """Names to values, for the head of the results."""
    packages = ("mitmproxy", "proxy.py", "uvloop", "httptools")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "mitmesh": commit(checkout),
        "machine": f"{_model()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "load average": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "Python": platform.python_version(),
        **{name: _package(name) for name in packages},
        "Envoy": _said([str(envoy), "--version"], r"/(\d+\.\d+\.\d+)/"),
        "nginx": _said([nginx, "-v"], r"nginx/(\S+)"),
        "wrk": _said([wrk, "-v"], r"wrk \S*?(\d+\.\d+\.\d+)"),
    }


def warnings() -> list[str]:
    """What makes the numbers worth less than they look."""
    found = []
    if (load := os.getloadavg()[0]) > BUSY:
        found.append(
            f"load average {load:.1f} at the start: other programs use these cores; trust ratios only"
        )
    if sys.platform != "linux":
        found.append("no /proc: CPU and memory are not measured")
    return found


def _model() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _said(command: list[str], pattern: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    found = re.search(pattern, done.stdout)
    return found[1] if found else "unknown"


def commit(checkout: Path) -> str:
    """The commit of the tree, with a + when it has changes; a tree without git may name its own in a file COMMIT."""
    named = checkout / "COMMIT"
    if named.exists():
        return named.read_text().strip()
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _list(cores: Cores) -> str:
    return ",".join(map(str, sorted(cores)))
