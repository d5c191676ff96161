"""What is counted, once, under which labels, and how much of it at most."""

import itertools
import json
import logging
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import flow as mitmproxy_flow
from mitmproxy import http
from mitmproxy.test import taddons, tflow

from addons import metrics as metrics_module
from addons.exchange import Attempt, Exchange, attach
from addons.metrics import Metrics
from addons.metrics_labels import addresses_of, failed, grpc_status, stale_in
from addons.metrics_series import OTHER, Count, Table
from control.histogram import BUCKETS, EDGES, bucket_of, tally
from control.policy.answers import FixedAnswer
from control.policy.reading import normalize, read_bytes
from control.policy.snapshot import Snapshot, build
from control.traffic import read_traffic

POLICY = """\
service: reviews
endpoints: {v1: ["10.0.0.1:80", "10.0.0.2:80"], v2: ["10.0.0.9:80"]}
routes:
  - {name: canary, match: {path: {prefix: /api}}, to: v2}
  - {match: {path: /rated}, to: ratings/v7}
---
service: ratings
endpoints: {v7: ["10.0.0.7:80"]}
---
service: named
"""


def snapshot(text: str = POLICY, revision: int = 1) -> Snapshot:
    documents = {d.policy.service: normalize(d.policy) for d in read_bytes(text.encode(), "test.yaml")}
    return build(revision, documents)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A Metrics and exchanges for it."""

    def __init__(self, policy: str = POLICY) -> None:
        self.clock = Clock()
        self.metrics = Metrics(self.clock)
        self.snapshot = snapshot(policy)

    def exchange(
        self,
        service: str = "reviews",
        route: int | None = None,
        tries: Any = (200,),
        status: int | None = 200,
        flags: tuple[str, ...] = (),
        source: str = "web",
        inbound: bool = False,
        milliseconds: float = 7.0,
    ) -> http.HTTPFlow:
        """A flow that is over. tries: a status, an error, or a pair of an attempt's attributes and values."""
        flow = tflow.tflow(resp=status is not None)
        if status is not None:
            flow.response.status_code = status
        exchange = Exchange(self.snapshot, "node", source, inbound)
        attach(flow, exchange)
        if not inbound:
            compiled = self.snapshot.services.get(service) or self.snapshot.unknown
            assert compiled is not None
            exchange.service = compiled.name
            exchange.route = compiled.own if route is None else compiled.routes[route]
            exchange.share = exchange.route.shares[0] if exchange.route.shares else None
        else:
            exchange.service = service
        for number, tried in enumerate(tries, 1):
            endpoints = exchange.share.endpoints if exchange.share else ()
            endpoint = endpoints[(number - 1) % len(endpoints)] if endpoints else None
            attempt = Attempt(number, endpoint, "10.0.0.1", 80)
            said = (
                tried if isinstance(tried, dict) else {"error" if isinstance(tried, str) else "status": tried}
            )
            for name, value in said.items():
                setattr(attempt, name, value)
            attempt.ended = attempt.started + 0.003 + (attempt.delay or 0)
            exchange.attempts.append(attempt)
        for flag in flags:
            exchange.flag(flag)
        exchange.started -= milliseconds / 1000
        return flow

    def count(self, **what: Any) -> None:
        self.metrics.response(self.exchange(**what))

    def requests(self) -> dict[tuple[str, ...], int]:
        self.metrics.settle()
        return {series.labels: series.count for series in self.metrics.requests.all()}

    def attempts(self) -> dict[tuple[str, ...], int]:
        """(version, endpoint, code, error, retry, injected) -> count."""
        self.metrics.settle()
        return {
            series.labels[3:4] + series.labels[5:]: series.count for series in self.metrics.attempts.all()
        }

    def summary(self) -> Any:
        self.clock.now += 1
        return read_traffic(self.metrics.summary())


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("what", "labels"),
    [
        ({}, "source web reviews v1 '' 10.0.0.1:80 http '' 200 - false"),
        ({"status": 404, "tries": (404,)}, "source web reviews v1 '' 10.0.0.1:80 http '' 404 - false"),
        ({"route": 0}, "source web reviews v2 canary 10.0.0.9:80 http '' 200 - false"),
        ({"route": 1}, "source web reviews ratings/v7 routes[1] 10.0.0.7:80 http '' 200 - false"),
        ({"source": ""}, "source unknown reviews v1 '' 10.0.0.1:80 http '' 200 - false"),
        ({"service": "named"}, "source web named unknown '' unknown http '' 200 - false"),
        ({"service": "any.example"}, "source web PassthroughCluster unknown '' unknown http '' 200 - false"),
        (
            {"service": "shop", "inbound": True, "source": ""},
            "destination unknown shop unknown '' unknown http '' 200 - false",
        ),
        (
            {"tries": ("connect-failure", 200), "status": 200},
            "source web reviews v1 '' 10.0.0.2:80 http '' 200 - false",
        ),
        (
            {"tries": (503, 503), "status": 503, "flags": ("URX",)},
            "source web reviews v1 '' 10.0.0.2:80 http '' 503 URX false",
        ),
        (
            {"tries": ("timeout",), "status": 504, "flags": ("UT", "DI")},
            "source web reviews v1 '' 10.0.0.1:80 http '' 504 DI,UT false",
        ),
        (
            {"tries": ({"status": 503, "injected": True},), "status": 503, "flags": ("FI",)},
            "source web reviews v1 '' 10.0.0.1:80 http '' 503 FI true",
        ),
        ({"tries": (), "status": 503, "flags": ("UH",), "route": 0}, "source web reviews v2 canary unknown http '' 503 UH false"),
        ({"tries": ({},), "status": None, "flags": ("DC",)}, "source web reviews v1 '' 10.0.0.1:80 http '' 0 DC false"),
    ],
)  # fmt: skip
def test_labels_of_a_request(world: World, what: dict[str, Any], labels: str) -> None:
    world.count(**what)
    world.count(**what)
    assert world.requests() == {tuple(part.strip("'") for part in labels.split(" ")): 2}


def test_a_host_that_the_policy_refuses_and_a_proxy_without_policy() -> None:
    world = World('service: "*"\nunknown_hosts: refuse')
    for flag, status, known in (("NR", 404, world.snapshot), ("NP", 503, None)):
        flow = tflow.tflow(resp=True)
        flow.response.status_code = status
        attach(flow, exchange := Exchange(known, "node", "web", False))
        exchange.flag(flag)
        world.metrics.response(flow)
    assert [labels[2] for labels in world.requests()] == ["BlackHoleCluster", "unknown"]


def test_hosts_that_nobody_claims_share_one_series(world: World) -> None:
    for number in range(50):
        world.count(service=f"host{number}.example")
    assert list(world.requests().values()) == [50]
    assert list(world.attempts()) == [("unknown", "unknown", "200", "-", "false", "false")]


def test_attempts_of_a_retried_request(world: World) -> None:
    world.count(tries=("connect-failure", 500, {"status": 503, "injected": True}, 200))
    world.count()
    assert world.attempts() == {
        ("v1", "10.0.0.1:80", "0", "connect-failure", "false", "false"): 1,
        ("v1", "10.0.0.2:80", "500", "-", "true", "false"): 1,
        ("v2", "10.0.0.9:80", "503", "-", "true", "true"): 1,
        ("v1", "10.0.0.1:80", "200", "-", "true", "false"): 1,
        ("v1", "10.0.0.1:80", "200", "-", "false", "false"): 1,
    }


def test_faults_stand_apart_from_real_failures(world: World) -> None:
    answer = FixedAnswer(503, (), b"")
    made = {"status": 503, "injected": True, "abort": answer}
    world.count(tries=(made,), status=503, flags=("FI",))
    world.count(tries=({"status": 200, "delay": 2.0},), flags=("DI",))
    world.count(tries=({"error": "reset", "injected": True, "abort": "reset"}, 200), flags=("FI",))
    world.count(
        tries=({"error": "timeout", "injected": True, "abort": "hang"},), status=504, flags=("UT", "FI")
    )
    world.count(tries=(503,), status=503)
    counted = {series.labels: series.count for series in world.metrics.faults.all()}
    assert counted == {("reviews", "", fault): 1 for fault in ("abort", "delay", "reset", "hang")}
    row = world.summary().rows["reviews", "v1", "outbound"]
    assert (row.requests, row.failed, row.injected) == (5, 3, 2)
    # The delayed attempt took 3 ms of the upstream's time, what was made up took none.
    upstream = world.metrics.upstream.all()[0]
    assert upstream.buckets[bucket_of(3.0)] + upstream.buckets[bucket_of(3.0) + 1] == 3
    assert sum(upstream.buckets) == 3
    assert upstream.total == pytest.approx(9.0, abs=0.01)


def test_a_fault_of_somebody_elses_addon_is_no_answer_of_the_upstream(world: World) -> None:
    """It sets the attempt's outcome without a flag."""
    world.count(tries=({"status": 200, "injected": True},))
    world.count()
    assert sorted(labels[-1] for labels in world.requests()) == ["false", "true"]
    assert sum(sum(series.buckets) for series in world.metrics.upstream.all()) == 1


def test_durations_and_bytes(world: World) -> None:
    for milliseconds in (7.0, 7.0, 300.0):
        flow = world.exchange(milliseconds=milliseconds)
        flow.request.content = b"12345"
        flow.response.content = b"1234567"
        world.metrics.response(flow)
    world.metrics.settle()
    (series,) = world.metrics.latency.all()
    assert series.labels == ("source", "web", "reviews", "v1", "")
    assert (series.received, series.sent) == (15, 21)
    assert series.total == pytest.approx(314, abs=60)
    slow = [bucket for bucket, count in enumerate(series.buckets) if count][-1]
    assert 0 <= slow - bucket_of(300.0) <= 2


def test_an_upgrade_has_no_duration(world: World) -> None:
    world.count(status=101, tries=(101,), milliseconds=3_600_000)
    world.metrics.settle()
    (series,) = world.metrics.latency.all()
    assert (sum(series.buckets), series.total) == (0, 0.0)
    assert sum(world.requests().values()) == 1


# Exactly once


@pytest.mark.parametrize("hooks", list(itertools.product(("response", "error"), repeat=3)))
def test_whatever_hooks_fire_an_exchange_is_counted_once(world: World, hooks: tuple[str, ...]) -> None:
    flow = world.exchange()
    if "error" in hooks:
        flow.error = mitmproxy_flow.Error("Client disconnected.")
    for hook in hooks:
        getattr(world.metrics, hook)(flow)
    assert list(world.requests().values()) == [1]
    assert list(world.attempts().values()) == [1]


@pytest.mark.parametrize("last", ["websocket_end", "error"])
def test_a_websocket_is_counted_at_its_end(world: World, last: str) -> None:
    flow = tflow.twebsocketflow()
    attach(flow, exchange := Exchange(world.snapshot, "node", "web", True))
    exchange.service = "shop"
    flow.websocket.timestamp_end = None
    flow.error = None
    world.metrics.response(flow)
    assert world.requests() == {}
    if last == "error":
        flow.error = mitmproxy_flow.Error("gone")
    flow.websocket.timestamp_end = 5.0
    getattr(world.metrics, last)(flow)
    getattr(world.metrics, last)(flow)
    ((labels, count),) = world.requests().items()
    assert (labels[8], count) == ("101", 1)


def test_a_flow_that_the_mesh_did_not_see_arrive_is_not_counted(world: World) -> None:
    world.metrics.response(tflow.tflow(resp=True))
    assert world.requests() == {}


def test_a_bug_disturbs_no_exchange_and_is_logged_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> tuple[int, int]:
        raise ZeroDivisionError

    monkeypatch.setattr(metrics_module, "sizes", broken)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            world.count()
    assert world.metrics.errors == 3
    assert len(caplog.records) == 1
    monkeypatch.setattr(metrics_module, "write_traffic", broken)
    world.clock.now += 1
    assert world.metrics.summary() == ""
    assert world.metrics.errors == 4


# Bounded


def test_a_table_holds_at_most_so_many_label_sets() -> None:
    table = Table("m", ("destination_service", "code"), 3, Count)
    for number in range(10):
        for _ in range(2):
            table.of(("a", str(number))).count += 1
    kept = {series.labels: series.count for series in table.all()}
    assert kept == {("a", "0"): 2, ("a", "1"): 2, ("a", "2"): 2, (OTHER, OTHER): 14}
    assert table.refused == 7


def test_stale_series_make_room_once_and_only_when_it_is_needed() -> None:
    table = Table("m", ("destination_service",), 3, Count)
    for name in ("old", "older", "new"):
        table.of((name,)).count = 1
    table.sweep_when_full(lambda names: lambda labels: labels[0].startswith("old"))
    assert len(table.all()) == 3
    table.of(("newer",)).count = 1
    assert [series.labels[0] for series in table.all()] == ["new", "newer"]
    table.of(("newest",))
    assert table.of(("too much",)) is table.other


def test_what_is_stale() -> None:
    policy = snapshot()
    assert addresses_of(policy) == {"unknown", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80", "10.0.0.7:80"}
    stale = stale_in(policy, "shop", ("destination_service", "endpoint"))
    for service in ("reviews", "shop", "PassthroughCluster", "BlackHoleCluster", "unknown"):
        assert not stale((service, "10.0.0.1:80"))
    assert stale(("gone", "10.0.0.1:80"))
    assert stale(("reviews", "10.0.0.3:80"))
    assert not stale_in(policy, "", ("route", "destination_service"))(("x", "reviews"))


def test_all_metrics_together_stay_bounded_and_lose_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MOST_COUNTERS", 20)
    monkeypatch.setattr(metrics_module, "MOST_HISTOGRAMS", 10)
    monkeypatch.setattr(metrics_module, "_MOST_CELLS", 30)
    world = World("\n---\n".join(f"service: s{n}\nendpoints: ['10.0.0.{n}:80']" for n in range(1, 60)))
    for number in range(1, 60):
        for status in (200, 404):
            world.count(service=f"s{number}", tries=(status,), status=status)
            world.count(service=f"s{number}", tries=(503, status), status=status, flags=("URX",))
    assert len(world.metrics._cells) <= 30
    assert sum(world.requests().values()) == 59 * 4
    assert sum(world.attempts().values()) == 59 * 6
    assert sum(sum(series.buckets) for series in world.metrics.latency.all()) == 59 * 4
    for table in world.metrics.tables:
        assert len(table.all()) <= 21
        assert table.metric == "mitmesh_faults_injected" or table.refused > 0


def test_a_new_policy_keeps_the_counts_and_lets_the_old_policy_go(world: World) -> None:
    with taddons.context() as context:
        context.options.add_option("mesh_service", str, "", "")
        world.count()
        world.snapshot = snapshot(revision=2)
        world.metrics.mesh_policy(world.snapshot)
        assert world.metrics._cells == {}
        assert world.metrics.policy_since == world.clock.now
        world.count()
    assert list(world.requests().values()) == [2]


def test_what_nobody_reads_is_not_gathered_without_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MOST_GATHERED", 4)
    for number in range(1, 11):
        world.count()
        (cell,) = world.metrics._cells.values()
        assert len(cell.took) == len(cell.waited) == number % 4
    assert list(world.requests().values()) == [10]
    for table in (world.metrics.latency, world.metrics.upstream):
        (series,) = table.all()
        assert sum(series.buckets) == 10
        assert series.total > 10 * 2.9


# The summary


def test_the_summary_tells_what_is_new_since_the_last(world: World) -> None:
    world.count()
    world.count(route=0, tries=(500,), status=500)
    first = world.summary()
    assert first.seconds == pytest.approx(1.0)
    assert {key: (row.requests, row.failed) for key, row in first.rows.items()} == {
        ("reviews", "v1", "outbound"): (1, 0),
        ("reviews", "v2", "outbound"): (1, 1),
    }
    assert sum(first.rows["reviews", "v1", "outbound"].latency.values()) == 1
    world.count(service="shop", inbound=True)
    world.clock.now += 2
    assert {key: row.requests for key, row in world.summary().rows.items()} == {
        ("shop", "unknown", "inbound"): 1
    }
    assert world.summary().rows == {}


def test_a_report_just_after_the_last_tells_the_same_again(world: World) -> None:
    world.count()
    world.clock.now += 1
    text = world.metrics.summary()
    world.count()
    world.clock.now += 0.5
    assert world.metrics.summary() == text
    world.clock.now += 0.5
    again = read_traffic(world.metrics.summary())
    assert again is not None
    assert again.seconds == pytest.approx(1.0)
    assert again.rows["reviews", "v1", "outbound"].requests == 1


@given(st.lists(st.tuples(st.sampled_from([200, 404, 503]), st.booleans(), st.booleans()), max_size=60))
def test_summaries_add_up_to_the_counters(steps: list[tuple[int, bool, bool]]) -> None:
    world = World()
    told: Counter[str] = Counter()
    for status, retried, summarize in steps:
        world.count(tries=(503, status) if retried else (status,), status=status)
        if summarize:
            for row in world.summary().rows.values():
                told.update(requests=row.requests, failed=row.failed, latency=sum(row.latency.values()))
    for row in world.summary().rows.values():
        told.update(requests=row.requests, failed=row.failed, latency=sum(row.latency.values()))
    assert told["requests"] == told["latency"] == len(steps) == sum(world.requests().values())
    assert told["failed"] == sum(status == 503 for status, _, _ in steps)


def test_a_summary_is_short_however_much_there_is_to_tell() -> None:
    names = [f"a-service-with-a-rather-long-name-{number}" for number in range(150)]
    world = World("\n---\n".join(f"service: {name}\nendpoints: ['10.0.0.1:80']" for name in names))
    for number, name in enumerate(names):
        for milliseconds in range(1, 3 + number % 90):
            world.count(service=name, milliseconds=milliseconds**3)
    traffic = world.summary()
    assert (len(traffic.rows), traffic.more) == (100, 50)
    told = min(row.requests for row in traffic.rows.values())
    assert told == 27
    assert len(world.metrics.summary()) < 100_000
    assert json.loads(world.metrics.summary())["more"] == 50


# Judgements


@pytest.mark.parametrize(
    ("status", "flags", "grpc", "is_failure"),
    [
        (200, [], None, False),
        (404, [], None, False),
        (499, ["DC"], None, False),
        (0, ["DC"], None, False),
        (0, [], None, True),
        (500, [], None, True),
        (503, ["URX"], None, True),
        (200, ["URX"], None, False),
        (200, ["DI"], None, False),
        (200, ["UC"], None, True),
        (200, ["UT"], None, True),
        (200, [], "0", False),
        (200, [], "5", False),
        (200, [], "14", True),
    ],
)
def test_failures(status: int, flags: list[str], grpc: str | None, is_failure: bool) -> None:
    assert failed(status, flags, grpc) is is_failure


@pytest.mark.parametrize(
    ("content_type", "header", "trailer", "status"),
    [
        ("text/html", "0", None, None),
        ("application/grpc", None, "14", "14"),
        ("application/grpc+proto", "7", None, "7"),
        ("application/grpc", "3", "007", "7"),
        ("application/grpc", None, None, "unknown"),
        ("application/grpc", None, "99999", "unknown"),
        ("application/grpc", None, "-1", "unknown"),
    ],
)
def test_grpc_status(content_type: str, header: str | None, trailer: str | None, status: str | None) -> None:
    flow = tflow.tflow(resp=True)
    flow.request.headers["content-type"] = content_type
    if header is not None:
        flow.response.headers["grpc-status"] = header
    flow.response.trailers = http.Headers([(b"grpc-status", trailer.encode())]) if trailer else None
    assert grpc_status(flow) == status


def test_a_grpc_call_is_counted_as_one(world: World) -> None:
    flow = world.exchange()
    flow.request.headers["content-type"] = "application/grpc"
    flow.response.trailers = http.Headers([(b"grpc-status", b"14")])
    flow.__dict__["mesh"].streamed = True
    world.metrics.response(flow)
    ((labels, _),) = world.requests().items()
    assert labels[6:9] == ("grpc", "14", "200")
    assert world.summary().rows["reviews", "v1", "outbound"].failed == 1


def test_there_is_a_bucket_for_every_length() -> None:
    assert bucket_of(0.0) == 0
    assert bucket_of(1e9) == BUCKETS - 1


@given(st.lists(st.sampled_from(EDGES) | st.floats(-1, 2e6)))
def test_lengths_are_counted_together_as_they_are_one_by_one(lengths: list[float]) -> None:
    one_by_one = [1] * BUCKETS
    for length in lengths:
        one_by_one[bucket_of(length)] += 1
    together = [1] * BUCKETS
    tally(together, lengths)
    assert together == one_by_one
