"""Answers that need no service."""

import pytest

from addons.direct_answers import DirectAnswers
from addons.routing import Routing
from tests.flows import loaded, make_answer, make_flow, pinned


def answered(policy, url="http://web/a?b=c", method="GET", **flow):
    made = make_flow(url, method, **flow)
    exchange = pinned(made, f"service: web\n{policy}")
    routing, answers = Routing(), DirectAnswers()
    with loaded(routing, answers):
        assert routing.request(made) is None
    return made.response, exchange


def test_respond():
    response, exchange = answered("respond: {status: 418, headers: {x-a: b}, body: teapot}")
    assert (response.status_code, response.text) == (418, "teapot")
    assert (response.headers["x-a"], response.headers["content-length"]) == ("b", "6")
    assert (exchange.share, exchange.flags) == (None, [])


@pytest.mark.parametrize(
    ("url", "redirect", "status", "location"),
    [
        ("http://web/a?b=c", "{scheme: https}", 302, "https://web/a?b=c"),
        ("https://web/a?b=c", "{host: other, status: 308}", 308, "https://other/a?b=c"),
        ("http://web:8080/a", "{path: /n, status: 301}", 301, "http://web:8080/n"),
    ],
)
def test_a_redirect(url, redirect, status, location):
    response, exchange = answered(f"redirect: {redirect}", url)
    assert (response.status_code, response.headers["location"], response.raw_content) == (
        status,
        location,
        b"",
    )
    assert (exchange.share, exchange.flags) == (None, [])


def test_a_reverse_proxy_does_not_invent_a_host():
    response, _ = answered("redirect: {path: /n}", mode="reverse:http://web")
    assert response.headers["location"] == "/n?b=c"


def test_an_answer_that_there_is_stays():
    flow = make_flow("http://web/")
    pinned(flow, "service: web\nrespond: {body: x}").route = None
    DirectAnswers().mesh_routed(flow)
    assert flow.response is None
    flow.response = made = make_answer(429)
    DirectAnswers().mesh_routed(flow)
    assert flow.response is made


def test_it_fails_closed():
    flow = make_flow("http://web/")
    exchange = pinned(flow, "service: web\nredirect: {scheme: https}")
    exchange.route = exchange.snapshot.services["web"].own
    DirectAnswers().mesh_routed(flow)  # nobody has noted the facts
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")
