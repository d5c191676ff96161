"""Retry: which outcome asks for another try, how long it waits, and what the budget counts."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from addons import retry as retry_module
from addons.retry import Retry
from addons.routing import Routing
from tests.flows import attempted, make_flow, pinned, snapshot


def web(retry: str) -> str:
    return f'service: web\nendpoints: ["10.0.0.1:80"]\nretry: {retry}\n'


class Exchanges:
    """Requests to one service, judged by one addon."""

    def __init__(self, retry: str, seed: int = 1) -> None:
        self.addon = Retry(random.Random(seed))
        self.snapshot = snapshot(web(retry))

    def begin(self, method: str = "GET", body: bytes = b"", **headers: str):
        flow = make_flow("http://web/", method, {n.replace("_", "-"): v for n, v in headers.items()}, body)
        pinned(flow, self.snapshot)
        Routing().request(flow)
        return flow

    def attempt(self, flow, status=None, error=None, **more):
        """One attempt with this outcome, judged."""
        attempt = attempted(flow.__dict__["mesh"], status, error, **more)
        self.addon.mesh_attempt(flow, attempt)
        self.addon.mesh_attempt_end(flow, attempt)
        return attempt

    @property
    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        return dict(self.addon._requests), dict(self.addon._retries)


@pytest.mark.parametrize(
    ("retry", "method", "headers", "status", "error", "why"),
    [
        ("3", "GET", {}, 200, None, None),
        ("3", "GET", {}, 500, None, None),
        ("3", "GET", {}, 503, None, "gateway-error"),
        ("3", "GET", {}, None, "connect-failure", "connect-failure"),
        ("3", "GET", {}, None, "reset", "reset"),
        ("3", "GET", {}, None, "timeout", "gateway-error"),
        # An answer that is no HTTP is as good as a broken connection.
        ("3", "GET", {}, None, "protocol", "reset"),
        ("3", "POST", {}, 503, None, None),
        ("3", "POST", {}, None, "reset", None),
        ("3", "POST", {}, None, "connect-failure", "connect-failure"),
        ("3", "POST", {"idempotency_key": "7"}, 503, None, "gateway-error"),
        ("{attempts: 3, methods: [POST]}", "POST", {}, 503, None, "gateway-error"),
        ("{attempts: 3, methods: [POST]}", "GET", {}, 503, None, None),
        ("{attempts: 3, on: [418]}", "GET", {}, 418, None, "418"),
        ("{attempts: 3, on: [5xx]}", "GET", {}, 599, None, "5xx"),
    ],
)
def test_what_is_tried_again(retry, method, headers, status, error, why):
    exchanges = Exchanges(retry)
    flow = exchanges.begin(method, **headers)
    attempt = exchanges.attempt(flow, status, error)
    assert (attempt.pause is not None) is (why is not None)
    if why is not None:
        assert attempt.why == why
    assert flow.__dict__["mesh"].flags == []


def test_the_last_try_is_flagged():
    exchanges = Exchanges("{attempts: 2, on: [5xx]}")
    flow = exchanges.begin()
    assert exchanges.attempt(flow, 503).pause is not None
    assert exchanges.attempt(flow, 503).pause is None
    assert flow.__dict__["mesh"].flags == ["URX"]


def test_one_attempt_is_no_retry_and_has_no_flag():
    exchanges = Exchanges("1")
    flow = exchanges.begin()
    assert exchanges.attempt(flow, 503).pause is None
    assert flow.__dict__["mesh"].flags == []


def test_a_long_request_is_not_sent_again():
    exchanges = Exchanges("{attempts: 3, max_body: 10B}")
    assert exchanges.attempt(exchanges.begin("PUT", b"x" * 10), 503).pause is not None
    assert exchanges.attempt(exchanges.begin("PUT", b"x" * 11), 503).pause is None


def test_the_answers_body_is_judged():
    exchanges = Exchanges('{attempts: 3, on: [{body: "failure\\n"}]}')
    assert exchanges.attempt(exchanges.begin(), 200, body=b"failure\n").pause is not None
    assert exchanges.attempt(exchanges.begin(), 200, body=b"success\n").pause is None
    # One that was too long to be gathered.
    assert exchanges.attempt(exchanges.begin(), 200, body=None).pause is None


def test_pauses_are_drawn_from_the_random_source_and_grow():
    exchanges = Exchanges("{attempts: 100, backoff: {base: 100ms, max: 1s}}", seed=4)
    flow = exchanges.begin()
    pauses = [exchanges.attempt(flow, 503).pause for _ in range(60)]
    for number, pause in enumerate(pauses):
        assert 0 <= pause < min(1.0, 0.1 * 2**number)
    assert max(pauses) > 0.9
    again = Exchanges("{attempts: 100, backoff: {base: 100ms, max: 1s}}", seed=4)
    flow = again.begin()
    assert [again.attempt(flow, 503).pause for _ in range(60)] == pauses


@pytest.mark.parametrize(
    ("policy", "field", "least", "most"),
    [
        ("2", b"7", 7, 7),
        ("2", b"0", 0, 0.025),
        ("2", b"nonsense", 0, 0.025),
        # Longer than anybody should wait: the ordinary pause.
        ("2", b"86400", 0, 0.025),
        ("{attempts: 2, retry_after: false}", b"7", 0, 0.025),
    ],
)
def test_retry_after(policy, field, least, most):
    exchanges = Exchanges(policy)
    attempt = exchanges.attempt(exchanges.begin(), 503, fields=((b"Retry-After", field),))
    assert least <= attempt.pause <= most


def test_retry_after_as_a_date_counts_from_now(monkeypatch):
    monkeypatch.setattr(retry_module.time, "time", lambda: 784111777.0 - 9)
    exchanges = Exchanges("2")
    fields = ((b"retry-after", b"Sun, 06 Nov 1994 08:49:37 GMT"),)
    assert exchanges.attempt(exchanges.begin(), 503, fields=fields).pause == 9


def test_the_budget_bounds_retries_at_once():
    exchanges = Exchanges("{attempts: 3, budget: {percent: 50, min_concurrent: 1}}")
    flows = [exchanges.begin() for _ in range(6)]
    granted = []
    for flow in flows:
        exchange = flow.__dict__["mesh"]
        exchanges.addon.mesh_attempt(flow, attempted(exchange))
    for flow in flows:
        exchange = flow.__dict__["mesh"]
        exchange.attempts[0].status = 503
        exchanges.addon.mesh_attempt_end(flow, exchange.attempts[0])
        granted.append(exchange.attempts[0].pause is not None)
    # Half of six.
    assert granted == [True, True, True, False, False, False]
    assert [flow.__dict__["mesh"].flags for flow in flows] == [[]] * 3 + [["URX"]] * 3
    # One of them is done: there is room again.
    exchanges.attempt(flows[0], 200)
    exchanges.addon.mesh_forwarded(flows[0])
    assert exchanges.counts == ({"web": 5}, {"web": 2})


def test_a_service_without_retry_is_not_counted():
    addon = Retry()
    flow = make_flow("http://web/")
    exchange = pinned(flow, 'service: web\nendpoints: ["10.0.0.1:80"]')
    Routing().request(flow)
    attempt = attempted(exchange, 503)
    addon.mesh_attempt(flow, attempt)
    addon.mesh_attempt_end(flow, attempt)
    addon.mesh_forwarded(flow)
    assert (attempt.pause, dict(addon._requests), dict(addon._retries)) == (None, {}, {})


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from([200, 503, None]), min_size=1, max_size=6), st.booleans()),
        max_size=8,
    ),
    st.booleans(),
)
def test_when_all_is_over_nothing_is_counted_any_more(requests, budget):
    """Whatever the outcomes, and also where the client leaves during a pause."""
    exchanges = Exchanges("{attempts: 4" + (", budget: {percent: 30, min_concurrent: 1}}" if budget else "}"))
    flows = []
    for statuses, leaves in requests:
        flow = exchanges.begin()
        flows.append(flow)
        for status in statuses:
            attempt = exchanges.attempt(flow, status, None if status else "reset")
            if attempt.pause is None or leaves:
                break
    for flow in flows:
        exchanges.addon.mesh_forwarded(flow)
    assert exchanges.counts == ({}, {})
