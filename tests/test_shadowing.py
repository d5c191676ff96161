"""Whether a match takes all that another one takes: never said where it is not so."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.policy.facts import RequestFacts
from control.policy.matching import compile_match
from control.policy.model import Route
from control.policy.shadowing import covers


def condition(match: Any) -> Any:
    route = Route.model_validate({} if match is None else {"match": match})
    return compile_match(route.match)


def prefix(text: str) -> dict[str, Any]:
    return {"path": {"prefix": text}}


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        (None, None, True),
        (None, {"method": "GET"}, True),
        ({"method": "GET"}, None, False),
        (prefix("/a"), {"path": "/a"}, True),
        (prefix("/a"), {"path": "/a/b"}, True),
        (prefix("/a"), {"path": "/ab"}, False),
        (prefix("/a/"), prefix("/a"), True),
        (prefix("/a"), prefix("/a/b"), True),
        (prefix("/a"), prefix("/ab"), False),
        (prefix("/a/b"), prefix("/a"), False),
        (prefix("/"), prefix("/a"), True),
        (prefix("/%61"), {"path": "/a"}, True),
        ({"path": {"regex": "/[a-z]+"}}, {"path": "/abc"}, True),
        ({"path": {"regex": "/[a-z]+"}}, {"path": "/1"}, False),
        ({"path": {"regex": "/[a-z]+"}}, {"path": {"regex": "/[a-z]+"}}, True),
        ({"path": {"regex": ".*"}}, prefix("/a"), False),
        ({"method": ["GET", "HEAD"]}, {"method": "GET"}, True),
        ({"method": "GET"}, {"method": ["GET", "HEAD"]}, False),
        ({"source": ["a", "B"]}, {"source": "b"}, True),
        (prefix("/a"), {**prefix("/a"), "method": "GET"}, True),
        ({**prefix("/a"), "method": "GET"}, prefix("/a"), False),
        ({**prefix("/a"), "method": ["GET", "PUT"]}, {"path": "/a/b", "method": "PUT", "source": "x"}, True),
        ({**prefix("/a"), "percent": 99}, {"path": "/a"}, False),
        ({"percent": 50}, {"percent": 50}, False),
        (prefix("/a"), {**prefix("/a"), "percent": 50}, True),
        ([prefix("/a"), prefix("/b")], {"path": "/b"}, True),
        ([prefix("/a"), prefix("/b")], [prefix("/b/c"), {"path": "/a"}], True),
        ([prefix("/a"), prefix("/b")], [prefix("/b/c"), {"path": "/c"}], False),
        ({"headers": {"x-a": {"present": True}}}, {"headers": {"X-A": "1"}}, True),
        ({"headers": {"x-a": {"present": True}}}, {"headers": {"x-b": "1"}}, False),
        ({"headers": {"x-a": {"prefix": "a"}}}, {"headers": {"x-a": {"prefix": "ab"}}}, True),
        ({"headers": {"x-a": {"contains": "b"}}}, {"headers": {"x-a": {"suffix": "abc"}}}, True),
        ({"headers": {"x-a": {"suffix": "b"}}}, {"headers": {"x-a": {"prefix": "b"}}}, False),
        ({"headers": {"x-a": {"not": "1"}}}, {"headers": {"x-a": {"present": False}}}, True),
        ({"headers": {"x-a": {"not": "1"}}}, {"headers": {"x-a": "2"}}, True),
        ({"headers": {"x-a": {"not": "1"}}}, {"headers": {"x-a": {"not": {"prefix": "1"}}}}, True),
        ({"headers": {"x-a": {"not": {"prefix": "1"}}}}, {"headers": {"x-a": {"not": "1"}}}, False),
        ({"query": {"a": {"present": True}}}, {"cookies": {"a": "1"}}, False),
    ],
)  # fmt: skip
def test_what_covers_what(wide: Any, narrow: Any, covered: bool) -> None:
    assert covers(condition(wide), condition(narrow)) is covered


texts = st.sampled_from(["", "a", "ab", "b", "ba"])
tests = st.recursive(
    st.one_of(
        texts,
        *(texts.map(lambda text, kind=kind: {kind: text}) for kind in ("prefix", "suffix", "contains")),
        st.sampled_from(["a*", "ab?", ".*"]).map(lambda text: {"regex": text}),
        st.booleans().map(lambda wanted: {"present": wanted}),
    ),
    lambda inner: inner.map(lambda test: {"not": test}),
    max_leaves=3,
)
paths = st.sampled_from(["/", "/a", "/a/", "/a/b", "/ab", "/b"])
matches = st.fixed_dictionaries(
    {},
    optional={
        "path": st.one_of(
            paths,
            paths.map(lambda p: {"prefix": p}),
            st.sampled_from(["/a.*", "/.*"]).map(lambda r: {"regex": r}),
        ),
        "method": st.lists(st.sampled_from(["GET", "PUT", "HEAD"]), min_size=1, max_size=2),
        "source": st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=2),
        "headers": st.dictionaries(st.sampled_from(["x-a", "x-b"]), tests, max_size=2),
        "query": st.dictionaries(st.just("q"), tests, max_size=1),
        "percent": st.sampled_from([0, 50, 100]),
    },
)
alternatives = st.one_of(st.none(), matches, st.lists(matches, min_size=1, max_size=3))


@st.composite
def requests(draw: st.DrawFn) -> RequestFacts:
    fields = tuple((name, draw(texts).encode()) for name in (b"x-a", b"x-b") if draw(st.booleans()))
    target = draw(paths) + (f"?q={draw(texts)}" if draw(st.booleans()) else "")
    method = draw(st.sampled_from(["GET", "PUT", "HEAD", "OPTIONS"]))
    return RequestFacts(method, "web", 80, target, fields, draw(st.sampled_from(["", "x", "y"])))


@given(alternatives, alternatives, st.lists(requests(), min_size=1, max_size=20), st.integers(0, 99))
@settings(max_examples=400)
def test_it_is_never_said_where_a_request_gets_past(
    wide: Any, narrow: Any, asked: list[RequestFacts], seed: int
) -> None:
    first, second = condition(wide), condition(narrow)
    if not covers(first, second):
        return
    for facts in asked:
        if second is None or second.holds(facts, Random(seed)):
            assert first is None or first.holds(facts, Random(seed + 1))
