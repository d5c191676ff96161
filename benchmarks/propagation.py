"""How long `mitmesh apply --wait` takes until every proxy has reported the new policy to be in force.

Run from the project's root: python -m benchmarks.propagation

Real proxies, a Valkey of its own; all on this machine, so that the proxies share its cores with the command.
"""

import argparse
import contextlib
import io
import json
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.processes import Broken, Programs, free_port
from control.cli import main as mitmesh
from control.demo.story import valkey_server

ROOT = Path(__file__).resolve().parent.parent
ANYWHERE: frozenset[int] = frozenset()  # no core of its own
SLOTS = (5, 10, 20, 30, 40, 50, 75, 100, 150, 200, 500, 1000)
"""Milliseconds: the upper ends of the histogram's bars."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.propagation", description=__doc__)
    parser.add_argument("--proxies", type=int, default=20, help="default 20")
    parser.add_argument("--applies", type=int, default=50, help="default 50")
    parser.add_argument(
        "--lean", action="store_true", help="`mitmesh proxy` instead of `mitmdump -s addons/mesh.py`"
    )
    parser.add_argument("--json", action="store_true", help="the times as JSON, in milliseconds")
    return parser.parse_args()


def command(number: int, redis: str, lean: bool) -> list[object]:
    """A proxy that serves nobody: its only work is to follow the policy."""
    sets = {"mesh_redis": redis, "mesh_node": f"proxy-{number}", "mesh_access_log": "", "flow_detail": "0"}
    shared = [
        *("--mode", f"regular@{free_port()}", "--listen-host", "127.0.0.1"),
        *(part for name, value in sets.items() for part in ("--set", f"{name}={value}")),
    ]
    if lean:
        return [sys.executable, ROOT / "addons/lean_proxy.py", *shared]
    return [Path(sys.executable).with_name("mitmdump"), "-q", "-s", ROOT / "addons/mesh.py", *shared]


def run(*words: str) -> dict:
    """`mitmesh` in this process, so that Python's own start is not measured; what it says as JSON. Raises Broken."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = mitmesh(list(words))
    if code:
        raise Broken(f"mitmesh {words[0]}: {(err.getvalue() or out.getvalue()).strip()}")
    said: dict = json.loads(out.getvalue())
    return said


def policy(number: int) -> str:
    """A document of an ordinary size that differs each time."""
    return json.dumps(
        {
            "service": "reviews",
            "endpoints": {"v1": ["10.0.0.1:8080", "10.0.0.2:8080"], "v2": ["10.0.0.9:8080"]},
            "to": {"v1": 100 - number % 100, "v2": number % 100},
            "retry": {"attempts": 1 + number % 10, "on": ["connect-failure", "5xx"]},
            "routes": [{"match": {"path": {"prefix": f"/api/{each}"}}, "to": "v2"} for each in range(10)],
        }
    )


def measure(programs: Programs, folder: Path, proxies: int, applies: int, lean: bool) -> list[float]:
    """Milliseconds of each apply."""
    port = free_port()
    redis = f"redis://127.0.0.1:{port}/0"
    server = [valkey_server(), "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    programs.start("valkey", server, ANYWHERE).listening(port)
    for number in range(1, proxies + 1):
        # One after the other: all at once they would take each other's time at the start.
        program = programs.start(f"proxy {number}", command(number, redis, lean), ANYWHERE)
        end = time.monotonic() + 60
        while len(run("status", "--json", "--redis", redis)["nodes"]) < number:
            if program.ended or time.monotonic() > end:
                raise Broken(f"proxy {number} does not report: {program.last_line()}")
            time.sleep(0.05)
        print(f"\r{number} of {proxies} proxies run", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    file = folder / "policy.json"
    times = []
    for number in range(applies + 1):
        file.write_text(policy(number))
        start = time.perf_counter()
        said = run("apply", "-f", str(file), "--wait", "10s", "--json", "--redis", redis)
        times.append((time.perf_counter() - start) * 1000)
        if said["revision"] != number + 1:
            raise Broken(f"apply made revision {said['revision']}, not {number + 1}")
    # The first one imports what the command needs.
    return times[1:]


def histogram(times: list[float]) -> str:
    lines = []
    low = 0
    for high in SLOTS:
        count = sum(low <= each < high for each in times)
        if min(times) < high and low <= max(times):
            lines.append(f"{low:>5} - {high:<5} {count:>4}  {'#' * count}")
        low = high
    if late := sum(each >= low for each in times):
        lines.append(f"{low:>5} -       {late:>4}  {'#' * late}")
    return "\n".join(lines)


def main() -> int:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with tempfile.TemporaryDirectory() as name, Programs(Path(name)) as programs:
            times = measure(programs, Path(name), chosen.proxies, chosen.applies, chosen.lean)
    except Broken as broken:
        sys.exit(f"benchmarks: {broken}")
    except KeyboardInterrupt:
        return 130
    if chosen.json:
        print(json.dumps([round(each, 2) for each in times]))
        return 0
    ordered = sorted(times)
    kind = "mitmesh proxy" if chosen.lean else "mitmdump -s addons/mesh.py"
    print(
        f"apply --wait, {chosen.proxies} x {kind}, {len(times)} applies; milliseconds until all had reported\n"
    )
    print(f"median {statistics.median(times):.1f}   fastest {ordered[0]:.1f}", end="")
    print(f"   nine of ten below {ordered[int(len(ordered) * 0.9) - 1]:.1f}   slowest {ordered[-1]:.1f}\n")
    print(histogram(times))
    return 0


if __name__ == "__main__":
    sys.exit(main())
