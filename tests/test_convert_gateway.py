"""Gateway API's HTTPRoute converted: each kind of its examples routes as that project says, asked of `explain`."""

import textwrap
from typing import Any

import pytest

from control.convert.converting import Converted, convert
from control.policy.explain import explain
from control.policy.facts import RequestFacts
from control.policy.model import Policy
from control.policy.reading import normalize
from control.policy.snapshot import build
from control.policy.yaml_text import trees


def converted(text: str, port: int = 80) -> Converted:
    found, strange = trees(textwrap.dedent(text))
    assert not strange
    return convert([(tree, "test.yaml") for tree in found], port)


def policies(text: str) -> dict[str, Policy]:
    """The documents, of which nothing may be lost."""
    found = converted(text)
    assert [str(lost) for lost in found.report.lost] == []
    return {document.policy.service: document.policy for document in found.documents}


def lost(text: str) -> list[str]:
    """`line: field: why` of all that was left out."""
    return [f"{each.line}: {each.field}: {each.message}" for each in converted(text).report.lost]


def asked(documents: dict[str, Policy], method: str, url: str, **headers: str) -> dict[str, Any]:
    """What happens to a request for `host/path`; x_user="7" is the header x-user."""
    snapshot = build(1, {name: normalize(policy) for name, policy in documents.items()})
    authority, slash, path = url.partition("/")
    host, _, port = authority.partition(":")
    fields = [(b"host", authority.encode())]
    fields += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    facts = RequestFacts(method, host, int(port or 80), slash + path, tuple(fields))
    return explain(snapshot, facts).data()


def goes_to(documents: dict[str, Policy], method: str, url: str, **headers: str) -> Any:
    """Version to share in per cent, or the status of the proxy's own answer."""
    data = asked(documents, method, url, **headers)
    if "respond" in data:
        return data["respond"]["status"]
    return {share["version"]: round(100 * share["share"], 3) for share in data["to"]}


def route(spec: str, name: str = "store") -> str:
    return (
        f"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n"
        + textwrap.indent(textwrap.dedent(spec), "  ")
    )


SIMPLE = route("""
    parentRefs: [{name: edge}]
    hostnames: [shop.example]
    rules:
    - matches: [{path: {type: PathPrefix, value: /cart}}]
      backendRefs: [{name: cart, port: 8080}]
    - matches: [{path: {type: Exact, value: /cart/total}}]
      backendRefs: [{name: sums, namespace: money, port: 9000}]
    - backendRefs: [{name: front, port: 80}]
""")


@pytest.mark.parametrize(
    ("url", "version"),
    [
        ("shop.example/cart", "cart"),
        ("shop.example/cart/", "cart"),
        ("shop.example/cart/7?x=1", "cart"),
        ("shop.example/carts", "front"),
        ("shop.example/cart/total", "sums.money"),
        ("shop.example/cart/total/", "cart"),
        ("shop.example/", "front"),
    ],
)
def test_simple_routing(url: str, version: str) -> None:
    documents = policies(SIMPLE)
    assert goes_to(documents, "GET", url) == {version: 100}
    endpoints = documents["shop.example"].endpoints
    assert endpoints is not None
    assert {name: each[0].address for name, each in endpoints.items()} == {
        "cart": "cart:8080",
        "sums.money": "sums.money:9000",
        "front": "front:80",
    }


SPLIT = route("""
    parentRefs: [{name: edge}]
    hostnames: [shop.example]
    rules:
    - backendRefs: [{name: v1, port: 80, weight: 90}, {name: v2, port: 80, weight: 10}, {name: v3, port: 80, weight: 0}]
    - matches: [{headers: [{name: Traffic, value: test}]}]
      backendRefs: [{name: v2, port: 80}]
""")


def test_traffic_splitting() -> None:
    documents = policies(SPLIT)
    assert goes_to(documents, "GET", "shop.example/") == {"v1": 90, "v2": 10, "v3": 0}
    assert goes_to(documents, "GET", "shop.example/", traffic="test") == {"v2": 100}


# Written in the order that is wrong for a mesh in which the first match wins.
PRECEDENCE = route("""
    parentRefs: [{name: edge}]
    hostnames: [shop.example]
    rules:
    - {name: all, backendRefs: [{name: a, port: 1}]}
    - {name: one query, matches: [{queryParams: [{name: q, value: "1"}]}], backendRefs: [{name: b, port: 1}]}
    - {name: one header, matches: [{headers: [{name: x, value: "1"}]}], backendRefs: [{name: c, port: 1}]}
    - name: two headers
      matches: [{headers: [{name: x, value: "1"}, {name: y, value: "1"}]}]
      backendRefs: [{name: d, port: 1}]
    - {name: method, matches: [{method: POST}], backendRefs: [{name: e, port: 1}]}
    - {name: prefix, matches: [{path: {value: /a}}], backendRefs: [{name: f, port: 1}]}
    - {name: longer, matches: [{path: {value: /a/b}}], backendRefs: [{name: g, port: 1}]}
    - {name: expression, matches: [{path: {type: RegularExpression, value: "/a/[0-9]+"}}], backendRefs: [{name: h, port: 1}]}
    - {name: exact, matches: [{path: {type: Exact, value: /a/1}}], backendRefs: [{name: i, port: 1}]}
    - name: either
      matches: [{path: {value: /a/b/c}}, {method: PUT}]
      backendRefs: [{name: j, port: 1}]
    - {name: too late, matches: [{path: {type: Exact, value: /a/1}}], backendRefs: [{name: k, port: 1}]}
""")


@pytest.mark.parametrize(
    ("method", "path", "headers", "version"),
    [
        ("GET", "/", {}, "a"),
        ("GET", "/?q=1", {}, "b"),
        ("GET", "/?q=1", {"x": "1"}, "c"),
        ("GET", "/?q=1", {"x": "1", "y": "1"}, "d"),
        ("POST", "/?q=1", {"x": "1", "y": "1"}, "e"),
        ("POST", "/a", {"x": "1", "y": "1"}, "f"),
        ("POST", "/a/b", {"x": "1"}, "g"),
        ("POST", "/a/22", {}, "h"),
        ("POST", "/a/1", {}, "i"),
        ("GET", "/a/b/c/d", {}, "j"),
        ("PUT", "/x", {"x": "1"}, "j"),
        ("PUT", "/a/b", {}, "g"),
    ],
)
def test_the_more_specific_goes_first_wherever_it_stands(
    method: str, path: str, headers: Any, version: str
) -> None:
    assert goes_to(policies(PRECEDENCE), method, f"shop.example{path}", **headers) == {version: 100}


def test_what_no_rule_matches_is_404_and_what_has_no_backend_500() -> None:
    documents = policies(
        route("""
            parentRefs: [{name: edge}]
            hostnames: [shop.example]
            rules:
            - matches: [{path: {value: /a}}]
              backendRefs: [{name: a, port: 1}]
            - matches: [{path: {value: /none}}]
            - matches: [{path: {value: /off}}]
              backendRefs: [{name: a, port: 1, weight: 0}]
        """)
    )
    assert goes_to(documents, "GET", "shop.example/a/x") == {"a": 100}
    assert goes_to(documents, "GET", "shop.example/") == 404
    assert goes_to(documents, "GET", "shop.example/none") == 500
    assert goes_to(documents, "GET", "shop.example/off") == 500


def test_several_routes_of_one_host_are_one_and_a_wildcard_stands_behind() -> None:
    documents = policies(
        "\n---\n".join(
            [
                route(
                    "{hostnames: ['*.example'], rules: [{matches: [{path: {value: /w}}], backendRefs: [{name: w, port: 1}]}]}",
                    "wild",
                ),
                route(
                    "{hostnames: [a.example], rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: a, port: 1}]}]}"
                ),
                route(
                    "{hostnames: [a.example, b.example], rules: [{matches: [{path: {type: Exact, value: /a/b}}], backendRefs: [{name: b, port: 1}]}]}",
                    "both",
                ),
            ]
        )
    )
    assert {name: list(each.hosts) for name, each in documents.items()} == {
        "a.example": [],
        "b.example": [],
        "wild": ["*.example"],
    }
    for host, path, wanted in (
        ("a.example", "/a", {"a": 100}),
        ("a.example", "/a/b", {"b": 100}),
        ("a.example", "/w", {"w": 100}),
        ("b.example", "/a", 404),
        ("b.example", "/a/b", {"b": 100}),
        ("c.example", "/a/b", 404),
        ("c.example", "/w", {"w": 100}),
    ):
        assert goes_to(documents, "GET", host + path) == wanted, (host, path)


REWRITES = route("""
    hostnames: [shop.example]
    rules:
    - matches: [{path: {value: /old}}]
      filters:
      - {type: URLRewrite, urlRewrite: {hostname: new.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
      backendRefs: [{name: a, port: 1}]
    - matches: [{path: {value: /whole}}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}]
      backendRefs: [{name: a, port: 1}]
    - matches: [{headers: [{name: x, value: "1"}]}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /below}}}]
      backendRefs: [{name: a, port: 1}]
    - matches: [{path: {value: /moved}}]
      filters:
      - type: RequestRedirect
        requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /here}, statusCode: 301}
    - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: safe.example}}]
""")


def test_rewrites_and_redirects() -> None:
    documents = policies(REWRITES)

    def field(name: str, path: str, **headers: str) -> Any:
        return asked(documents, "GET", f"shop.example{path}", **headers).get(name)

    assert field("rewrite", "/old/x") == {"host": "new.example", "prefix": "/new"}
    assert field("rewrite", "/whole/x") == {"path": "/one"}
    assert field("rewrite", "/any/x", x="1") == {"prefix": "/below"}
    assert field("redirect", "/moved/x")["status"] == 301
    assert field("redirect", "/moved/x")["prefix"] == "/here"
    assert field("redirect", "/") == {"scheme": "https", "host": "safe.example", "port": 443}


def test_headers_timeouts_and_retries() -> None:
    documents = policies(
        route("""
            hostnames: [shop.example]
            rules:
            - filters:
              - type: RequestHeaderModifier
                requestHeaderModifier: {set: [{name: X-A, value: "1"}], add: [{name: X-B, value: "2"}], remove: [X-C]}
              - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-D, value: "3"}]}}
              timeouts: {request: 1m30s, backendRequest: 500ms}
              retry: {codes: [500, 503], attempts: 2, backoff: 100ms}
              backendRefs:
              - name: a
                port: 1
                filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-E, value: "4"}]}}]
        """)
    )
    data = asked(documents, "POST", "shop.example/")
    assert data["request_headers"] == {
        "set": {"x-a": "1", "x-e": "4"},
        "add": {"x-b": "2"},
        "remove": ["x-c"],
    }
    assert data["response_headers"] == {"add": {"x-d": "3"}}
    assert data["timeout"] == "90s"
    retry = data["retry"]
    assert (retry["attempts"], retry["per_try_timeout"]) == (3, "500ms")
    assert retry["on"] == ["connect-failure", "reset", "timeout", 500, 503]
    assert retry["backoff"] == {"base": "100ms", "max": "1s"}
    assert "POST" in retry["methods"]


def test_mirrors_and_websites() -> None:
    documents = policies(
        route("""
            hostnames: [shop.example]
            rules:
            - filters:
              - {type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 9}, fraction: {numerator: 1, denominator: 8}}}
              - type: CORS
                cors:
                  allowOrigins: ["https://a.example", "https://*.b.example"]
                  allowMethods: [GET, PUT]
                  allowHeaders: [X-A]
                  exposeHeaders: [X-B]
                  allowCredentials: true
                  maxAge: 600
              backendRefs: [{name: a, port: 1}]
        """)
    )
    found = documents["shop.example"].routes[0].document()
    assert found["mirror"] == {"to": "copy", "percent": 12.5}
    assert found["cors"] == {
        "allow_origins": [{"exact": "https://a.example"}, {"regex": "https://[^/]+\\.b\\.example"}],
        "allow_methods": ["GET", "PUT"],
        "allow_headers": ["x-a"],
        "expose_headers": ["x-b"],
        "allow_credentials": True,
        "max_age": "10m",
    }
    endpoints = documents["shop.example"].endpoints
    assert endpoints is not None
    assert endpoints["copy"][0].address == "copy:9"


def test_matchers_of_headers_queries_and_methods() -> None:
    documents = policies(
        route("""
            hostnames: [shop.example]
            rules:
            - matches:
              - method: GET
                headers: [{type: RegularExpression, name: User, value: "j.*"}, {name: user, value: ignored}]
                queryParams: [{name: page, type: RegularExpression, value: "[0-9]+"}]
              backendRefs: [{name: a, port: 1}]
        """)
    )
    assert goes_to(documents, "GET", "shop.example/?page=12", user="jane") == {"a": 100}
    for method, query, user in (("POST", "12", "jane"), ("GET", "x", "jane"), ("GET", "12", "bob")):
        assert goes_to(documents, method, f"shop.example/?page={query}", user=user) == 404


def test_a_route_of_a_service() -> None:
    documents = policies(
        route("""
            parentRefs: [{group: "", kind: Service, name: reviews, port: 9080}, {group: "", kind: Service, name: old}]
            rules: [{backendRefs: [{name: reviews-v2, port: 9080}]}]
        """)
    )
    assert goes_to(documents, "GET", "reviews:9080/") == {"reviews-v2": 100}
    assert goes_to(documents, "GET", "old:1/") == {"reviews-v2": 100}
    assert goes_to(documents, "GET", "reviews:1/") == {}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{hostnames: [a.x], parentRefs: [{name: g, sectionName: tls}]}", "5: spec.parentRefs[0].sectionName: listen"),
        ("{hostnames: [a.x], parentRefs: [{name: g, port: 443}]}", "5: spec.parentRefs[0].port: listeners"),
        ("{parentRefs: [{name: g}]}", "5: spec.hostnames: none: the hosts of its gateway are not known"),
        ("{hostnames: [a.x], other: 1}", "5: spec.other: no counterpart here"),
        ("{hostnames: ['1.2.3']}", "5: spec.hostnames[0]: not an IPv4 address"),
        ("{hostnames: [a.x], rules: [{sessionPersistence: {}}]}", "5: spec.rules[0].sessionPersistence: no counter"),
        ("{hostnames: [a.x], rules: [{filters: [{type: ExtensionRef}]}]}", "5: spec.rules[0].filters[0]: ExtensionR"),
        ("{hostnames: [a.x], rules: [{backendRefs: [{name: a}]}]}", "spec.rules[0].backendRefs[0]: a port is needed"),
        (
            "{hostnames: [a.x], rules: [{backendRefs: [{kind: Bucket, name: a, port: 1}]}]}",
            "spec.rules[0].backendRefs[0]: Bucket: no counterpart here; only services are",
        ),
        (
            "{hostnames: [a.x], rules: [{backendRefs: [{name: a, port: 1, filters: [{type: X}]}, {name: b, port: 1}]}]}",
            "spec.rules[0].backendRefs[0].filters: filters of one backend among several",
        ),
        (
            "{hostnames: [a.x], rules: [{matches: [{path: {type: Odd, value: /}}], backendRefs: [{name: a, port: 1}]}]}",
            "spec.rules[0].matches[0].path.type: Odd is not known: the match is left out",
        ),
        (
            "{hostnames: [a.x], rules: [{matches: [{path: {type: RegularExpression, value: '(?=x)'}}]}]}",
            "spec.rules[0].matches[0].path.value: not an RE2 regular expression",
        ),
        (
            "{hostnames: [a.x], rules: [{filters: [&m {type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}}}, *m]}]}",
            "spec.rules[0].filters[1].requestMirror: there is one mirror only here: this one is left out",
        ),
        ("{hostnames: [a.x], rules: [{filters: [{type: CORS, cors: {}}]}]}", "cors: it names no origin that is allowed"),
        ("{hostnames: [a.x], rules: [{timeouts: {request: soon}}]}", "spec.rules[0].timeouts.request: not a duration"),
        ("{hostnames: [a.x], rules: [{timeouts: 1}]}", "spec.rules[0].timeouts: a mapping is expected here, got 1"),
        (
            "{hostnames: [a.x], rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host Name, value: x}]}}]}]}",
            "requestHeaderModifier.set: Host Name: cannot be set by a policy",
        ),
        (
            "{hostnames: [a.x], rules: [{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]}]}",
            "cannot be converted: there is no prefix to replace",
        ),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_said(spec: str, said: str) -> None:
    assert [each for each in lost(route(spec)) if said in each], lost(route(spec))


def test_a_match_that_cannot_be_kept_takes_its_rule_away_and_nothing_else() -> None:
    found = converted(
        route("""
            hostnames: [a.x]
            rules:
            - matches: [{path: {type: Odd, value: /}}]
              backendRefs: [{name: a, port: 1}]
            - matches: [{path: {value: /b}}]
              backendRefs: [{kind: Bucket, name: b}]
        """)
    )
    documents = {document.policy.service: document.policy for document in found.documents}
    assert goes_to(documents, "GET", "a.x/") == 404
    assert goes_to(documents, "GET", "a.x/b") == 500


@pytest.mark.parametrize("match", ["{path: 5}", "{later: {x: y}}", "{headers: {x: y}}", "{method: 5}", "5"])
def test_a_match_that_is_not_understood_is_left_out_rather_than_widened(match: str) -> None:
    found = converted(
        route(f"""
            hostnames: [a.x]
            rules:
            - matches: [{match}, {{path: {{value: /b}}}}]
              backendRefs: [{{name: a, port: 1}}]
        """)
    )
    assert [each for each in found.report.lost if "so the match is left out" in each.message]
    documents = {document.policy.service: document.policy for document in found.documents}
    assert goes_to(documents, "GET", "a.x/") == 404
    assert goes_to(documents, "GET", "a.x/b") == {"a": 100}


def test_matches_that_are_no_list_match_nothing() -> None:
    found = converted(route("{hostnames: [a.x], rules: [{matches: 5, backendRefs: [{name: a, port: 1}]}]}"))
    assert len(found.report.lost) == 1
    (document,) = found.documents
    assert goes_to({"a.x": document.policy}, "GET", "a.x/") == 404


def test_what_is_not_about_requests_is_passed_over_and_what_is_unknown_named() -> None:
    text = """
        {apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g}, spec: {}}
        ---
        {apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g}, spec: {}}
        ---
        {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {}}
        ---
        {apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: t}, spec: {}}
        ---
        {apiVersion: gateway.networking.k8s.io/v9, kind: HTTPRoute, metadata: {name: r}, spec: {}}
    """
    found = converted(text)
    assert found.documents == []
    assert [str(each) for each in found.report.lost] == [
        "test.yaml:8: TLSRoute/t: gateway.networking.k8s.io: no counterpart here",
        "test.yaml:10: HTTPRoute/r: apiVersion: v9 is not known: known are v1, v1beta1",
    ]
    assert [str(each) for each in found.notes] == ["test.yaml:6: Deployment/d: apps: no counterpart here"]


def test_a_list_and_what_is_null() -> None:
    inner = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, creationTimestamp: null}, spec: {hostnames: [a.x], rules: [{filters: null, backendRefs: [{name: a, port: 1}]}]}}"
    assert list(policies(f"{{apiVersion: v1, kind: List, items: [{inner}]}}")) == ["a.x"]
