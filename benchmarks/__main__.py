"""Measures the mesh's proxies beside others: `make bench`, or `python -m benchmarks --help`."""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("proxies", "features", "services", "routes", "memory", "transfers", "mtls")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the proxies alone, fewer loads, 2 rounds of 1 s"
    )
    parser.add_argument(
        *("--only",),
        action="append",
        default=[],
        metavar="NAME",
        help=f"a part ({', '.join(PARTS)}), a proxy (envoy, mitmesh, ...) or a load (8B/32, ...); repeatable",
    )
    parser.add_argument("--rounds", type=int, help="how often all take their turn; default 5")
    parser.add_argument("--seconds", type=int, help="length of one load; default 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's numbers there")
    parser.add_argument(
        "--checkout",
        type=Path,
        default=os.environ.get("MITMESH_CHECKOUT") or ROOT,
        metavar="DIR",
        help="the mitmesh to measure; default: this one, or $MITMESH_CHECKOUT",
    )
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    checkout = Path(chosen.checkout).resolve()
    # `control` and `addons` come from there, even where another mitmesh is installed.
    sys.path.insert(0, str(checkout))
    # The same way out for all: what was started is ended by the `with` below.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from benchmarks.processes import Broken

    try:
        measure(chosen, checkout)
    except Broken as broken:
        sys.exit(f"benchmarks: {broken}")
    except KeyboardInterrupt:
        sys.exit(130)


def measure(chosen: argparse.Namespace, checkout: Path) -> None:
    """Run the parts that were chosen and print each when it is done. Raises Broken."""
    from benchmarks import (
        comparison,
        costs,
        envoy_proxy,
        machine,
        memory,
        mtls,
        policies,
        transfers,
        upstream,
    )
    from benchmarks.part import Part
    from benchmarks.processes import Programs
    from benchmarks.rounds import Course
    from benchmarks.targets import TARGETS, Bench

    parts = pick(chosen.only, PARTS, ("proxies",) if chosen.quick else PARTS)
    targets = pick(chosen.only, tuple(TARGETS), tuple(TARGETS))
    loads = pick(
        chosen.only, tuple(comparison.LOADS), comparison.QUICK if chosen.quick else tuple(comparison.LOADS)
    )
    if unknown := set(chosen.only) - {*PARTS, *TARGETS, *comparison.LOADS}:
        known = ", ".join((*PARTS, *TARGETS, *comparison.LOADS))
        sys.exit(f"benchmarks: --only {min(unknown)}: write one of {known}")
    head = machine.describe(checkout, *upstream.tools(), envoy_proxy.binary())
    cores = machine.split()
    for name, value in {**head, "cores": str(cores)}.items():
        print(f"{name:14}{value}")
    if missing := policies.LATER.keys() - policies.known().keys():
        print(
            f"{'left out':14}of the mesh's policy, which does not know them yet: {', '.join(sorted(missing))}"
        )
    for warning in machine.warnings():
        print(f"{'warning':14}{warning}")
    rounds, seconds = (
        chosen.rounds or (2 if chosen.quick else 5),
        chosen.seconds or (1 if chosen.quick else 3),
    )
    print(f"{'loads':14}{rounds} rounds of {seconds} s, interleaved; medians", flush=True)
    data = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mitmesh-bench-") as name, Programs(Path(name)) as programs:
        bench = Bench(programs, checkout, cores)
        course = Course(programs.folder, cores.load, rounds, seconds)
        work: dict[str, Callable[[], Part]] = {
            "proxies": lambda: comparison.run(bench, course, targets, loads),
            **{part: partial(run, bench, course) for part, run in costs.COSTS.items()},
            "memory": lambda: memory.curve(bench, course, targets),
            "transfers": lambda: transfers.run(bench, course, targets),
            "mtls": lambda: mtls.run(bench, course),
        }
        for part in parts:
            found = work[part]()
            print(f"\n{found.title}\n{found.note}\n\n{found.text}", flush=True)
            data.append({"part": part, "found": found.data})
    print(f"\n{time.monotonic() - began:.0f} s in all")
    if chosen.json:
        chosen.json.write_text(json.dumps({"head": head, "parts": data}, indent=1))


def pick(only: Sequence[str], known: Sequence[str], otherwise: Sequence[str]) -> list[str]:
    """Those of `known` that were asked for; `otherwise` when none was."""
    return [name for name in known if name in only] or list(otherwise)


if __name__ == "__main__":
    main()
