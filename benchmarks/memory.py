"""Memory over a million requests."""

import time
from collections.abc import Sequence

from benchmarks import load, measure
from benchmarks.part import Part
from benchmarks.rounds import Course, say
from benchmarks.table import aligned
from benchmarks.targets import BASE, Bench, Target
from benchmarks.upstream import SMALL

REQUESTS = 1_000_000
STEP = 100_000
MOST = 600.0
"""Seconds that the curve may take for one target."""


def curve(bench: Bench, course: Course, targets: Sequence[str]) -> Part:
    """Memory after each 100,000 requests at 32 connections, for the mesh's proxy and Envoy."""
    shown, data = [], []
    for target in bench.targets([name for name in targets if name in (BASE, "mitmesh")]):
        if target.program is None:
            continue
        found = _curve(target, course)
        bench.programs.stop(target.program)
        data.append({"target": target.key, "curve": found})
        shown.append([target.shown, *[f"{resident / 1e6:,.0f}" for _, resident, _ in found]])
        shown.append(["  peak", *[f"{peak / 1e6:,.0f}" for _, _, peak in found]])
    head = ["requests so far", *[f"{count // 1000:,}k" for count in range(0, REQUESTS + 1, STEP)]]
    note = "MB in memory, and the most there ever was. 8 B, 32 connections, opened anew every two seconds."
    return Part("Memory over 1,000,000 requests", note, aligned([head, *shown]), data)


def _curve(target: Target, course: Course) -> list[tuple[int, int, int]]:
    """Requests so far, bytes resident, bytes at most."""
    assert target.program is not None
    pid = target.program.pid
    while load.check(target.door, SMALL):
        time.sleep(0.1)
    done, end = 0, time.monotonic() + MOST
    found = [(done, measure.resident(pid), measure.peak(pid))]
    while done < REQUESTS and time.monotonic() < end and not target.program.ended:
        say(f"memory of {target.shown}: {done:,} requests")
        done += load.run(target.door, SMALL, 32, 2, course.cores, course.folder).requests
        target.trim()
        while done >= len(found) * STEP and len(found) <= REQUESTS // STEP:
            found.append((done, measure.resident(pid), measure.peak(pid)))
    say("")
    return found
