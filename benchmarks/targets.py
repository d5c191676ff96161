"""What is measured, and how each is started."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import envoy_proxy, policies, upstream
from benchmarks.load import Door
from benchmarks.machine import Split
from benchmarks.processes import Program, Programs, free_port

BIN = Path(sys.executable).parent
BASE = "envoy"
"""The target that the others are compared with."""


@dataclass(frozen=True)
class Target:
    """Something that listens. program: None where its CPU and memory are of no interest."""

    key: str
    shown: str
    door: Door
    program: Program | None = None
    log: Path | None = None
    """Its access log, emptied after each load."""

    def trim(self) -> bool:
        """Empty the access log, so that a long run does not fill the disk. Whether there was one, if there should be."""
        if self.log is None:
            return True
        written = self.log.exists() and self.log.stat().st_size > 0
        if written:
            with self.log.open("r+b") as log:
                log.truncate(0)
        return written


class Bench:
    """Where targets run: their upstream, their policies and their cores."""

    def __init__(self, programs: Programs, checkout: Path, cores: Split) -> None:
        self.programs = programs
        self.folder = programs.folder
        self.checkout = checkout
        self.cores = cores
        self.port = upstream.start(programs, cores.load)
        self.redis = policies.start_store(programs, cores.load)
        self.upstream = f"127.0.0.1:{self.port}"

    def targets(self, wanted: Iterable[str]) -> list[Target]:
        """Start those of these names, in the order of TARGETS."""
        names = set(wanted)
        if any(name.startswith("m") and name != "mitmdump" for name in names):
            policies.apply(self.redis, "mesh", [policies.full(self.port)])
        return [start(self) for name, start in TARGETS.items() if name in names]

    def door(self, port: int, absolute: bool = False) -> Door:
        """A proxy that is asked for what nginx has."""
        return Door(port, (self.upstream,), absolute)

    def mitmesh(
        self, name: str, mesh: str, *, workers: int = 1, access_log: Path | None = None, forward: bool = False
    ) -> tuple[Program, int]:
        """Start `mitmesh proxy` on a port of its own; with `forward` for any host, else in front of nginx."""
        return self.script(
            name,
            [sys.executable, "-P", self.checkout / "addons/lean_proxy.py"]
            + (["--workers", str(workers)] if workers > 1 else []),
            mesh,
            access_log,
            forward,
            wide=workers > 1,
        )

    def script(
        self,
        name: str,
        command: Sequence[object],
        mesh: str,
        access_log: Path | None = None,
        forward: bool = False,
        wide: bool = False,
    ) -> tuple[Program, int]:
        """Start something with mitmdump's command line and the mesh's options."""
        port = free_port()
        mode = f"regular@{port}" if forward else f"reverse:http://{self.upstream}@{port}"
        options = {
            "confdir": self.folder / "confdir",
            "termlog_verbosity": "warn",
            "mesh_redis": self.redis,
            "mesh_name": mesh,
            "mesh_access_log": access_log or "",
        }
        command = [*command, "--mode", mode, "--listen-host", "127.0.0.1"]
        for option, value in options.items():
            command += ["--set", f"{option}={value}"]
        cores = self.cores.wide if wide else self.cores.proxy
        return self.programs.start(name, command, cores).listening(port), port


def _direct(bench: Bench) -> Target:
    return Target("direct", "nginx, no proxy", bench.door(bench.port))


def _envoy(bench: Bench) -> Target:
    port, log = free_port(), bench.folder / "envoy-access.log"
    configuration = bench.folder / "envoy.json"
    configuration.write_text(envoy_proxy.configuration(port, bench.port, log))
    command = [envoy_proxy.binary(), "-c", configuration, "--concurrency", "1", "--log-level", "warn"]
    program = bench.programs.start("Envoy", [*command, "--disable-hot-restart"], bench.cores.proxy)
    return Target("envoy", "Envoy", bench.door(port), program.listening(port), log)


def _proxy_py(bench: Bench) -> Target:
    port = free_port()
    command = [
        *(BIN / "proxy", "--hostname", "127.0.0.1", "--port", str(port), "--log-level", "ERROR"),
        *("--num-acceptors", "1", "--num-workers", "1", "--open-file-limit", "4096"),
        *("--data-dir", bench.folder / "proxy.py"),
    ]
    program = bench.programs.start("proxy.py", command, bench.cores.proxy)
    return Target("proxy.py", "proxy.py", bench.door(port, absolute=True), program.listening(port))


def _mitmdump(bench: Bench) -> Target:
    port = free_port()
    command = [
        *(BIN / "mitmdump", "-q", "--mode", f"reverse:http://{bench.upstream}@{port}"),
        # Without the last, a body of 1 GB would be held in memory.
        *("--listen-host", "127.0.0.1", "--set", f"confdir={bench.folder / 'confdir'}"),
        *("--set", "flow_detail=0", "--set", "stream_large_bodies=2m"),
    ]
    program = bench.programs.start("mitmdump", command, bench.cores.proxy)
    return Target("mitmdump", "mitmdump", bench.door(port), program.listening(port))


def _mesh_script(bench: Bench) -> Target:
    log = bench.folder / "script-access.log"
    command = [BIN / "mitmdump", "-q", "-s", bench.checkout / "addons/mesh.py"]
    program, port = bench.script("mitmdump -s mesh.py", command, "mesh", log)
    return Target("mesh.py", "mitmdump -s mesh.py", bench.door(port), program, log)


def _mitmesh(bench: Bench) -> Target:
    log = bench.folder / "mitmesh-access.log"
    program, port = bench.mitmesh("mitmesh", "mesh", access_log=log)
    return Target("mitmesh", "mitmesh proxy", bench.door(port), program, log)


def _mitmesh_2(bench: Bench) -> Target:
    log = bench.folder / "mitmesh-2-access.log"
    program, port = bench.mitmesh("mitmesh-2", "mesh", workers=2, access_log=log)
    return Target("mitmesh-2", "mitmesh proxy, 2 workers", bench.door(port), program, log)


TARGETS: dict[str, Callable[[Bench], Target]] = {
    "direct": _direct,
    "envoy": _envoy,
    "proxy.py": _proxy_py,
    "mitmdump": _mitmdump,
    "mesh.py": _mesh_script,
    "mitmesh": _mitmesh,
    "mitmesh-2": _mitmesh_2,
}
