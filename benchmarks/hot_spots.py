"""Where `mitmesh proxy` spends its time under load, with py-spy: python -m benchmarks.hot_spots

Only the thread that serves is looked at. py-spy's shares of the samples are multiplied with the CPU time per request
that Linux counts while py-spy does not look, so a function has what it spends in C and in the kernel, too.
"""

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RATE = 500
"""Samples a second; each stops the proxy for a moment."""
CONNECTIONS = 32
BUSY = 0.85
"""Of a core; py-spy takes the rest."""
_LOOP = "the event loop (uvloop)"
_LIBRARIES = re.compile(r"\((?:.*/site-packages/|.*/lib/python3\.[0-9]+/|.*/(?=addons/|control/))")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_spots", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=40, help="functions shown; default: %(default)s")
    parser.add_argument("--lines", action="store_true", help="tell a function's lines apart")
    parser.add_argument("--stacks", type=Path, metavar="FILE", help="keep the stacks, for a flame graph")
    checkout = os.environ.get("MITMESH_CHECKOUT") or ROOT
    parser.add_argument(
        "--checkout", type=Path, default=checkout, metavar="DIR", help="the mitmesh to look at"
    )
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    checkout = Path(chosen.checkout).resolve()
    sys.path.insert(0, str(checkout))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from benchmarks import load, machine, measure
    from benchmarks.processes import Programs
    from benchmarks.targets import Bench
    from benchmarks.upstream import SMALL

    with tempfile.TemporaryDirectory(prefix="mitmesh-bench-") as name, Programs(Path(name)) as programs:
        bench = Bench(programs, checkout, machine.split())
        target = bench.targets(["mitmesh"])[0]
        assert target.program is not None
        pid = target.program.pid

        def loaded(seconds: int) -> load.Load:
            found = load.run(target.door, SMALL, CONNECTIONS, seconds, bench.cores.load, bench.folder)
            target.trim()
            return found

        while load.check(target.door, SMALL):
            time.sleep(0.2)
        loaded(1)
        before = measure.cpu(pid)
        plain = loaded(chosen.seconds)
        used = measure.cpu(pid).since(before).per(plain.requests)
        stacks = chosen.stacks or bench.folder / "stacks"
        command = [
            *(["nice", "-n", "-15"] if os.geteuid() == 0 else []),
            *(Path(sys.executable).with_name("py-spy"), "record", "--pid", pid, "--rate", RATE),
            *("--duration", chosen.seconds, "--format", "raw", "--output", stacks, "--threads"),
            *("--full-filenames", *([] if chosen.lines else ["--function"])),
        ]
        # On the proxy's own core it interrupts it anywhere; from another one it would mostly see it in system calls.
        spy = programs.start("py-spy", command, bench.cores.proxy)
        before, began = measure.cpu(pid), time.monotonic()
        loaded(chosen.seconds + 1)
        busy = measure.cpu(pid).since(before).total / (time.monotonic() - began)
        spy.process.wait(60)
        counted = count(stacks.read_text())
    micro = used.total * 1000
    print(
        f"mitmesh {machine.commit(checkout)}, {plain.rate:,.0f} requests/s,"
        f" {micro:.1f} us of CPU per request: {used.user * 1000:.1f} user, {used.kernel * 1000:.1f} kernel;"
        f" {plain.errors or 'no errors'}"
    )
    if busy < BUSY:
        print(
            f"warning: the proxy had only {busy:.0%} of its core; what it waited counts as the event loop's"
        )
    files: Counter[str] = Counter()
    for place, samples in counted.items():
        files[place.partition("(")[2].rstrip(")").rpartition(":")[0] or place] += samples
    for what, found in (("file", files), ("function itself", counted)):
        total = sum(found.values())
        print(f"\n{'us/request':>10} {'share':>6}  {what} ({total} samples)")
        for place, samples in found.most_common(chosen.rows):
            print(f"{samples / total * micro:10.2f} {samples / total:6.1%}  {place}")


def count(text: str) -> Counter[str]:
    """Samples by the innermost function of each stack of the thread that serves."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, samples = line.rpartition(" ")
        thread, *places = stack.split(";")
        if thread.endswith("MainThread"):
            in_loop = not places or places[-1].startswith("Runner.run")
            found[_LOOP if in_loop else _LIBRARIES.sub("(", places[-1])] += int(samples)
    return found


if __name__ == "__main__":
    main()
