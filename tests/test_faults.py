"""Faults on attempts: what acts, what it is called in the log, and which counters live on."""

import random

import pytest

from addons.faults import Faults
from addons.routing import Routing
from control.policy.answers import FixedAnswer
from tests.flows import attempted, make_flow, pinned, snapshot


class Mesh:
    """Routing and faults of one proxy."""

    def __init__(self, policy: str, seed: int = 1) -> None:
        self.faults = Faults(random.Random(seed))
        self.apply(policy)

    def apply(self, policy: str) -> None:
        self.snapshot = snapshot(policy)
        self.faults.mesh_policy(self.snapshot)

    def attempt(self, url: str = "http://web/", **headers: str):
        """The first attempt of a new request, and its exchange."""
        flow = make_flow(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
        exchange = pinned(flow, self.snapshot)
        Routing().request(flow)
        attempt = attempted(exchange)
        self.faults.mesh_attempt(flow, attempt)
        return attempt, exchange

    def aborts(self, count: int, url: str = "http://web/") -> list[int | None]:
        aborts = [self.attempt(url)[0].abort for _ in range(count)]
        return [abort.status if isinstance(abort, FixedAnswer) else abort for abort in aborts]


def web(faults: str, rest: str = "") -> str:
    return f'service: web\nendpoints: ["10.0.0.1:80"]\n{rest}\nfaults: [{faults}]\n'


@pytest.mark.parametrize(
    ("faults", "delay", "abort", "flags"),
    [
        ("{delay: 100ms}", 0.1, None, ["DI"]),
        ("{abort: 503}", None, 503, ["FI"]),
        ("{abort: reset}", None, "reset", ["FI"]),
        ("{abort: hang}", None, "hang", ["FI"]),
        ("{delay: 1s, abort: 503}", 1, 503, ["DI", "FI"]),
        ("{delay: 1s}, {delay: 2s}", 3, None, ["DI"]),
        ("{abort: 500}, {abort: reset}", None, 500, ["FI"]),
        ("{abort: 500, percent: 0}, {abort: reset}", None, "reset", ["FI"]),
        ("{delay: 1s, percent: 0}", None, None, []),
        ("{abort: 503, match: {path: /other}}", None, None, []),
    ],
)
def test_what_an_attempt_gets(faults, delay, abort, flags):
    attempt, exchange = Mesh(web(faults)).attempt()
    assert attempt.delay == delay
    assert (attempt.abort.status if isinstance(attempt.abort, FixedAnswer) else attempt.abort) == abort
    assert exchange.flags == flags


def test_first_counts_attempts_of_all_requests():
    assert Mesh(web("{abort: 503, first: 2}")).aborts(4) == [503, 503, None, None]


def test_counters_live_as_long_as_their_fault():
    mesh = Mesh(web("{abort: 503, first: 2}"))
    assert mesh.aborts(1) == [503]
    # Other services, other settings, another fault before it: it is the same fault.
    mesh.apply(
        web("{delay: 1s}, {abort: 503, first: 2}", "timeout: 3s") + "---\nservice: other\nrespond: {body: x}"
    )
    assert mesh.aborts(2) == [503, None]
    # It was away, so it begins anew.
    mesh.apply(web("{delay: 1s}"))
    mesh.apply(web("{abort: 503, first: 2}"))
    assert mesh.aborts(3) == [503, 503, None]


def test_counters_of_the_defaults_are_kept_too():
    policy = 'service: "*"\nfaults: [{abort: 503, first: 2}]\n'
    mesh = Mesh(policy)
    assert mesh.aborts(1, "http://unclaimed/") == [503]
    mesh.apply(policy + "---\nservice: web\nrespond: {body: x}\n")
    assert mesh.aborts(2, "http://unclaimed/") == [503, None]


def test_a_policy_of_other_faults_frees_the_memory():
    mesh = Mesh(web("{abort: 503, first: 2}"))
    mesh.aborts(1)
    assert len(mesh.faults._states) == 1
    mesh.apply("service: other\nrespond: {body: x}")
    assert mesh.faults._states == {}


def test_percent_is_drawn_from_the_random_source():
    hits = Mesh(web("{abort: 503, percent: 25}"), seed=3).aborts(1000)
    assert hits == Mesh(web("{abort: 503, percent: 25}"), seed=3).aborts(1000)
    assert abs(hits.count(503) - 250) < 68
    assert Mesh(web("{abort: 503, percent: 25, seed: 5}"), seed=1).aborts(50) == Mesh(
        web("{abort: 503, percent: 25, seed: 5}"), seed=2
    ).aborts(50)


def test_what_the_mesh_has_not_routed_has_no_faults():
    flow = make_flow()
    exchange = pinned(make_flow(), "")
    attempt = attempted(exchange)
    Faults().mesh_attempt(flow, attempt)
    assert (attempt.delay, attempt.abort) == (None, None)


def test_the_bytes_of_a_body_are_left_to_the_answer():
    attempt, exchange = Mesh(web("{truncate: 3, corrupt: 1, bandwidth: 1KiB/s, slow_close: 1s}")).attempt()
    assert (attempt.delay, attempt.abort, exchange.flags) == (None, None, [])
    assert attempt.acting is not None


@pytest.mark.parametrize(
    ("header", "delay", "abort"),
    [(None, None, None), ("delay=1s", 1, None), ("abort=418", None, 418), ("nonsense", None, 400)],
)
def test_a_header_is_heard_where_the_policy_lets_it(header, delay, abort):
    headers = {} if header is None else {"x_mesh_fault": header}
    for policy, heard in (("{allow_header: true}", True), ("{abort: 500, percent: 0}", False)):
        attempt, _ = Mesh(web(policy)).attempt(**headers)
        status = attempt.abort.status if isinstance(attempt.abort, FixedAnswer) else attempt.abort
        assert (attempt.delay, status) == ((delay, abort) if heard else (None, None))


def test_a_seed_draws_the_same_delays_again():
    policy = web("{delay: {uniform: [1s, 2s]}, percent: 50, seed: 3}")
    delays = [[mesh.attempt()[0].delay for _ in range(50)] for mesh in (Mesh(policy, 1), Mesh(policy, 2))]
    assert delays[0] == delays[1]
    assert len(set(delays[0])) > 10


def test_an_exchange_that_began_under_an_older_policy_meets_no_fault_that_is_gone():
    mesh = Mesh(web("{abort: 503}"))
    flow = make_flow()
    exchange = pinned(flow, mesh.snapshot)
    Routing().request(flow)
    mesh.apply(web("{abort: 503}", "timeout: 3s"))
    still = attempted(exchange)
    mesh.faults.mesh_attempt(flow, still)
    assert isinstance(still.abort, FixedAnswer)
    mesh.apply(web("{abort: 504}"))
    late = attempted(exchange)
    mesh.faults.mesh_attempt(flow, late)
    assert late.abort is None
    assert len(mesh.faults._states) == 0


def test_hits_end_with_their_attempt():
    mesh = Mesh(web("{abort: hang, max_active: 1}"))
    flow = make_flow()
    exchange = pinned(flow, mesh.snapshot)
    Routing().request(flow)
    first, second, third = (attempted(exchange) for _ in range(3))
    mesh.faults.mesh_attempt(flow, first)
    mesh.faults.mesh_attempt(flow, second)
    assert (first.abort, second.abort) == ("hang", None)
    mesh.faults.mesh_attempt_end(flow, first)
    mesh.faults.mesh_attempt(flow, third)
    assert third.abort == "hang"
    mesh.faults.mesh_attempt_end(flow, third)
    assert mesh.faults._acting == set()
