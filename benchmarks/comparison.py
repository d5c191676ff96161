"""The table: every proxy under every load."""

from collections.abc import Sequence

from benchmarks.part import Part
from benchmarks.rounds import Course, Row
from benchmarks.table import grouped
from benchmarks.targets import BASE, Bench
from benchmarks.upstream import CLOSE, LARGE, MIDDLE, POST, SMALL

_SHAPES = {"8B": SMALL, "10KB": MIDDLE, "1MB": LARGE, "post": POST, "close": CLOSE}
LOADS = {
    f"{short}/{connections}": (shape, connections)
    for short, shape in _SHAPES.items()
    for connections in (1, 32, 256)
}
"""Name to request and connections."""
QUICK = ("8B/1", "8B/32", "8B/256", "10KB/32", "1MB/32", "post/32", "close/32")


def run(bench: Bench, course: Course, targets: Sequence[str], loads: Sequence[str]) -> Part:
    """All of these targets under all of these loads, interleaved: the targets take turns under each load."""
    running = bench.targets(targets)
    rows = [Row(target, *found) for name, found in LOADS.items() if name in loads for target in running]
    course.run(rows)
    for target in running:
        if target.program is not None:
            bench.programs.stop(target.program)
    note = "ratio: to Envoy in the same round. CPU: seconds per 1,000 requests. peak: memory, of all processes of a proxy."
    return Part("Proxies", note, grouped(rows, BASE), [row.data() for row in rows])
