"""Conditions against an evaluator written plainly from the language's description."""

import re
from random import Random
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.facts import RequestFacts
from control.policy.matching import Condition, compile_match
from control.policy.model import Policy


class NoChance(Random):
    def random(self) -> float:
        raise AssertionError("nothing here is left to chance")


def compiled(match: Any) -> Condition | None:
    return compile_match(
        Policy.model_validate({"service": "s", "routes": [{"match": match}]}).routes[0].match
    )


def holds(match: Any, facts: RequestFacts, random: Random | None = None) -> bool:
    condition = compiled(match)
    return condition is None or condition.holds(facts, NoChance() if random is None else random)


def request(
    method: str = "GET",
    target: str = "/",
    headers: dict[str, str] | None = None,
    source: str = "",
) -> RequestFacts:
    fields = tuple((name.encode(), value.encode()) for name, value in (headers or {}).items())
    return RequestFacts(method, "s", 80, target, fields, source)


# ---- the plain evaluator


def plainly_text(matcher: Any, value: str | None) -> bool:
    if isinstance(matcher, str):
        matcher = {"exact": matcher}
    ((kind, wanted),) = matcher.items()
    if kind == "present":
        return (value is not None) == wanted
    if kind == "not":
        return not plainly_text(wanted, value)
    if value is None:
        return False
    return {
        "exact": lambda: value == wanted,
        "prefix": lambda: value.startswith(wanted),
        "suffix": lambda: value.endswith(wanted),
        "contains": lambda: wanted in value,
        "regex": lambda: re.fullmatch(wanted, value, re.DOTALL) is not None,
    }[kind]()


def plainly_path(matcher: Any, path: str) -> bool:
    if isinstance(matcher, str):
        return path == matcher
    if "exact" in matcher:
        return bool(path == matcher["exact"])
    if "regex" in matcher:
        return re.fullmatch(matcher["regex"], path) is not None
    wanted = [segment for segment in matcher["prefix"].split("/") if segment]
    return path.split("/")[1 : 1 + len(wanted)] == wanted


def plainly(match: Any, facts: dict[str, Any]) -> bool:
    if isinstance(match, list):
        return any(plainly(each, facts) for each in match)
    methods = match.get("method", facts["method"])
    sources = match.get("source", facts["source"])
    return (
        facts["method"] in ([methods] if isinstance(methods, str) else methods)
        and facts["source"] in ([sources] if isinstance(sources, str) else sources)
        and ("path" not in match or plainly_path(match["path"], facts["path"]))
        and all(
            plainly_text(matcher, facts[where].get(name))
            for where in ("headers", "query", "cookies")
            for name, matcher in match.get(where, {}).items()
        )
    )


NAMES = st.sampled_from(["x-a", "x-b"])
VALUES = st.text(alphabet="ab", max_size=3)
METHODS = st.sampled_from(["GET", "POST"])
SOURCES = st.sampled_from(["web", "cart"])
REGEXES = st.sampled_from(["a*", "[ab]", "a.*b", "b?a+", ""])
MATCHERS = st.recursive(
    VALUES
    | st.builds(
        lambda kind, value: {kind: value}, st.sampled_from(["exact", "prefix", "suffix", "contains"]), VALUES
    )
    | st.builds(lambda value: {"regex": value}, REGEXES)
    | st.builds(lambda value: {"present": value}, st.booleans()),
    lambda inner: st.builds(lambda matcher: {"not": matcher}, inner),
    max_leaves=2,
)
PATHS = st.lists(st.sampled_from(["a", "ab", "b"]), max_size=3).map(lambda parts: "/" + "/".join(parts))
PATH_MATCHERS = (
    PATHS
    | st.builds(lambda path: {"exact": path}, PATHS)
    | st.builds(lambda path: {"prefix": path}, PATHS)
    | st.builds(
        lambda regex: {"regex": regex}, st.sampled_from(["/a.*", "/[ab]", "/", "/(a|b)(/.*)?", ".*b"])
    )
)
ONE_MATCH = st.fixed_dictionaries(
    {},
    optional={
        "path": PATH_MATCHERS,
        "method": METHODS | st.lists(METHODS, min_size=1, unique=True),
        "source": SOURCES | st.lists(SOURCES, min_size=1, unique=True),
        "headers": st.dictionaries(NAMES, MATCHERS, min_size=1),
        "query": st.dictionaries(NAMES, MATCHERS, min_size=1),
        "cookies": st.dictionaries(NAMES, MATCHERS, min_size=1),
    },
)
MATCHES = ONE_MATCH | st.lists(ONE_MATCH, min_size=1, max_size=3)
PLAIN_FACTS = st.fixed_dictionaries(
    {
        "method": METHODS,
        "source": SOURCES,
        "path": PATHS,
        "headers": st.dictionaries(NAMES, VALUES),
        "query": st.dictionaries(NAMES, VALUES),
        "cookies": st.dictionaries(NAMES, VALUES),
    }
)


def as_request(facts: dict[str, Any]) -> RequestFacts:
    headers = {name.upper(): value for name, value in facts["headers"].items()}
    if facts["cookies"]:
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in facts["cookies"].items())
    query = "&".join(f"{name}={quote(value)}" for name, value in facts["query"].items())
    return request(facts["method"], facts["path"] + ("?" + query if query else ""), headers, facts["source"])


@given(MATCHES, PLAIN_FACTS)
def test_conditions_hold_where_the_description_says_so(match: Any, facts: dict[str, Any]) -> None:
    assert holds(match, as_request(facts)) is plainly(match, facts)


@given(MATCHES, PLAIN_FACTS)
def test_there_is_a_reason_exactly_where_a_condition_does_not_hold(match: Any, facts: dict[str, Any]) -> None:
    condition = compiled(match)
    if condition is not None:
        asked = as_request(facts)
        assert bool(condition.why_not(asked)) is not condition.holds(asked, NoChance())


# ---- what a generator does not think of


@pytest.mark.parametrize(
    ("prefix", "path", "matches"),
    [
        ("/foo", "/foo", True),
        ("/foo", "/foo/", True),
        ("/foo", "/foo/x", True),
        ("/foo", "/foobar", False),
        ("/foo/", "/foo", True),
        ("/foo/", "/foo/x", True),
        ("/foo/", "/foobar", False),
        ("/", "/anything", True),
        ("/", "/", True),
        ("/", "*", False),
        ("/caf\u00e9", "/caf%C3%A9/x", True),
        ("/caf%c3%a9", "/caf%C3%A9", True),
        ("/caf\u00e9", "/caf\u00c3\u00a9", True),
        ("/a b", "/a%20b/c", True),
        ("/a", "/b/../a/x", True),
        ("/a", "/a/../b", False),
        ("/a", "/%61/x", True),
    ],
)
def test_a_prefix_is_whole_segments_of_the_normalized_path(prefix: str, path: str, matches: bool) -> None:
    assert holds({"path": {"prefix": prefix}}, request(target=path)) is matches


@pytest.mark.parametrize(
    ("match", "asked", "matches"),
    [
        ({"path": "/x"}, request(target="/x?y=1"), True),
        ({"path": "/X"}, request(target="/x"), False),
        ({"path": {"regex": "/v[0-9]+"}}, request(target="/v12"), True),
        ({"path": {"regex": "/v[0-9]+"}}, request(target="/v12/x"), False),
        ({"method": "get"}, request(), True),
        ({"method": "GET"}, request(method="get"), False),
        ({"headers": {"X-User": "ann"}}, request(headers={"x-USER": "ann"}), True),
        ({"headers": {"x-user": "ann"}}, request(headers={"x-user": "ANN"}), False),
        ({"headers": {"x-user": {"not": "ann"}}}, request(), True),
        ({"headers": {"x-user": {"not": {"present": True}}}}, request(), True),
        ({"headers": {"x-user": ""}}, request(headers={"x-user": ""}), True),
        ({"headers": {"x-user": ""}}, request(), False),
        ({"headers": {"x-user": {"regex": "a.c"}}}, request(headers={"x-user": "a\nc"}), False),
        ({"source": "Web"}, request(source="web"), True),
        ({"source": "web"}, request(source="WEB"), True),
        ({"source": "web"}, request(), False),
        ({"cookies": {"uid": {"present": True}}}, request(headers={"cookie": "uid="}), True),
        ({"query": {"debug": {"present": True}}}, request(target="/?debug"), True),
        ({}, request(), True),
        ([{"path": "/a"}, {}], request(target="/b"), True),
        (None, request(), True),
    ],
)
def test_particular_cases(match: Any, asked: RequestFacts, matches: bool) -> None:
    assert holds(match, asked) is matches


def test_percent_is_that_share_and_only_of_requests_that_match_otherwise() -> None:
    random, n, p = Random(11), 20_000, 0.1
    match = {"percent": 10, "headers": {"x-user": "ann"}}
    taken = sum(holds(match, request(headers={"x-user": "ann"}), random) for _ in range(n))
    assert abs(taken - n * p) < 3 * (n * p * (1 - p)) ** 0.5
    assert not holds(match, request(), NoChance())


def test_percent_0_and_100_are_sure() -> None:
    assert not any(holds({"percent": 0}, request(), Random(seed)) for seed in range(100))
    assert holds({"percent": 100}, request(), NoChance())


@pytest.mark.parametrize(
    ("match", "asked", "reason"),
    [
        (
            {"headers": {"x-group": "qa"}},
            request(headers={"X-Group": "dev"}),
            'header x-group is "dev", not "qa"',
        ),
        ({"headers": {"x-user": {"present": True}}}, request(), "header x-user is absent"),
        ({"headers": {"x-user": "ann"}}, request(), "header x-user is absent"),
        (
            {"headers": {"x-user": {"present": False}}},
            request(headers={"x-user": "a"}),
            "header x-user is present",
        ),
        (
            {"headers": {"x-user": {"not": "ann"}}},
            request(headers={"x-user": "ann"}),
            'header x-user is "ann", which is excluded',
        ),
        (
            {"headers": {"x-user": {"not": {"present": False}}}},
            request(),
            "header x-user is absent, which is excluded",
        ),
        (
            {"query": {"v": {"prefix": "2"}}},
            request(target="/?v=1"),
            'query v is "1", which does not start with "2"',
        ),
        (
            {"query": {"v": {"suffix": "2"}}},
            request(target="/?v=1"),
            'query v is "1", which does not end with "2"',
        ),
        (
            {"query": {"v": {"contains": "2"}}},
            request(target="/?v=1"),
            'query v is "1", which does not contain "2"',
        ),
        (
            {"cookies": {"uid": {"regex": "[a-z]+"}}},
            request(headers={"cookie": "uid=1"}),
            'cookie uid is "1", which does not match the regex [a-z]+',
        ),
        ({"path": {"prefix": "/api"}}, request(target="/x"), "path /x has not the prefix /api"),
        ({"path": "/api"}, request(target="/x"), "path /x is not /api"),
        ({"path": {"regex": "/a+"}}, request(target="/x"), "path /x does not match the regex /a+"),
        ({"method": "GET"}, request(method="POST"), "method POST is not GET"),
        ({"method": ["GET", "HEAD"]}, request(method="POST"), "method POST is not GET or HEAD"),
        ({"source": "checkout"}, request(source="web"), "source web is not checkout"),
        ({"source": "checkout"}, request(), "source is unknown, not checkout"),
        ({"percent": 10}, request(), "takes 10 % of such requests at random"),
        ({"percent": 0.5, "path": "/"}, request(), "takes 0.5 % of such requests at random"),
        ({"percent": 10, "path": "/a"}, request(target="/x"), "path /x is not /a"),
        (
            {"path": {"prefix": "/api"}, "method": "GET"},
            request(method="POST", target="/x"),
            "method POST is not GET and path /x has not the prefix /api",
        ),
        (
            [{"path": "/a"}, {"method": "POST"}],
            request(target="/x"),
            "path /x is not /a; or method GET is not POST",
        ),
        (
            {"headers": {"x-long": "a"}},
            request(headers={"x-long": "b" * 500}),
            f'header x-long is "{"b" * 80}...", not "a"',
        ),
    ],
)
def test_reasons(match: Any, asked: RequestFacts, reason: str) -> None:
    condition = compiled(match)
    assert condition is not None
    assert condition.why_not(asked) == reason
