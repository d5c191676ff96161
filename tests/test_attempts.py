"""The parts of an attempt that need no upstream: which endpoint, what a fault makes of it, what is said at the end."""

import asyncio
import itertools

import pytest
from mitmproxy import http

from addons.attempts import Attempts
from addons.deadline import Deadline
from addons.engine.client import Client
from addons.engine.hooks import HookTable
from addons.load_balancing import LoadBalancing
from addons.routing import Routing
from control.policy.answers import FixedAnswer
from tests.flows import attempted, make_flow, pinned, snapshot

WITHIN = 20.0


class NoAddons:
    def __init__(self) -> None:
        self.chain: list[object] = []
        self.lookup: dict[str, object] = {}


def attempts() -> Attempts:
    return Attempts(Client(), HookTable(NoAddons()), LoadBalancing())


def routed(policy: str, url: str = "http://web/"):
    flow = make_flow(url)
    exchange = pinned(flow, policy)
    Routing().request(flow)
    return flow, exchange


def picks(policy: str, tries: list[int], url: str = "http://web/") -> list[list[str]]:
    """The endpoints of so many tries of each request, one request after the other."""
    shared = attempts()
    chosen = []
    compiled = snapshot(policy)
    for count in tries:
        flow = make_flow(url)
        exchange = pinned(flow, compiled)
        Routing().request(flow)
        tried: list = []
        chosen.append([shared.begin(flow, exchange, tried).host for _ in range(count)])
    return chosen


THREE = 'service: web\nendpoints: ["a:1", "b:1", "c:1"]\n'


def test_first_tries_rotate():
    assert picks(THREE, [1] * 6) == [["a"], ["b"], ["c"]] * 2


def test_further_tries_go_where_this_request_was_not_and_do_not_turn_the_first_ones():
    chosen = picks(THREE + "retry: 9", [3] * 6)
    assert [each[0] for each in chosen] == ["a", "b", "c"] * 2
    assert all(sorted(each) == ["a", "b", "c"] for each in chosen)


def test_after_all_of_them_another_round_begins_elsewhere():
    (chosen,) = picks(THREE + "retry: 9", [9])
    assert all(sorted(chosen[start : start + 3]) == ["a", "b", "c"] for start in (0, 3, 6))
    assert all(before != after for before, after in itertools.pairwise(chosen))


def test_the_same_endpoint_again_where_the_policy_says_so():
    (chosen,) = picks('service: web\nendpoints: ["a:1"]\nretry: {attempts: 3, other_endpoint: false}', [3])
    assert chosen == ["a", "a", "a"]


def test_an_only_endpoint_is_tried_again():
    (chosen,) = picks('service: web\nendpoints: ["a:1"]\nretry: 3', [3])
    assert chosen == ["a", "a", "a"]


def test_without_endpoints_what_the_caller_named():
    shared = attempts()
    flow, exchange = routed("service: web", "http://web:81/")
    attempt = shared.begin(flow, exchange, [])
    assert (attempt.endpoint, attempt.address, attempt.number) == (None, "web:81", 1)
    assert shared.begin(flow, exchange, []).number == 2
    assert exchange.attempts[0] is attempt


def test_an_ipv6_address_is_shown_in_brackets():
    flow, exchange = routed('service: web\nendpoints: ["[::1]:80"]')
    assert attempts().begin(flow, exchange, []).address == "[::1]:80"


@pytest.mark.parametrize(
    ("delay", "abort", "per_try", "error", "status"),
    [
        (0.001, None, None, None, None),
        (None, FixedAnswer(503, (), b"x"), None, None, 503),
        (0.001, FixedAnswer(503, (), b"x"), None, None, 503),
        (None, "reset", None, "reset", None),
        (60.0, None, 0.001, "timeout", None),
        (None, "hang", 0.001, "timeout", None),
        (60.0, FixedAnswer(503, (), b"x"), 0.001, "timeout", None),
    ],
)
async def test_what_a_fault_makes_of_an_attempt(delay, abort, per_try, error, status):
    _, exchange = routed("service: web")
    attempt = attempted(exchange, delay=delay, abort=abort)
    deadline = Deadline(asyncio.get_running_loop())
    answer = await asyncio.wait_for(attempts().inject(attempt, deadline, per_try), WITHIN)
    assert (attempt.error, attempt.status) == (error, status)
    assert answer is (abort if status else None)
    assert attempt.injected is (error is not None or status is not None)
    assert not deadline.expired


@pytest.mark.parametrize("abort", [None, "hang"])
async def test_the_overall_timeout_ends_a_fault(abort):
    _, exchange = routed("service: web")
    attempt = attempted(exchange, delay=60.0, abort=abort)
    deadline = Deadline(asyncio.get_running_loop())
    deadline.start(0.01)
    assert await asyncio.wait_for(attempts().inject(attempt, deadline, None), WITHIN) is None
    assert (attempt.error, deadline.expired) == ("timeout", True)


@pytest.mark.parametrize(
    ("error", "status", "flag", "text"),
    [
        ("connect-failure", 503, "UF", "no connection to 10.0.0.1:80: why\n"),
        ("reset", 503, "UC", "10.0.0.1:80 ended the connection before it answered: why\n"),
        ("protocol", 502, "UPE", "10.0.0.1:80 did not answer in HTTP: why\n"),
        ("timeout", 504, "UT", "10.0.0.1:80 did not answer in time: why\n"),
    ],
)
async def test_what_is_said_of_the_last_error(error, status, flag, text):
    flow, exchange = routed("service: web")
    attempt = attempted(exchange, error=error, detail="why")
    deadline = Deadline(asyncio.get_running_loop())
    attempts().answer_itself(flow, exchange, attempt, None, deadline)
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (status, flag)
    assert (flow.response.text, exchange.flags) == (text, [flag])


@pytest.mark.parametrize(("tries", "said"), [(1, "1 try"), (3, "3 tries")])
async def test_what_is_said_when_time_ran_out(tries, said):
    flow, exchange = routed("service: web\ntimeout: 1500ms")
    for _ in range(tries):
        attempt = attempted(exchange, 503)
    deadline = Deadline(asyncio.get_running_loop())
    deadline.start(0)
    attempts().answer_itself(flow, exchange, attempt, None, deadline)
    assert flow.response.text == f"the timeout of 1.5 s ran out after {said}\n"
    assert flow.response.headers["x-mesh-flag"] == "UT"


async def test_a_made_up_answer_is_marked():
    flow, exchange = routed("service: web")
    fixed = FixedAnswer(418, ((b"x-a", b"b"),), b"tea")
    attempts().answer_itself(
        flow, exchange, attempted(exchange, 418), fixed, Deadline(asyncio.get_running_loop())
    )
    assert (flow.response.status_code, flow.response.content) == (418, b"tea")
    assert (flow.response.headers["x-a"], flow.response.headers["x-mesh-flag"]) == ("b", "FI")


async def test_no_endpoint_with_a_weight():
    shared = attempts()
    policy = 'service: web\nendpoints: {v1: [{address: "a:1", weight: 1}], v2: [{address: "b:1", weight: 0}, {address: "c:1", weight: 1}]}\nto: v2'
    flow, exchange = routed(policy)
    exchange.share = type(exchange.share)("v2", "web", "v2", exchange.share.endpoints[:1], 1.0)
    assert await shared.run(flow, exchange, Deadline(asyncio.get_running_loop())) is None
    response: http.Response = flow.response
    assert (response.status_code, response.headers["x-mesh-flag"]) == (503, "UH")
    assert response.text == "service web has no endpoint to send to\n"
    assert exchange.attempts == []
