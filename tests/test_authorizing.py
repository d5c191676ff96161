"""Rules of authorization: what each condition means, what is done where something cannot be told, and a plain second opinion."""

import fnmatch
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.policy.admission import admit, admit_tunnel
from control.policy.authorizing import NOBODY, Caller, Verdict
from control.policy.facts import RequestFacts
from tests.flows import snapshot

CHANCE = random.Random(1)


def caller(name: str) -> Caller:
    """A service of this mesh, a SPIFFE ID of another, or "" for nobody."""
    if not name:
        return NOBODY
    return Caller(name) if "://" in name else Caller(f"spiffe://mesh/service/{name}", name)


def asked(
    method: str = "GET", path: str = "/", headers: dict[str, str] | list[tuple[str, str]] = ()
) -> RequestFacts:
    fields = headers.items() if isinstance(headers, dict) else headers
    raw = tuple((name.encode(), value.encode()) for name, value in fields)
    return RequestFacts(method, "web", 80, path, raw)


def verdict(policy: str, who: str, facts: RequestFacts) -> Verdict:
    service = snapshot(f"service: web\n{policy}").services["web"]
    return admit(service, service.route(facts, CHANCE), facts, caller(who), CHANCE)


def allowed(rules: str, who: str = "a", *request: object) -> bool:
    return verdict(f"authorization: {rules}", who, asked(*request)).allowed


@pytest.mark.parametrize(
    ("rules", "who", "passes"),
    [
        ("{}", "", True),
        ("{allow: {from: a}}", "a", True),
        ("{allow: {from: A}}", "a", True),
        ("{allow: {from: a}}", "b", False),
        ("{allow: {from: a}}", "", False),
        ("{allow: {from: a}}", "spiffe://other/service/a", False),
        ("{allow: {from: [b, a]}}", "a", True),
        ("{allow: {from: 'web-*'}}", "web-1", True),
        ("{allow: {from: 'web-*'}}", "web", False),
        ("{allow: {from: '*'}}", "a", True),
        ("{allow: {from: '*'}}", "spiffe://other/x", True),
        ("{allow: {from: '*'}}", "", False),
        ("{allow: {from: 'a.b'}}", "aXb", False),
        ("{allow: {from: 'spiffe://mesh/service/a'}}", "a", True),
        ("{allow: {from: 'spiffe://other/*'}}", "spiffe://other/ns/x", True),
        ("{allow: {from: 'spiffe://other/*'}}", "a", False),
        ("{allow: {from: 'spiffe://other/ns/x'}}", "spiffe://other/ns/X", False),
        ("{allow: [{}]}", "", True),
        ("{deny: [{}]}", "a", False),
        ("{deny: {from: a}}", "a", False),
        ("{deny: {from: a}}", "b", True),
        ("{deny: {from: 'spiffe://other/*'}}", "spiffe://other/ns/x", False),
        ("{allow: {from: a}, deny: {from: '*'}}", "a", False),
    ],
)
def test_callers(rules, who, passes):
    assert allowed(rules, who) is passes


@pytest.mark.parametrize(
    "rules", ["{deny: {from: b}}", "{deny: {from: 'spiffe://other/x'}}", "{deny: {from: '*'}}"]
)
def test_who_is_unknown_may_be_the_denied_one(rules):
    assert not allowed(rules, "")


def test_a_deny_rule_asks_an_unknown_caller_for_all_the_rest():
    assert allowed("{deny: {from: b, paths: /x}}", "", "GET", "/y")
    assert not allowed("{deny: {from: b, paths: /x}}", "", "GET", "/x")


@pytest.mark.parametrize(
    ("rule", "request_", "holds"),
    [
        ("{methods: get}", ("GET",), True),
        ("{methods: [GET, HEAD]}", ("POST",), False),
        ("{paths: /a}", ("GET", "/a"), True),
        ("{paths: /a}", ("GET", "/a?b=/c"), True),
        ("{paths: /a}", ("GET", "/a/"), False),
        ("{paths: {prefix: /a}}", ("GET", "/a/b"), True),
        ("{paths: {prefix: /a}}", ("GET", "/ab"), False),
        ("{paths: [/x, {regex: '/a[0-9]'}]}", ("GET", "/a1"), True),
        ("{paths: {regex: '/a[0-9]'}}", ("GET", "/a12"), False),
        ("{headers: {X-Role: ops}}", ("GET", "/", {"x-role": "ops"}), True),
        ("{headers: {x-role: ops}}", ("GET", "/", {"x-role": "dev"}), False),
        ("{headers: {x-role: ops}}", ("GET", "/"), False),
        ("{headers: {x-role: {not: dev}}}", ("GET", "/"), True),
        ("{methods: GET, paths: /a, headers: {x: {present: true}}}", ("GET", "/a", {"x": ""}), True),
        ("{methods: GET, paths: /a, headers: {x: {present: true}}}", ("GET", "/a"), False),
    ],
)
def test_conditions_mean_the_same_in_both_lists(rule, request_, holds):
    assert allowed(f"{{allow: {rule}}}", "a", *request_) is holds
    assert allowed(f"{{deny: {rule}}}", "a", *request_) is not holds


def test_each_value_of_a_header_that_stands_there_twice_counts_against_the_request():
    twice = ("GET", "/", [("x-role", "ops"), ("X-Role", "dev")])
    assert not allowed("{deny: {headers: {x-role: dev}}}", "a", *twice)
    assert not allowed("{deny: {headers: {x-role: ops}}}", "a", *twice)
    assert not allowed("{allow: {headers: {x-role: ops}}}", "a", *twice)
    assert not allowed("{allow: {headers: {x-role: {not: dev}}}}", "a", *twice)
    assert allowed("{allow: {headers: {x-role: {regex: '.*(ops|dev)'}}}}", "a", *twice)


def test_a_method_in_small_letters_is_denied_and_not_allowed():
    assert not allowed("{deny: {methods: POST}}", "a", "post")
    assert not allowed("{allow: {methods: POST}}", "a", "post")


def test_the_verdict_names_the_rule():
    policy = "authorization: {deny: [{paths: /x}, {paths: /y}], allow: [{from: b}, {from: a}]}"
    assert verdict(policy, "a", asked("GET", "/y")) == Verdict(False, "deny[1]")
    assert verdict(policy, "a", asked()) == Verdict(True, "allow[1]")
    assert verdict(policy, "c", asked()) == Verdict(False, "")
    assert verdict("timeout: 1s", "", asked()) == Verdict(True)


def test_audit_refuses_nothing_and_says_what_it_would():
    policy = "authorization: {audit: true, allow: {from: a}}"
    told = verdict(policy, "b", asked())
    assert (told.allowed, told.audit, told.refused) == (False, True, False)
    assert verdict(policy, "a", asked()) == Verdict(True, "allow[0]")


ADMIN = """
authorization: {deny: {paths: {prefix: /admin}}}
"""
BY_ROUTE = """
routes: [{match: {path: {prefix: /admin}}, authorization: {allow: {from: ops}}}]
"""
DISGUISES = [
    *(
        "/admin",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/%61dmin",
        "/%2fadmin",
        "/x%2f..%2fadmin/",
        "/admin;a=1",
    ),
    *(
        "/x/..;/admin",
        "/x\\..\\admin",
        "/%252fadmin",
        "/admin%00",
        "/public//../admin/users",
        "/admin/../admin",
    ),
    *("/admin%2fusers", "/" + "%2f" * 3000, "/admin/../x"),
]


@pytest.mark.parametrize("policy", [ADMIN, BY_ROUTE, "authorization: {allow: {paths: {prefix: /public}}}"])
@pytest.mark.parametrize("path", DISGUISES, ids=range(len(DISGUISES)))
def test_a_rule_on_a_path_cannot_be_got_around(policy, path):
    assert not verdict(policy, "web", asked("GET", path)).allowed


def test_odd_paths_pass_that_no_reading_speaks_against():
    assert verdict(ADMIN, "a", asked("GET", "/projects/a%2Fb")).allowed
    assert verdict(BY_ROUTE, "a", asked("GET", "/x//y;z=1")).allowed
    assert verdict(BY_ROUTE, "ops", asked("GET", "//admin")).allowed
    assert allowed("{allow: {paths: {prefix: /projects}}}", "a", "GET", "/projects/a%2Fb")


def test_a_reading_that_is_only_audited_is_told_of():
    policy = "routes: [{match: {path: /admin}, authorization: {audit: true, allow: {from: ops}}}]"
    told = verdict(policy, "a", asked("GET", "//admin"))
    assert (told.allowed, told.refused) == (False, False)


@pytest.mark.parametrize(
    ("policy", "who", "passes", "anything"),
    [
        ("timeout: 1s", "", True, True),
        ("authorization: {allow: {from: a}}", "a", True, True),
        ("authorization: {allow: {from: a}}", "b", False, False),
        ("authorization: {allow: {from: a}}", "", False, False),
        ("authorization: {allow: {from: a, paths: /x}}", "a", True, False),
        ("authorization: {allow: [{from: a, paths: /x}, {from: a}]}", "a", True, True),
        ("authorization: {deny: {from: a}}", "a", False, False),
        ("authorization: {deny: {from: a, methods: POST}}", "a", True, False),
        ("authorization: {deny: {from: a, methods: POST}}", "b", True, True),
        ("authorization: {deny: {from: a, methods: POST}}", "", True, False),
        ("authorization: {audit: true, allow: {from: a, paths: /x}}", "a", True, True),
        ("authorization: {audit: true, allow: {from: a}}", "b", False, True),
        (
            "authorization: {allow: {from: a}}\nroutes: [{match: {path: /x}, authorization: {}}]",
            "b",
            True,
            False,
        ),
        ("routes: [{match: {path: /x}, authorization: {allow: {from: a}}}]", "b", True, False),
    ],
)
def test_tunnels(policy, who, passes, anything):
    service = snapshot(f"service: web\n{policy}").services["web"]
    told, may_be_anything = admit_tunnel(service, caller(who))
    assert (told.allowed, may_be_anything) == (passes, anything)
    if "audit" in policy:
        assert not told.refused


# A second opinion, written from the documentation and from nothing else.

NAMES = ["a", "ab", "b", "spiffe://other/a", "spiffe://mesh/service/b"]
PATTERNS = ["a", "a*", "*", "b", "spiffe://mesh/*", "spiffe://*/a", "spiffe://other/a"]
PATHS = ["/", "/a", "/a/b", "/ab", "/b"]
VALUES = ["x", "y", "xy"]
some = lambda values: st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)  # noqa: E731
path_matchers = st.one_of(
    st.sampled_from(PATHS),
    st.builds(lambda path: {"prefix": path}, st.sampled_from(PATHS)),
)
rules = st.fixed_dictionaries(
    {},
    optional={
        "from": some(PATTERNS),
        "methods": some(["GET", "POST"]),
        "paths": st.lists(path_matchers, min_size=1, max_size=2),
        "headers": st.dictionaries(
            st.sampled_from(["x-a", "x-b"]), st.sampled_from(VALUES), min_size=1, max_size=2
        ),
    },
)
authorizations = st.fixed_dictionaries(
    {},
    optional={
        "allow": st.lists(rules, min_size=1, max_size=3),
        "deny": st.lists(rules, min_size=1, max_size=3),
    },
)


def second_opinion(rules: dict, who: str, method: str, path: str, headers: dict[str, str]) -> bool:
    """Whether a request with a plain path, and each header once, may pass."""
    spiffe = who if "://" in who or not who else f"spiffe://mesh/service/{who}"
    service = (
        spiffe.removeprefix("spiffe://mesh/service/") if spiffe.startswith("spiffe://mesh/service/") else ""
    )

    def is_from(pattern: str) -> bool:
        if pattern == "*":
            return spiffe != ""
        return fnmatch.fnmatchcase(spiffe if "://" in pattern else service, pattern)

    def fits_path(matcher: str | dict) -> bool:
        if isinstance(matcher, str):
            return path == matcher
        prefix = matcher["prefix"].rstrip("/")
        return path == prefix or path.startswith(prefix + "/")

    def rest_holds(rule: dict) -> bool:
        return (
            method in rule.get("methods", [method])
            and any(map(fits_path, rule.get("paths", [path])))
            and all(headers.get(name) == value for name, value in rule.get("headers", {}).items())
        )

    for rule in rules.get("deny", ()):
        if rest_holds(rule) and ("from" not in rule or not who or any(map(is_from, rule["from"]))):
            return False
    if "allow" not in rules:
        return True
    return any(
        rest_holds(rule) and ("from" not in rule or any(map(is_from, rule["from"])))
        for rule in rules["allow"]
    )


@settings(max_examples=400)
@given(
    rules=authorizations,
    who=st.sampled_from(["", *NAMES]),
    method=st.sampled_from(["GET", "POST", "PUT"]),
    path=st.sampled_from(PATHS),
    headers=st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(VALUES)),
)
def test_it_agrees_with_a_second_opinion(rules, who, method, path, headers):
    import json

    if who == "spiffe://mesh/service/b":
        who = "b"
    found = verdict(f"authorization: {json.dumps(rules)}", who, asked(method, path, headers))
    assert found.allowed is second_opinion(rules, who, method, path, headers)
