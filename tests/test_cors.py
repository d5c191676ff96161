"""Cross-origin requests: which origins are allowed, what preflights and answers say. The decision and the addon."""

from typing import Any

import pytest

from addons.cors import Cors
from addons.routing import Routing
from control.policy.cors import CompiledCors, compile_cors
from control.policy.errors import PolicyErrors
from control.policy.facts import RequestFacts
from control.policy.origins import Cors as Policy
from control.policy.reading import read_bytes
from tests.flows import loaded, make_answer, make_flow, pinned


def compiled(origins: Any = "https://a.example", **more: Any) -> CompiledCors:
    return compile_cors(Policy.model_validate({"allow_origins": origins, **more}))


def facts(method: str = "GET", **headers: str) -> RequestFacts:
    fields = tuple((name.replace("_", "-").encode(), text.encode()) for name, text in headers.items())
    return RequestFacts(method, "web", 80, "/", fields)


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ("https://a.example", "https://a.example", True),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example.evil", False),
        (["https://b.example", {"suffix": ".a.example"}], "https://x.a.example", True),
        ({"regex": "https://[a-z]+\\.a\\.example"}, "https://x.a.example", True),
        ({"regex": "https://[a-z]+\\.a\\.example"}, "https://x.a.example.evil", False),
        ("*", "null", True),
        ({"prefix": "https://"}, "null", False),
    ],
)
def test_which_origins_are_allowed(origins: Any, origin: str, allowed: bool) -> None:
    assert compiled(origins).allows(origin) is allowed


@pytest.mark.parametrize(
    ("asked", "preflight"),
    [
        (facts("OPTIONS", origin="https://a.example", access_control_request_method="PUT"), True),
        (facts("OPTIONS", origin="https://a.example"), False),
        (facts("OPTIONS", origin="https://a.example", access_control_request_method=""), False),
        (facts("OPTIONS", access_control_request_method="PUT"), False),
        (facts("GET", origin="https://a.example", access_control_request_method="PUT"), False),
    ],
)
def test_what_is_a_preflight(asked: RequestFacts, preflight: bool) -> None:
    assert (compiled().answer_to_preflight(asked) is not None) is preflight


def test_a_preflights_answer_says_only_what_the_policy_says() -> None:
    asked = facts("OPTIONS", origin="https://a.example", access_control_request_method="PUT")
    assert compiled().answer_to_preflight(asked) == (
        (b"access-control-allow-origin", b"https://a.example"),
        (b"vary", b"origin"),
    )
    full = compiled(
        allow_methods=["get", "PUT"],
        allow_headers=["X-User", "x-b"],
        expose_headers=["x-c"],
        allow_credentials=True,
        max_age="90s",
    )
    assert full.answer_to_preflight(asked) == (
        (b"access-control-allow-origin", b"https://a.example"),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-allow-methods", b"GET, PUT"),
        (b"access-control-allow-headers", b"x-user, x-b"),
        (b"access-control-max-age", b"90"),
        (b"vary", b"origin"),
    )


@pytest.mark.parametrize(
    ("given", "vary"),
    [
        (None, [b"origin"]),
        (b"accept", [b"accept", b"origin"]),
        (b"Accept, ORIGIN", [b"Accept, ORIGIN"]),
        (b"*", [b"*"]),
    ],
)
def test_caches_are_told_that_the_origin_counts(given: bytes | None, vary: list[bytes]) -> None:
    fields = ((b"Vary", given),) if given else ()
    for asked in (facts(), facts(origin="https://a.example"), facts(origin="https://evil.example")):
        got = compiled().apply(asked, fields)
        assert [text for name, text in got if name.lower() == b"vary"] == vary


def test_what_the_service_says_of_origins_is_dropped() -> None:
    fields = (
        (b"Access-Control-Allow-Origin", b"*"),
        (b"access-control-allow-credentials", b"true"),
        (b"x", b"y"),
    )
    assert compiled().apply(facts(origin="https://evil.example"), fields) == (
        (b"x", b"y"),
        (b"vary", b"origin"),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "cors.allow_origins: missing: write a matcher of origins, or a list"),
        ("{allow_origins: []}", "cors.allow_origins: write at least one"),
        ("{allow_origins: a, allow_headers: x y}", "cors.allow_headers: write a list of header names"),
        ("{allow_origins: a, allow_credentials: yes}", "cors.allow_credentials: write true or false"),
        ("{allow_origins: a, max_age: 5}", "cors.max_age: write a duration with its unit"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        read_bytes(f"service: web\ncors: {text}".encode(), "test.yaml")
    assert f": {problem}" in str(caught.value)


def answered(policy: str, response: Any = None, **request: Any) -> Any:
    flow = make_flow(**request)
    pinned(flow, f"service: web\nendpoints: ['10.0.0.1:80']\n{policy}")
    routing, cors = Routing(), Cors()
    with loaded(routing, cors):
        assert routing.request(flow) is None
        if flow.response is None:
            flow.response = response
        if flow.response is not None:
            cors.responseheaders(flow)
    return flow.response


POLICY = "cors: {allow_origins: 'https://a.example', expose_headers: [x-total]}"


def test_the_addon_answers_preflights_and_marks_answers() -> None:
    headers = {"origin": "https://a.example", "access-control-request-method": "PUT"}
    got = answered(POLICY, method="OPTIONS", headers=headers)
    assert (got.status_code, got.raw_content, got.headers["access-control-allow-origin"]) == (
        200,
        b"",
        "https://a.example",
    )
    assert got.headers.get_all("vary") == ["origin"]
    got = answered(POLICY, make_answer(503), headers=headers)
    assert (got.status_code, got.headers["access-control-expose-headers"]) == (503, "x-total")


def test_without_a_policy_nothing_is_touched() -> None:
    theirs = make_answer(access_control_allow_origin="*")
    got = answered("", theirs, headers={"origin": "https://a.example"})
    assert got.headers["access-control-allow-origin"] == "*"
    assert "vary" not in got.headers


def test_it_fails_closed() -> None:
    flow = make_flow()
    exchange = pinned(flow, f"service: web\n{POLICY}")
    exchange.route = exchange.snapshot.services["web"].own
    Cors().mesh_routed(flow)  # nobody has noted the facts
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")
