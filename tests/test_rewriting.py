"""Where a request points after a rewrite, and where a redirect sends its caller."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.errors import PolicyErrors
from control.policy.facts import RequestFacts
from control.policy.reading import normalize, read_bytes
from control.policy.routes import CompiledRoute
from control.policy.snapshot import build


def routed(policy: str, facts: RequestFacts) -> CompiledRoute:
    documents = read_bytes(f"service: web\n{policy}".encode(), "test.yaml")
    snapshot = build(1, {each.policy.service: normalize(each.policy) for each in documents})
    return snapshot.services["web"].route(facts, Random(0))


def asked(target: str, port: int = 80, host: str = "web") -> RequestFacts:
    return RequestFacts("GET", host, port, target, ())


def rewritten(target: str, match: str, rewrite: str) -> str:
    facts = asked(target)
    route = routed(f"routes: [{{match: {match}, rewrite: {rewrite}}}]", facts)
    assert route.rewrite is not None, "the route does not match"
    assert route.rewrite.path is not None
    return route.rewrite.path.target(facts)


def redirected(url_scheme: str, port: int, target: str, redirect: str) -> str:
    facts = asked(target, port)
    route = routed(f"routes: [{{match: {{path: {{prefix: /a}}}}, redirect: {redirect}}}]", facts)
    assert route.redirect is not None
    return route.redirect.location(facts, url_scheme)


# Gateway API, HTTPPathModifier.
@pytest.mark.parametrize(
    ("path", "matched", "prefix", "becomes"),
    [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/bar", "/", "/xyz", "/xyz/bar"),
        ("/", "/", "/xyz", "/xyz/"),
        ("/foo/bar?a=b?c", "/foo", "/xyz", "/xyz/bar?a=b?c"),
        ("/foo?", "/foo", "/xyz", "/xyz?"),
        ("/%66oo/./b%2fr?%61", "/foo", "/xyz", "/xyz/b%2Fr?%61"),
        ("/foo/bar", "/foo", "/é x"[:2], "/%C3%A9/bar"),
        ("/foo//bar", "/foo", "/", "//bar"),
    ],
)
def test_a_prefix_is_replaced_as_gateway_api_says(path: str, matched: str, prefix: str, becomes: str) -> None:
    assert rewritten(path, f'{{path: {{prefix: "{matched}"}}}}', f'{{prefix: "{prefix}"}}') == becomes


@pytest.mark.parametrize(
    ("match", "target", "becomes"),
    [
        ("[{path: {prefix: /a}}, {path: {prefix: /a/b}}]", "/a/b/c", "/n/b/c"),
        ("[{path: {prefix: /a/b}}, {path: {prefix: /a}}]", "/a/b/c", "/n/c"),
        ("[{path: {prefix: /a}, method: POST}, {path: {prefix: /a/b}, method: GET}]", "/a/b/c", "/n/c"),
        ("[{path: {prefix: /a}, percent: 100}, {path: {prefix: /b}}]", "/b/c", "/n/c"),
    ],
)
def test_of_several_alternatives_the_prefix_of_the_one_that_matched_goes(
    match: str, target: str, becomes: str
) -> None:
    assert rewritten(target, match, "{prefix: /n}") == becomes


@pytest.mark.parametrize(
    ("path", "target", "becomes"),
    [
        ("/new", "/a/b?c=d", "/new?c=d"),
        ("/new", "/a", "/new"),
        ("/new?x=y", "/a/b?c=d", "/new?x=y"),
        ("/new?", "/a/b?c=d", "/new"),
    ],
)
def test_a_path_is_replaced_whole_and_the_query_stays_unless_there_is_a_new_one(
    path: str, target: str, becomes: str
) -> None:
    assert rewritten(target, "{path: {prefix: /a}}", f'{{path: "{path}"}}') == becomes


segments = st.text("abc.~-", min_size=1, max_size=3).filter(lambda text: text not in (".", ".."))
prefixes = st.lists(segments, max_size=3).map(lambda parts: "".join(f"/{part}" for part in parts))


@given(prefixes, st.lists(segments, max_size=3), prefixes, st.sampled_from(["", "?", "?q=/foo"]))
def test_what_follows_the_prefix_and_the_query_is_never_lost(
    matched: str, rest: list[str], prefix: str, query: str
) -> None:
    below = "".join(f"/{part}" for part in rest)
    path = matched + below or "/"
    becomes = rewritten(path + query, f'{{path: {{prefix: "{matched or "/"}"}}}}', f'{{prefix: "{prefix}"}}')
    kept = below or ("/" if path == "/" else "")
    assert becomes == (prefix + kept or "/") + query


@pytest.mark.parametrize(
    ("scheme", "port", "redirect", "location"),
    [
        ("http", 80, "{scheme: https}", "https://web/a/b?c=d"),
        ("http", 8080, "{scheme: https}", "https://web:8080/a/b?c=d"),
        ("http", 8080, "{scheme: https, port: 443}", "https://web/a/b?c=d"),
        ("http", 443, "{scheme: https}", "https://web/a/b?c=d"),
        ("https", 443, "{scheme: http}", "http://web/a/b?c=d"),
        ("https", 443, "{host: other}", "https://other/a/b?c=d"),
        ("https", 443, "{port: 80}", "https://web:80/a/b?c=d"),
        ("http", 8080, "{host: other}", "http://other:8080/a/b?c=d"),
        ("http", 8080, "{host: '[::1]', port: 80}", "http://[::1]/a/b?c=d"),
        ("http", 80, "{port: 8443, scheme: https}", "https://web:8443/a/b?c=d"),
        ("http", 80, "{path: /new}", "http://web/new?c=d"),
        ("http", 80, '{path: "/new?x=y"}', "http://web/new?x=y"),
        ("http", 80, "{prefix: /}", "http://web/b?c=d"),
        ("http", 80, "{prefix: /new, host: other, status: 308}", "http://other/new/b?c=d"),
    ],
)
def test_only_what_is_named_changes_in_a_location(
    scheme: str, port: int, redirect: str, location: str
) -> None:
    assert redirected(scheme, port, "/a/b?c=d", redirect) == location


def test_where_the_callers_host_is_not_known_the_path_alone_is_told_unless_it_would_name_a_host() -> None:
    for target, location in (("/a/b", "/b"), ("/a//evil.example", "http://web//evil.example")):
        facts = asked(target)
        route = routed("routes: [{match: {path: {prefix: /a}}, redirect: {prefix: /}}]", facts)
        assert route.redirect is not None
        assert route.redirect.location(facts, "http", host_known=False) == location


@pytest.mark.parametrize(
    ("policy", "redirect", "respond"),
    [
        ("respond: {}\nroutes: [{redirect: {scheme: https}}]", True, False),
        ("redirect: {scheme: https}\nroutes: [{respond: {}}]", False, True),
        ("redirect: {scheme: https}\nroutes: [{timeout: 1s}]", True, False),
    ],
)
def test_a_routes_own_answer_takes_the_place_of_the_documents(
    policy: str, redirect: bool, respond: bool
) -> None:
    route = routed(policy, asked("/"))
    assert (route.redirect is not None, route.respond is not None) == (redirect, respond)
    assert route.gated


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ("rewrite: {}", "rewrite: changes nothing: give it one of path, prefix, host"),
        ("redirect: {status: 301}", "redirect: changes nothing: give it one of scheme, host, port, path, prefix"),
        ("redirect: {scheme: https, status: 305}", "redirect.status: write 301, 302, 303, 307 or 308, got 305"),
        ("redirect: {scheme: ftp}", "redirect.scheme: write http or https"),
        ("redirect: {host: 'a:80'}", "redirect.host: write a host without a port"),
        ("redirect: {port: 0}", "redirect.port: at least 1, got 0"),
        ("rewrite: {host: '*.a.example'}", "rewrite.host: write a host or host:port"),
        ("rewrite: {path: v2}", "rewrite.path: write a path that starts with /"),
        ("rewrite: {path: '/a b'}", "rewrite.path: write a path that starts with /"),
        ("rewrite: {path: '/a#b'}", "rewrite.path: write a path that starts with /"),
        ("rewrite: {prefix: /v2}", "rewrite.prefix: there is no prefix to replace: move it to a route"),
        ("routes: [{rewrite: {prefix: /v2}}]", "routes[0].rewrite.prefix: there is no prefix to replace"),
        (
            "routes: [{match: [{path: {prefix: /a}}, {path: /b}], redirect: {prefix: /c}}]",
            "routes[0].redirect.prefix: there is no prefix to replace",
        ),
        (
            "routes: [{match: {path: {prefix: /a}}, rewrite: {prefix: v2}}]",
            "routes[0].rewrite.prefix: write what the path starts with instead",
        ),
        (
            "routes: [{match: {path: {prefix: /a}}, rewrite: {prefix: /b, path: /c}}]",
            "routes[0].rewrite: give path or prefix, not both",
        ),
        ("respond: {}\nredirect: {scheme: https}", "respond: a request gets one answer"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_a_remedy(policy: str, problem: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        read_bytes(f"service: web\n{policy}".encode(), "test.yaml")
    assert f": {problem}" in str(caught.value)
