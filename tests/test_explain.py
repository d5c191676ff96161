import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.explain import explain
from control.policy.facts import RequestFacts
from control.policy.model import Policy
from control.policy.reading import normalize
from control.policy.snapshot import Snapshot, build

REVIEWS: dict[str, Any] = {
    "service": "reviews",
    "endpoints": {"v1": ["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": 3}], "v2": ["10.0.0.9:80"]},
    "timeout": "5s",
    "retry": 2,
    "routes": [
        {"name": "testers", "match": {"headers": {"x-group": "qa"}}, "to": "v2"},
        {"match": {"path": {"prefix": "/api"}, "percent": 10}, "to": "v2"},
        {
            "name": "canary",
            "match": {"path": {"prefix": "/api"}},
            "to": {"v1": 90, "v2": 10},
            "retry": {"attempts": 3, "on": ["connect-failure", "5xx", {"body": "failure\n"}]},
            "faults": [
                {"abort": 503, "first": 2},
                {"delay": "2s", "match": {"method": "POST"}},
                {"abort": "reset", "percent": 0},
                {"abort": "hang", "percent": 50},
            ],
        },
    ],
}
STAR: dict[str, Any] = {"service": "*", "idle_timeout": "1m", "timeout": "9s", "access_log": "off"}


def snapshot(*raw: dict[str, Any]) -> Snapshot:
    policies = [Policy.model_validate(each) for each in raw]
    return build(7, {policy.service: normalize(policy) for policy in policies})


def request(
    target: str = "/", host: str = "reviews", method: str = "GET", source: str = "", **headers: str
) -> RequestFacts:
    fields = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    return RequestFacts(method, host, 80, target, fields, source)


def test_a_route_that_matches_with_all_that_applies() -> None:
    data = explain(snapshot(REVIEWS, STAR), request("/api/x", x_group="dev")).data()
    assert json.loads(json.dumps(data)) == {
        "service": "reviews",
        "document": "reviews",
        "host": "reviews",
        "port": 80,
        "revision": 7,
        "matched": True,
        "route": "canary",
        "label": "canary",
        "considered": [
            {"route": "testers", "why": 'header x-group is "dev", not "qa"'},
            {"route": "routes[1]", "why": "takes 10 % of such requests at random"},
        ],
        "to": [
            {
                "version": "v1",
                "share": 0.9,
                "endpoints": ["10.0.0.1:80", "10.0.0.2:80"],
                "endpoint_shares": [0.25, 0.75],
            },
            {"version": "v2", "share": 0.1, "endpoints": ["10.0.0.9:80"], "endpoint_shares": [1.0]},
        ],
        "timeout": "5s",
        "connect_timeout": "5s",
        "idle_timeout": "1m",
        "retry": {
            "attempts": 3,
            "on": ["connect-failure", "5xx", {"body": {"exact": "failure\n"}}],
            "methods": ["DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"],
            "backoff": {"base": "25ms", "max": "250ms"},
            "other_endpoint": True,
            "retry_after": True,
            "max_body": "64KiB",
        },
        "faults": [{"abort": {"status": 503}, "first": 2}, {"abort": "hang", "percent": 50}],
        "mtls": "off",
        "access_log": {"sample": 0},
        "from": {
            "to": "reviews: canary",
            "retry": "reviews: canary",
            "faults": "reviews: canary",
            "timeout": "reviews",
            "idle_timeout": '"*"',
            "access_log": '"*"',
        },
    }


RETRY = (
    '3 attempts on connect-failure, 5xx, {body: {exact: "failure\\n"}};'
    " methods DELETE, GET, HEAD, OPTIONS, PUT, TRACE   (from reviews: canary)"
)


def test_the_same_for_a_person() -> None:
    lines = explain(snapshot(REVIEWS, STAR), request("/api/x", x_group="dev", source="web")).lines()
    assert lines == [
        "request          GET http://reviews:80/api/x from web",
        "revision         7",
        "service          reviews",
        'considered       testers: header x-group is "dev", not "qa"',
        "                 routes[1]: takes 10 % of such requests at random",
        "route            canary",
        "to               v1 90 %: 10.0.0.1:80 25 %, 10.0.0.2:80 75 %   (from reviews: canary)",
        "                 v2 10 %: 10.0.0.9:80 100 %",
        "timeout          5s   (from reviews)",
        "connect_timeout  5s",
        'idle_timeout     1m   (from "*")',
        "retry            " + RETRY,
        "faults           {abort: {status: 503}, first: 2}   (from reviews: canary)",
        "                 {percent: 50, abort: hang}",
        "mtls             off",
        'access_log       {sample: 0}   (from "*")',
    ]


def test_no_route_matches() -> None:
    explanation = explain(snapshot(REVIEWS), request("/x"))
    data = explanation.data()
    assert (data["service"], data["matched"], data["route"], data["label"]) == ("reviews", False, None, None)
    assert [each["route"] for each in data["considered"]] == ["testers", "routes[1]", "canary"]
    assert data["to"] == [
        {
            "version": None,
            "share": 1.0,
            "endpoints": ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80"],
            "endpoint_shares": [0.2, 0.6, 0.2],
        }
    ]
    assert data["retry"]["attempts"] == 2
    assert data["from"] == {"timeout": "reviews", "retry": "reviews"}
    lines = explanation.lines()
    assert "route            none: the document's own settings" in lines
    assert (
        "to               all versions 100 %: 10.0.0.1:80 20 %, 10.0.0.2:80 60 %, 10.0.0.9:80 20 %" in lines
    )


def test_a_route_without_a_name() -> None:
    data = explain(snapshot({"service": "a", "routes": [{"match": {"path": "/"}}]}), request(host="a")).data()
    assert (data["matched"], data["route"], data["label"]) == (True, None, "routes[0]")


def test_a_route_given_twice_is_told_as_the_one_that_is_taken() -> None:
    route = {"match": {"percent": 50}, "timeout": "1s"}
    data = explain(snapshot({"service": "a", "routes": [route, {"timeout": "1s"}]}), request(host="a")).data()
    assert (data["label"], data["from"]["timeout"]) == ("routes[1]", "a: routes[1]")


@pytest.mark.parametrize(
    ("endpoints", "version"),
    [(["10.0.0.1:80"], "default"), ({"v1": ["10.0.0.1:80"], "v2": ["10.0.0.2:80"]}, None)],
)
def test_all_versions_together_are_named_where_there_is_one(endpoints: Any, version: str | None) -> None:
    data = explain(snapshot({"service": "a", "endpoints": endpoints}), request(host="a")).data()
    assert data["to"][0]["version"] == version


def test_a_host_that_nobody_claims_is_passed_on() -> None:
    explanation = explain(snapshot(STAR), request("/x?y", host="nobody"))
    data = explanation.data()
    assert (data["service"], data["document"], data["matched"], data["route"], data["to"]) == (
        None,
        "*",
        False,
        None,
        [],
    )
    assert (data["timeout"], data["retry"], data["faults"]) == ("9s", None, [])
    lines = explanation.lines()
    assert "service          none claims this host" in lines
    assert "to               where the caller addressed it: nobody:80" in lines
    assert not any(line.startswith("route") for line in lines)
    assert explain(snapshot(), request(host="nobody")).data()["document"] is None


def test_a_host_that_nobody_claims_is_refused() -> None:
    explanation = explain(snapshot({"service": "*", "unknown_hosts": "refuse"}), request(host="nobody"))
    data = explanation.data()
    assert (data["service"], data["matched"], data["route"], data["to"]) == (None, False, None, [])
    assert (data["retry"], data["timeout"], data["faults"]) == (None, None, [])
    assert data["respond"] == {"status": 404, "flag": "NR"}
    assert explanation.lines()[-1] == 'answer           from the proxy: 404 NR (unknown_hosts: refuse in "*")'


def test_headers_and_answers_of_the_proxy() -> None:
    explanation = explain(
        snapshot(
            {
                "service": "a",
                "request_headers": {"set": {"x-a": "1"}},
                "response_headers": {"remove": ["server"]},
                "respond": {"status": 503, "headers": {"retry-after": "5"}, "body": "closed\n"},
                "access_log": {"sample": 10, "only": "errors"},
            }
        ),
        request(host="a"),
    )
    data = explanation.data()
    assert data["request_headers"] == {"set": {"x-a": "1"}}
    assert data["response_headers"] == {"remove": ["server"]}
    assert data["respond"] == {"status": 503, "headers": {"retry-after": "5"}, "body": "closed\n"}
    assert data["access_log"] == {"sample": 10, "only": "errors"}
    lines = explanation.lines()
    assert "answer           from the proxy: 503   (from a)" in lines
    assert "request_headers  {set: {x-a: 1}}   (from a)" in lines
    assert "response_headers {remove: [server]}   (from a)" in lines


def test_one_line_stays_one_line_and_shows_no_control_characters() -> None:
    routes = [{"name": "r", "match": {"headers": {"x-a": "\u202eb"}}}]
    lines = explain(
        snapshot({"service": "a", "routes": routes}), request("/\x1b[31m\n", host="a", x_a="\x9b1m")
    ).lines()
    assert all(line.isprintable() for line in lines)


CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "path": st.sampled_from(["/a", "/b"]),
        "method": st.sampled_from(["GET", "POST"]),
        "percent": st.sampled_from([0, 50, 100]),
    },
)


@given(st.lists(st.lists(CONDITIONS, min_size=1, max_size=2), max_size=4), st.integers())
def test_the_proxy_takes_the_route_explained_or_one_told_to_be_random(matches: list[Any], seed: int) -> None:
    built = snapshot({"service": "a", "routes": [{"match": match} for match in matches]})
    facts = request("/a", host="a")
    explanation = explain(built, facts)
    random_routes = [each.route for each in explanation.considered if "at random" in each.why]
    assert all(each.why for each in explanation.considered)
    taken = built.services["a"].route(facts, Random(seed))
    assert explanation.route is not None
    assert taken.label in [*random_routes, explanation.route.label]


def test_the_circuit_breaker_with_its_defaults() -> None:
    said = {"service": "a", "circuit_breaker": {"open_for": "1m", "limits": {"requests": 9}}}
    whole = explain(snapshot(said), request(host="a"))
    assert whole.data()["circuit_breaker"] == {
        "consecutive_failures": 5,
        "open_for": "1m",
        "max_open": "5m",
        "max_ejected": 50,
        "panic": False,
        "limits": {"requests": 9},
    }
    assert (
        "circuit_breaker  {consecutive_failures: 5, open_for: 1m, max_open: 5m, max_ejected: 50, panic: false,"
        " limits: {requests: 9}}   (from a)" in whole.lines()
    )
    assert "circuit_breaker" not in explain(snapshot({"service": "a"}), request(host="a")).data()


def test_the_balancer_and_where_it_sends_this_request() -> None:
    hashed = {
        "service": "a",
        "endpoints": ["10.0.0.1:80", "10.0.0.2:80"],
        "load_balancer": {"hash": {"header": "x-user"}},
    }
    whole = explain(snapshot(hashed), request(host="a", x_user="7"))
    (share,) = whole.data()["to"]
    assert share["load_balancer"] == {"hash": {"header": "x-user"}}
    assert share["picked"] in share["endpoints"]
    assert (
        f"to               default 100 %: 10.0.0.1:80 50 %, 10.0.0.2:80 50 %; {{hash: {{header: x-user}}}},"
        f" this one {share['picked']}" in whole.lines()
    )
    (without,) = explain(snapshot(hashed), request(host="a")).data()["to"]
    assert "picked" not in without
    (plain,) = explain(snapshot({**hashed, "load_balancer": "round_robin"}), request(host="a")).data()["to"]
    assert plain.keys() == {"version", "share", "endpoints", "endpoint_shares"}


def test_the_version_of_a_user() -> None:
    said = {
        "service": "a",
        "endpoints": {"v1": ["10.0.0.1:80"], "v2": ["10.0.0.2:80"]},
        "to": {"v1": 50, "v2": 50},
        "sticky": {"header": "x-user"},
    }
    made = snapshot(said)
    whole = explain(made, request(host="a", x_user="7"))
    sticky = made.services["a"].own.sticky
    assert sticky is not None
    marked = [place for place, share in enumerate(whole.data()["to"]) if "sticky" in share]
    assert marked == [sticky.place("7")]
    assert sum(line.endswith("; this user's") or "; this user's   (" in line for line in whole.lines()) == 1
    assert "sticky           {header: x-user}   (from a)" in whole.lines()
    assert all("sticky" not in share for share in explain(made, request(host="a")).data()["to"])
