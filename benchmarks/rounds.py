"""Loads in interleaved rounds: A B C, A B C, ..., so that a machine that changes its pace changes it for all."""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import load, measure
from benchmarks.load import Load, Shape
from benchmarks.measure import Cpu
from benchmarks.processes import Cores
from benchmarks.targets import Target

CALM = 10.0
"""Seconds that a proxy may take after a load until it rests."""
RESTING = 0.02
"""Seconds of CPU within a tenth of a second, below which it does."""
READY = 20.0
"""Seconds that a proxy may take until it answers as it should."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One load of one target. cpu: seconds per 1,000 requests; peak: bytes."""

    load: Load
    cpu: Cpu | None
    peak: int | None


@dataclass
class Row:
    """A target under one load, in as many rounds as there are samples; `note` says why it has none, or what they lack."""

    target: Target
    shape: Shape
    connections: int
    samples: list[Sample] = field(default_factory=list)
    note: str = ""

    @property
    def trouble(self) -> str:
        """All that is wrong with these numbers."""
        bad = [sample.load.errors for sample in self.samples if sample.load.errors]
        errors = f"{bad[0]} (in {len(bad)} of {len(self.samples)} rounds)" if bad else ""
        return "; ".join(part for part in (self.note, errors) if part)

    def median(self, what: str) -> float | None:
        """Of rate, p50, p99, cpu, user, kernel, cores (that the target kept busy); the most of `peak`."""
        values = [value for sample in self.samples if (value := _of(sample, what)) is not None]
        if not values:
            return None
        return max(values) if what == "peak" else statistics.median(values)

    def ratio(self, what: str, base: "Row | None") -> float | None:
        """The median of the rounds' ratios: each round is compared with the base's load of the same round."""
        if base is None:
            return None
        pairs = zip(self.samples, base.samples, strict=False)
        both = [(_of(mine, what), _of(other, what)) for mine, other in pairs]
        ratios = [mine / other for mine, other in both if mine is not None and other]
        return statistics.median(ratios) if ratios else None

    def data(self) -> dict[str, Any]:
        """For JSON: seconds and bytes, every round."""
        names = ("rate", "p50", "p99", "user", "kernel", "peak")
        return {
            "target": self.target.key,
            "load": self.shape.name,
            "connections": self.connections,
            "trouble": self.trouble,
            "rounds": [{name: _of(sample, name) for name in names} for sample in self.samples],
        }


def _of(sample: Sample, what: str) -> float | None:
    if what in ("rate", "p50", "p99"):
        value: float = getattr(sample.load, what)
        return value if sample.load.requests else None
    if what == "peak":
        return sample.peak
    if sample.cpu is None:
        return None
    if what == "cores":
        return sample.cpu.total / 1000 * sample.load.rate
    return {"cpu": sample.cpu.total, "user": sample.cpu.user, "kernel": sample.cpu.kernel}[what]


@dataclass
class Course:
    """How loads are run. folder: for wrk's script; cores: wrk's."""

    folder: Path
    cores: Cores
    rounds: int
    seconds: int

    def run(self, rows: Sequence[Row]) -> None:
        """Measure the rows, round by round. A row that answers wrongly is noted and left out."""
        began = time.monotonic()
        for row in rows:
            row.note = row.note or self._ready(row)
        warm = {row.target.key: row for row in rows if not row.note}
        for row in warm.values():
            self._sample(row, 1)
            row.target.trim()
        done, total = 0, self.rounds * len(rows)
        for _ in range(self.rounds):
            for row in rows:
                done += 1
                if row.note.startswith("not measured"):
                    continue
                say(f"{done}/{total}, {time.monotonic() - began:.0f} s: {row.target.shown}, {row.shape.name}")
                row.samples.append(self._sample(row, self.seconds))
                self._judge(row)
        say("")

    def _ready(self, row: Row) -> str:
        """Wait for the right answer; what is wrong when it does not come, else an empty text."""
        end = time.monotonic() + READY
        while wrong := load.check(row.target.door, row.shape):
            if time.monotonic() > end:
                return f"not measured: {wrong}"
            time.sleep(0.05)
        return ""

    def _sample(self, row: Row, seconds: int) -> Sample:
        target = row.target
        pid = target.program.pid if target.program is not None else None
        if pid is None:
            found = load.run(target.door, row.shape, row.connections, seconds, self.cores, self.folder)
            return Sample(found, None, None)
        measure.reset_peak(pid)
        before = measure.cpu(pid)
        found = load.run(target.door, row.shape, row.connections, seconds, self.cores, self.folder)
        used = measure.cpu(pid).since(before)
        _calm(pid)
        return Sample(found, used.per(found.requests) if found.requests else None, measure.peak(pid) or None)

    def _judge(self, row: Row) -> None:
        """Note what is wrong with the target after a load."""
        target = row.target
        if target.program is not None and target.program.ended:
            row.note = f"not measured: it ended: {target.program.last_line()}"
        elif not target.trim():
            row.note = "no access log was written"


def _calm(pid: int) -> None:
    """Wait until a proxy rests. One that has hundreds of requests before it goes on when wrk has left, on the next one's core."""
    end = time.monotonic() + CALM
    before = measure.cpu(pid)
    while time.monotonic() < end:
        time.sleep(0.1)
        used = measure.cpu(pid)
        if used.since(before).total < RESTING:
            return
        before = used


def say(text: str) -> None:
    """Show on a terminal how far it is."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
