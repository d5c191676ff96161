from random import Random
from typing import Any

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from control.policy.facts import RequestFacts
from control.policy.matching import Condition, compile_match
from control.policy.model import Policy
from control.policy.patterns import RegexSet
from control.policy.route_index import index_routes

SEGMENTS = st.sampled_from(["a", "ab"])
PATHS = st.lists(SEGMENTS, max_size=3).map(lambda parts: "/" + "/".join(parts))
PATH_MATCHERS = st.one_of(
    PATHS,
    st.builds(lambda path: {"prefix": path}, PATHS),
    st.builds(
        lambda regex: {"regex": regex}, st.sampled_from(["/a.*", "/(a|ab)/.*", "/[ab]+", ".*", "/ab", ""])
    ),
)
ONE_MATCH = st.fixed_dictionaries(
    {}, optional={"path": PATH_MATCHERS, "method": st.sampled_from(["GET", "POST"])}
)
MATCHES = st.none() | ONE_MATCH | st.lists(ONE_MATCH, min_size=1, max_size=3)


def conditions(matches: list[Any]) -> list[Condition | None]:
    routes = [{"match": match} if match is not None else {} for match in matches]
    return [
        compile_match(route.match)
        for route in Policy.model_validate({"service": "s", "routes": routes}).routes
    ]


def taking(compiled: list[Condition | None], numbers: Any, facts: RequestFacts) -> list[int]:
    random = Random(0)
    found = []
    for number in numbers:
        condition = compiled[number]
        if condition is None or condition.holds(facts, random):
            found.append(number)
    return found


@given(
    st.lists(MATCHES, max_size=12), PATHS | st.sampled_from(["*", "", "/a/", "//", "/a//b", "/a/b/ab/a/b"])
)
def test_the_index_leaves_out_only_routes_that_cannot_match(matches: list[Any], path: str) -> None:
    compiled = conditions(matches)
    index = index_routes([(condition, number) for number, condition in enumerate(compiled)])
    if index is not None:
        facts = RequestFacts("GET", "s", 80, path, ())
        candidates = index.candidates(facts.path)
        assert list(candidates) == sorted(set(candidates))
        assert taking(compiled, candidates, facts) == taking(compiled, range(len(compiled)), facts)


def test_one_route_of_many_is_asked() -> None:
    compiled = conditions([{"path": {"prefix": f"/v{number}"}} for number in range(1000)])
    index = index_routes([(condition, number) for number, condition in enumerate(compiled)])
    assert index is not None
    assert index.candidates("/v777/x") == (777,)
    assert index.candidates("/v1000") == ()


def test_one_expression_of_many_is_asked() -> None:
    compiled = conditions(
        [
            *({"path": {"regex": f"/v{number}/[a-z]+"}} for number in range(1000)),
            {"path": {"prefix": "/v5"}},
            {"method": "GET"},
        ]
    )
    index = index_routes([(condition, number) for number, condition in enumerate(compiled)])
    assert index is not None
    assert list(index.candidates("/v777/x")) == [777, 1001]
    assert list(index.candidates("/v5/x")) == [5, 1000, 1001]
    assert list(index.candidates("/v5/1")) == [1000, 1001]
    assert list(index.candidates("/v1000/x")) == [1001]


def test_expressions_that_need_too_much_memory_together_are_asked_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matches: list[Any] = [{"path": {"regex": f"/v{number}/[a-z]+"}} for number in range(100)]
    options = re2.Options()
    options.max_mem = 1 << 10
    options.log_errors = False
    monkeypatch.setattr("control.policy.patterns._SET_OPTIONS", options)
    compiled = conditions([*matches, *({"path": f"/{number}"} for number in range(10))])
    index = index_routes([(condition, number) for number, condition in enumerate(compiled)])
    assert index is not None
    assert list(index.candidates("/7")) == [*range(100), 107]


def test_a_set_that_runs_out_of_memory_leaves_nobody_out() -> None:
    patterns = RegexSet(["/a", "/b"])
    assert patterns.matching("/b") == [1]
    # What RE2 says where its memory does not suffice for a text.
    patterns._set = type("Set", (), {"Match": lambda self, text: []})()
    assert list(patterns.matching("/b")) == [0, 1]


@pytest.mark.parametrize(
    "matches",
    [
        [{"path": "/a"}] * 3,
        [{"path": {"regex": "/a"}}] * 3,
        [{"method": "GET"}] * 100,
        [*({"path": f"/{number}"} for number in range(500)), *({"method": "GET"} for _ in range(500))],
        [{"path": {"prefix": "/a" * number}} for number in range(1, 500)],
    ],
    ids=[
        "few routes",
        "few expressions",
        "no paths",
        "lists that repeat many routes",
        "prefixes within prefixes",
    ],
)
def test_no_index_where_it_is_not_worth_it(matches: list[Any]) -> None:
    assert index_routes([(condition, number) for number, condition in enumerate(conditions(matches))]) is None


def test_a_path_of_many_segments_costs_no_more_than_the_deepest_prefix() -> None:
    compiled = conditions([{"path": {"prefix": f"/v{number}/x"}} for number in range(10)])
    index = index_routes([(condition, number) for number, condition in enumerate(compiled)])
    assert index is not None
    assert index.candidates("/v3/x" + "/a" * 100_000) == (3,)
    assert index.candidates("/a" * 100_000) == ()
