"""What it costs to find a request's service and route, and to build a snapshot; with few and with very many services.

Run from the project's root: python -m benchmarks.lookup
"""

import gc
import json
import time
from collections.abc import Callable
from random import Random
from typing import Any

from control.policy.facts import RequestFacts
from control.policy.snapshot import Snapshot, build

SERVICES = (1, 100, 10_000)
ROUTES = (1, 5, 10, 50, 100, 500, 1000)
FIELDS = (
    (b"Host", b"s0.example"),
    (b"User-Agent", b"curl/8.14.1"),
    (b"Accept", b"*/*"),
    (b"X-Group", b"qa"),
    (b"X-Request-Id", b"7d0c3a5e-4a38-4c55-a8d8-0b7a9e5c6a11"),
)
# A lookup is timed in rounds of this many; the best round is the one that other processes disturbed least.
ROUND = 5_000
ROUNDS = 20


def paths_and_header(number: int) -> dict[str, Any]:
    """The condition of a route that only requests below /api/v<number> of group qa meet."""
    return {"path": {"prefix": f"/api/v{number}"}, "headers": {"x-group": "qa"}}


def header_only(number: int) -> dict[str, Any]:
    """The condition of a route that can be told from others by a header's value alone."""
    return {"headers": {"x-group": "qa" if number < 0 else f"group-{number}"}}


def document(number: int, routes: int, condition: Callable[[int], dict[str, Any]] = paths_and_header) -> str:
    return json.dumps(
        {
            "service": f"s{number}",
            "hosts": [f"s{number}.example", f"*.s{number}.example", f"10.0.0.1:{number % 60_000 + 1}"],
            "endpoints": {"v1": ["10.0.0.1:8080", "10.0.0.2:8080"], "v2": ["10.0.0.9:8080"]},
            "timeout": "5s",
            "retry": {"attempts": 3, "on": ["connect-failure", "5xx"]},
            "routes": [{"match": condition(each), "to": {"v1": 90, "v2": 10}} for each in range(routes)],
        }
    )


def mesh(services: int, routes: int = 5) -> dict[str, str]:
    return {f"s{number}": document(number, routes) for number in range(services)}


def lookup(snapshot: Snapshot, host: str, target: str) -> float:
    """Microseconds for a request's facts, its service and its route."""
    random = Random(1)
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(ROUND):
            service = snapshot.find(host, 80)
            assert service is not None
            service.route(RequestFacts("GET", host, 80, target, FIELDS), random)
        best = min(best, time.perf_counter() - start)
    return best / ROUND * 1e6


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    print("lookup with 5 routes a service, microseconds")
    print(
        f"{'services':>10} {'first route':>12} {'last route':>12} {'no route':>12} {'wildcard':>12} {'build s':>9} {'change ms':>10}"
    )
    for services in SERVICES:
        documents = mesh(services)
        seconds, snapshot = timed(lambda documents=documents: build(1, documents))
        changed = {**documents, "s0": document(0, 4)}
        change, _ = timed(lambda changed=changed, snapshot=snapshot: build(2, changed, snapshot))
        # As a proxy does after a large build: these objects stay, there is no use in looking through them again and again.
        gc.collect()
        gc.freeze()
        first, last, none = (
            lookup(snapshot, "s0", target) for target in ("/api/v0/x?y=1", "/api/v4/x?y=1", "/other")
        )
        wildcard = lookup(snapshot, "a.b.s0.example", "/api/v0/x?y=1")
        print(
            f"{services:>10} {first:>12.2f} {last:>12.2f} {none:>12.2f} {wildcard:>12.2f} {seconds:>9.2f} {change * 1000:>10.1f}"
        )
    print()
    print("lookup in one service, last of its routes, microseconds")
    print(f"{'routes':>10} {'by path':>12} {'by header':>12}")
    for routes in ROUTES:
        by_path = build(1, {"s0": document(0, routes)})
        by_header = build(
            1,
            {
                "s0": document(
                    0, routes, lambda each, routes=routes: header_only(each if each + 1 < routes else -1)
                )
            },
        )
        target = f"/api/v{routes - 1}/x?y=1"
        print(f"{routes:>10} {lookup(by_path, 's0', target):>12.2f} {lookup(by_header, 's0', target):>12.2f}")


if __name__ == "__main__":
    main()
