"""What the mesh's parts cost: a feature on and off, more services, more routes. Each against the first of its rows."""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import policies
from benchmarks.load import Door
from benchmarks.part import Part
from benchmarks.processes import free_port
from benchmarks.rounds import Course, Row
from benchmarks.table import listed
from benchmarks.targets import Bench, Target
from benchmarks.upstream import SMALL

CONNECTIONS = 32
SERVICES = (1, 100, 1_000, 10_000)
ROUTES = (1, 10, 100, 1_000)
HOSTS = 1_000
"""So many services are asked in turn."""


def features(bench: Bench, course: Course) -> Part:
    """The engine alone, the chain of features with nothing configured, then each feature."""
    port = free_port()
    command = [
        *(sys.executable, "-P", Path(__file__).parent / "bare_engine.py", bench.checkout),
        *("--mode", f"regular@{port}", "--listen-host", "127.0.0.1", "--set", "termlog_verbosity=warn"),
        *("--set", f"confdir={bench.folder / 'confdir'}"),
    ]
    bare = bench.programs.start("the engine alone", command, bench.cores.proxy).listening(port)
    empty, its_port = bench.mitmesh("nothing configured", "empty", forward=True)
    documents = policies.features(bench.port)
    policies.apply(bench.redis, "features", documents.values())
    log = bench.folder / "features-access.log"
    program, common = bench.mitmesh("features", "features", access_log=log, forward=True)
    targets = [
        Target("bare", "the engine alone", bench.door(port, absolute=True), bare),
        Target("empty", "all features, nothing configured", bench.door(its_port, absolute=True), empty),
    ]
    for name, document in documents.items():
        written = log if document.get("access_log") != "off" else None
        door = Door(common, (document["service"],), absolute=True)
        targets.append(Target(name, name, door, program, written))
    return _part(
        bench, course, "Cost of a feature", "ratio: to the engine alone, of the same round.", targets
    )


def services(bench: Bench, course: Course) -> Part:
    """Meshes of so many services, of which the last is asked; of the largest also 1,000 in turn."""
    targets = []
    for count in SERVICES:
        mesh = f"services{count}"
        documents = policies.services(count, bench.port)
        policies.apply(bench.redis, mesh, documents)
        program, port = bench.mitmesh(mesh, mesh, forward=True)
        hosts = tuple(document["hosts"][0] for document in documents)
        name = f"{count:,} service{'s' * (count > 1)}"
        targets.append(Target(mesh, name, Door(port, hosts[-1:], absolute=True), program))
        if len(hosts) > HOSTS:
            some = hosts[:: len(hosts) // HOSTS]
            shown = f"{name}, {len(some):,} asked in turn"
            targets.append(Target(f"{mesh}-turns", shown, Door(port, some, absolute=True), program))
    return _part(bench, course, "Number of services", "ratio: to one service, of the same round.", targets)


def routes(bench: Bench, course: Course) -> Part:
    """Services of so many routes; the last one is met."""
    documents = {
        f"{count:,} route{'s' * (count > 1)}, {kind}": policies.routes(kind, count, bench.port)
        for kind in ("path", "regex")
        for count in ROUTES
    }
    policies.apply(bench.redis, "routes", documents.values())
    program, port = bench.mitmesh("routes", "routes", forward=True)
    targets = [
        Target(name, name, Door(port, (document["service"],), absolute=True), program)
        for name, document in documents.items()
    ]
    return _part(bench, course, "Number of routes", "ratio: to one route, of the same round.", targets)


def _part(bench: Bench, course: Course, title: str, note: str, targets: list[Target]) -> Part:
    rows = [Row(target, SMALL, CONNECTIONS) for target in targets]
    course.run(rows)
    for program in {target.program for target in targets if target.program is not None}:
        bench.programs.stop(program)
    note = f"{SMALL.name}, {CONNECTIONS} connections, absolute-form targets as of a forward proxy's clients. {note}"
    return Part(title, note, listed(rows, rows[0]), [row.data() for row in rows])


COSTS: dict[str, Callable[[Bench, Course], Part]] = {
    "features": features,
    "services": services,
    "routes": routes,
}
