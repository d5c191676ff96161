"""1 GB in one body, down and up: how fast, and how much memory it takes on the way."""

import socket
import statistics
import time
from collections.abc import Sequence

from benchmarks import measure
from benchmarks.load import Door
from benchmarks.part import Part
from benchmarks.rounds import Course, say
from benchmarks.table import aligned, number
from benchmarks.targets import BASE, Bench, Target
from benchmarks.upstream import DOWNLOAD, GIGABYTE, UPLOAD

MOST = 30.0
"""Seconds that 1 GB may take; who fails once is not asked again."""
FAILED = float("inf")
_PIECE = 1 << 18

Found = dict[tuple[str, str], list[tuple[float, int | None]]]
"""Way and target to seconds and bytes of growth, a pair a round."""


def run(bench: Bench, course: Course, targets: Sequence[str]) -> Part:
    """1 GB down and up through each, interleaved."""
    running = bench.targets(targets)
    # The file is read into the page cache, for the first as for the last.
    _transfer(bench.door(bench.port), "download")
    found: Found = {}
    for _ in range(course.rounds):
        for way in ("download", "upload"):
            for target in running:
                say(f"{way} of 1 GB: {target.shown}")
                rounds = found.setdefault((way, target.key), [])
                if not rounds or rounds[-1][0] < FAILED:
                    rounds.append(_grown(target, way))
    say("")
    for target in running:
        if target.program is not None:
            bench.programs.stop(target.program)
    note = f"One connection. ratio: of the speed to Envoy's. -: not within {MOST:.0f} s, or broken off."
    data = [
        {
            "target": key,
            "way": way,
            "rounds": [(None if seconds == FAILED else seconds, grown) for seconds, grown in rounds],
        }
        for (way, key), rounds in found.items()
    ]
    return Part("1 GB in one body", note, _table(running, found), data)


def _table(running: Sequence[Target], found: Found) -> str:
    lines = [["", "seconds", "MB/s", "ratio", "memory growth MB"]]
    for way in ("download", "upload"):
        lines.append([way])
        base = found.get((way, BASE), [])
        for target in running:
            rounds = found[way, target.key]
            seconds = statistics.median(seconds for seconds, _ in rounds)
            ratios = [other / mine for (mine, _), (other, _) in zip(rounds, base, strict=False)]
            growth = max((grown for _, grown in rounds if grown is not None), default=None)
            shown = ["-", "-", "-"]
            if seconds < FAILED:
                ratio = statistics.median(ratios) if ratios else None
                shown = [number(seconds, 2), number(GIGABYTE / seconds / 1e6), number(ratio, 2)]
            lines.append(["  " + target.shown, *shown, number(growth, 0, 1e-6)])
    return aligned(lines)


def _grown(target: Target, way: str) -> tuple[float, int | None]:
    """Seconds (infinite when it failed), and bytes by which the target grew meanwhile at most."""
    program = target.program
    before = 0
    if program is not None:
        measure.reset_peak(program.pid)
        before = measure.resident(program.pid)
    seconds = _transfer(target.door, way)
    target.trim()
    return seconds, measure.peak(program.pid) - before if program is not None else None


def _transfer(door: Door, way: str) -> float:
    host = door.hosts[0]
    path = DOWNLOAD if way == "download" else UPLOAD
    target = f"http://{host}{path}" if door.absolute else path
    began = time.perf_counter()
    try:
        with socket.create_connection(("127.0.0.1", door.port), timeout=MOST) as client:
            fine = _download(client, host, target) if way == "download" else _upload(client, host, target)
    except OSError:
        return FAILED
    return time.perf_counter() - began if fine else FAILED


def _download(client: socket.socket, host: str, target: str) -> bool:
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    piece = bytearray(_PIECE)
    got, end = 0, time.monotonic() + MOST
    while (size := client.recv_into(piece)) and time.monotonic() < end:
        got += size
    return got > GIGABYTE


def _upload(client: socket.socket, host: str, target: str) -> bool:
    head = (
        f"POST {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {GIGABYTE}\r\n\r\n"
    )
    client.sendall(head.encode())
    piece = bytes(_PIECE)
    end = time.monotonic() + MOST
    for _ in range(GIGABYTE // _PIECE):
        client.sendall(piece)
        if time.monotonic() > end:
            return False
    answer = b""
    while data := client.recv(4096):
        answer += data
    return b" 200 " in answer[:20] and str(GIGABYTE).encode() in answer
