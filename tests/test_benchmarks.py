"""The benchmarks' own arithmetic, and that what they start is measured and ended."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import load, measure
from benchmarks.load import Door, Load, Shape
from benchmarks.measure import Cpu
from benchmarks.processes import Broken, Programs
from benchmarks.rounds import Row, Sample
from benchmarks.table import aligned, grouped
from benchmarks.targets import Target

ROOT = Path(__file__).parent.parent
SHAPE = Shape("8 B", "/8", b"success\n")


def row(key: str, *rates: float, errors: str = "") -> Row:
    """Rounds in which each request took 1 ms of CPU."""
    samples = [
        Sample(Load(100, rate, 1 / rate, 2 / rate, errors), Cpu(0.6, 0.4), 1_000_000) for rate in rates
    ]
    return Row(Target(key, key.upper(), Door(1, ("x",))), SHAPE, 32, samples)


def test_ratios_are_of_the_same_round():
    """Medians of each alone would say 200 / 200."""
    base, mine = row("envoy", 100, 200, 1000), row("mine", 50, 100, 5000)
    assert mine.ratio("rate", base) == 0.5
    assert mine.median("rate") == 100
    assert base.ratio("rate", base) == 1


def test_medians_and_the_highest_peak():
    found = row("mine", 100, 300, 200)
    assert found.median("rate") == 200
    assert found.median("p99") == pytest.approx(0.01)
    assert found.median("cpu") == 1
    assert found.median("cores") == pytest.approx(0.2)
    assert found.median("peak") == 1_000_000
    assert Row(found.target, SHAPE, 1).median("rate") is None


def test_errors_stand_in_the_row():
    bad = row("mine", 100, 100, errors="3 status errors")
    assert bad.trouble == "3 status errors (in 2 of 2 rounds)"
    assert "3 status errors" in grouped([row("envoy", 100), bad], "envoy")


def test_columns_are_aligned():
    assert aligned(
        [["", "rate"], ["a title longer than all names"], ["mine", "1,000"]], lambda index: index == 0
    ) == ("       rate\na title longer than all names\nmine  1,000")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (
            (
                '\nRESULT {"requests": 10, "duration": 2000000, "bytes": 1, "p50": 1000.0, "p99": 5000.0,'
                ' "connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}\n'
            ),
            Load(10, 5, 0.001, 0.005, ""),
        ),
        (
            (
                'Running 1s test\n\nRESULT {"requests": 10, "duration": 1000000, "bytes": 1, "p50": 1000.0, "p99": 1000.0,'
                ' "connect": 0, "read": 2, "write": 0, "status": 3, "timeout": 0}\n'
            ),
            Load(10, 10, 0.001, 0.001, "2 read errors, 3 status errors"),
        ),
        ("unable to connect\n", Load(0, 0, 0, 0, "wrk: unable to connect")),
        ("", Load(0, 0, 0, 0, "wrk: said nothing")),
    ],
)
def test_what_wrk_says_is_understood(said, found):
    assert load.parse(said) == found


def test_a_program_is_measured_with_its_children_and_ended_with_them(tmp_path):
    ready = tmp_path / "ready"
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "x = bytearray(50_000_000)\\nwhile True: pass"])
open({str(ready)!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    with Programs(tmp_path) as programs:
        program = programs.start("parent", [sys.executable, "-c", code], frozenset())
        end = time.monotonic() + 20
        while not (measure.cpu(program.pid).total > 0.5 and measure.resident(program.pid) > 60_000_000):
            assert time.monotonic() < end
            time.sleep(0.02)
        child = int(ready.read_text())
        assert measure.family(program.pid) == [program.pid, child]
        assert measure.peak(program.pid) >= measure.resident(program.pid)
    assert program.ended
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()


def test_a_program_that_is_not_there(tmp_path):
    with Programs(tmp_path) as programs, pytest.raises(Broken, match="nothing-of-the-kind"):
        programs.start("x", ["/nothing-of-the-kind"], frozenset())


def test_a_program_that_ends_at_once_says_why(tmp_path):
    with Programs(tmp_path) as programs:
        program = programs.start("x", [sys.executable, "-c", "import sys; sys.exit('because')"], frozenset())
        with pytest.raises(Broken, match="x ended: because"):
            program.listening(1)


def offered() -> bool:
    try:
        import envoy  # noqa: F401
    except ImportError:
        return False
    return bool(shutil.which("wrk") and shutil.which("nginx", path="/usr/sbin:/usr/bin"))


@pytest.mark.skipif(not offered(), reason="needs nginx, wrk and the extra [bench]")
def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "envoy", "--only", "mitmesh"]
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, process_group=0)
    end = time.monotonic() + 30
    while not (names := {commands(pid) for pid in measure.family(run.pid)[1:]}) >= {"wrk", "nginx", "envoy"}:
        assert time.monotonic() < end, names
        time.sleep(0.05)
    family = measure.family(run.pid)
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []
    assert list(tmp_path.iterdir()) == []


def commands(pid: int) -> str:
    """The program's name, as the kernel keeps it."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
