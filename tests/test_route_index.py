from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.facts import RequestFacts
from control.policy.matching import Condition, compile_match
from control.policy.model import Policy
from control.policy.route_index import index_routes

SEGMENTS = st.sampled_from(["a", "ab"])
PATHS = st.lists(SEGMENTS, max_size=3).map(lambda parts: "/" + "/".join(parts))
PATH_MATCHERS = st.one_of(
    PATHS,
    st.builds(lambda path: {"prefix": path}, PATHS),
    st.just({"regex": "/a.*"}),
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


@pytest.mark.parametrize(
    "matches",
    [
        [{"path": "/a"}] * 3,
        [{"method": "GET"}] * 100,
        [*({"path": f"/{number}"} for number in range(500)), *({"method": "GET"} for _ in range(500))],
        [{"path": {"prefix": "/a" * number}} for number in range(1, 500)],
    ],
    ids=["few routes", "no paths", "lists that repeat many routes", "prefixes within prefixes"],
)
def test_no_index_where_it_is_not_worth_it(matches: list[Any]) -> None:
    assert index_routes([(condition, number) for number, condition in enumerate(conditions(matches))]) is None


def test_a_path_of_many_segments_costs_no_more_than_the_deepest_prefix() -> None:
    compiled = conditions([{"path": {"prefix": f"/v{number}/x"}} for number in range(10)])
    index = index_routes([(condition, number) for number, condition in enumerate(compiled)])
    assert index is not None
    assert index.candidates("/v3/x" + "/a" * 100_000) == (3,)
    assert index.candidates("/a" * 100_000) == ()
