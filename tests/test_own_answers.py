"""What the proxy says in its own name when the tries have brought no answer."""

import asyncio

import pytest

from addons.answers import answer_itself
from addons.deadline import Deadline
from addons.routing import Routing
from control.policy.answers import FixedAnswer
from tests.flows import attempted, make_flow, pinned


def routed(policy: str):
    flow = make_flow()
    exchange = pinned(flow, policy)
    Routing().request(flow)
    return flow, exchange


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
    answer_itself(flow, exchange, attempt, None, deadline)
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (status, flag)
    assert (flow.response.text, exchange.flags) == (text, [flag])


@pytest.mark.parametrize(("tries", "said"), [(1, "1 try"), (3, "3 tries")])
async def test_what_is_said_when_time_ran_out(tries, said):
    flow, exchange = routed("service: web\ntimeout: 1500ms")
    for _ in range(tries):
        attempt = attempted(exchange, 503)
    deadline = Deadline(asyncio.get_running_loop())
    deadline.start(0)
    answer_itself(flow, exchange, attempt, None, deadline)
    assert flow.response.text == f"the timeout of 1.5 s ran out after {said}\n"
    assert flow.response.headers["x-mesh-flag"] == "UT"


async def test_a_made_up_answer_is_marked():
    flow, exchange = routed("service: web")
    fixed = FixedAnswer(418, ((b"x-a", b"b"),), b"tea")
    answer_itself(flow, exchange, attempted(exchange, 418), fixed, Deadline(asyncio.get_running_loop()))
    assert (flow.response.status_code, flow.response.content) == (418, b"tea")
    assert (flow.response.headers["x-a"], flow.response.headers["x-mesh-flag"]) == ("b", "FI")
