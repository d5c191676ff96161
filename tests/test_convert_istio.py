"""Istio's VirtualService, DestinationRule and ServiceEntry converted: they route as that project says."""

import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.convert.values import duration, quoted, seconds
from control.policy.patterns import compile_regex
from tests.test_convert_gateway import asked, converted, goes_to, lost, policies


def service(spec: str, name: str = "reviews", kind: str = "VirtualService", version: str = "v1") -> str:
    return (
        f"apiVersion: networking.istio.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: prod}}\nspec:\n"
        + textwrap.indent(textwrap.dedent(spec), "  ")
    )


def rule(spec: str, name: str = "reviews") -> str:
    return service(spec, name, "DestinationRule", "v1beta1")


def together(*documents: str) -> str:
    return "\n---\n".join(documents)


SUBSETS = rule("""
    host: reviews
    subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
    - {name: v3, labels: {version: v3}}
""")
BOOKS = together(
    service("""
        hosts: [reviews]
        http:
        - match: [{headers: {end-user: {exact: jason}}}]
          route: [{destination: {host: reviews, subset: v2, port: {number: 9080}}}]
        - match: [{uri: {prefix: /beta}, queryParams: {group: {regex: "[ab]"}}}, {method: {regex: PUT|POST}}]
          route: [{destination: {host: reviews, subset: v3, port: {number: 9080}}}]
        - route:
          - {destination: {host: reviews, subset: v1, port: {number: 9080}}, weight: 75}
          - {destination: {host: reviews, subset: v3, port: {number: 9080}}, weight: 25}
    """),
    SUBSETS,
)


def test_books() -> None:
    documents = policies(BOOKS)
    assert goes_to(documents, "GET", "reviews/", end_user="jason") == {"v2": 100}
    assert goes_to(documents, "GET", "reviews/", end_user="bob") == {"v1": 75, "v3": 25}
    assert goes_to(documents, "GET", "reviews/betas?group=a") == {"v3": 100}
    assert goes_to(documents, "GET", "reviews/beta?group=c") == {"v1": 75, "v3": 25}
    assert goes_to(documents, "POST", "reviews/") == {"v3": 100}
    endpoints = documents["reviews"].endpoints
    assert endpoints is not None
    assert {name: each[0].address for name, each in endpoints.items()} == {
        "v1": "reviews-v1:9080",
        "v2": "reviews-v2:9080",
        "v3": "reviews-v3:9080",
    }


def test_what_was_taken_for_granted_is_said_once() -> None:
    notes = [note.message for note in converted(BOOKS.replace(", port: {number: 9080}", "")).notes]
    assert notes == [
        "no port is said: 80 is taken (--port)",
        "v2 of reviews is taken to be at reviews-v2:80",
        "v3 of reviews is taken to be at reviews-v3:80",
        "v1 of reviews is taken to be at reviews-v1:80",
    ]


def one(match: str, extra: str = "") -> dict[str, Any]:
    """Requests that match go to `hit`, all others to `miss`."""
    return policies(
        service(f"""
            hosts: [reviews]
            http:
            - match: {match}
              route: [{{destination: {{host: hit, port: {{number: 1}}}}}}]
            - route: [{{destination: {{host: miss, port: {{number: 1}}}}}}]
        """)
    )


@pytest.mark.parametrize(
    ("match", "hits", "misses"),
    [
        ("[{uri: {prefix: /foo}}]", ["/foo", "/foo/x", "/foobar", "/foo?x"], ["/fo", "/x/foo", "/FOO"]),
        ("[{uri: {prefix: /foo/}}]", ["/foo/", "/foo/x"], ["/foo", "/foobar"]),
        ("[{uri: {prefix: /a.b}}]", ["/a.b", "/a.bc"], ["/axb"]),
        ("[{uri: {prefix: /}}]", ["/", "/x"], []),
        ("[{uri: {exact: /foo}}]", ["/foo", "/foo?x=1"], ["/foo/", "/foobar", "/Foo"]),
        ("[{uri: {regex: '/[a-c]+'}}]", ["/abc"], ["/abcd", "/x/a"]),
        ("[{uri: {prefix: /foo}, ignoreUriCase: true}]", ["/FOObar", "/foo"], ["/fo"]),
        ("[{uri: {exact: /foo}, ignoreUriCase: true}]", ["/FOO", "/foo"], ["/foo/"]),
        ("[{uri: {regex: /foo}, ignoreUriCase: true}]", ["/foo"], ["/FOO"]),
        ("[{uri: {exact: /a}}, {uri: {exact: /b}}]", ["/a", "/b"], ["/c"]),
        ("[{uri: {exact: /a}}, {name: all}]", ["/a", "/b"], []),
        ("[{queryParams: {q: {exact: '1'}}}]", ["/?q=1"], ["/?q=2", "/"]),
        ("[{queryParams: {q: {}}}]", ["/?q=2", "/?q"], ["/"]),
    ],
)
def test_paths_and_queries(match: str, hits: list[str], misses: list[str]) -> None:
    documents = one(match)
    assert {path: goes_to(documents, "GET", f"reviews{path}") for path in [*hits, *misses]} == {
        **{path: {"hit": 100} for path in hits},
        **{path: {"miss": 100} for path in misses},
    }


@pytest.mark.parametrize(
    ("match", "headers", "hit"),
    [
        ("[{headers: {x-a: {exact: one}}}]", {"x-a": "one"}, True),
        ("[{headers: {x-a: {prefix: on}}}]", {"x-a": "one"}, True),
        ("[{headers: {x-a: {regex: 'o.*'}}}]", {"x-a": "two"}, False),
        ("[{headers: {x-a: {}}}]", {"x-a": "any"}, True),
        ("[{headers: {x-a: {}}}]", {}, False),
        ("[{withoutHeaders: {x-a: {exact: one}}}]", {"x-a": "one"}, False),
        ("[{withoutHeaders: {x-a: {exact: one}}}]", {"x-a": "two"}, True),
        ("[{withoutHeaders: {x-a: {exact: one}}}]", {}, True),
        ("[{withoutHeaders: {x-a: {}}}]", {"x-a": ""}, False),
        ("[{withoutHeaders: {x-a: {}}}]", {}, True),
        ("[{authority: {prefix: rev}}]", {}, True),
        ("[{authority: {exact: other}}]", {}, False),
        ("[{gateways: [mesh]}]", {}, True),
    ],
)
def test_headers(match: str, headers: dict[str, str], hit: bool) -> None:
    assert goes_to(one(match), "GET", "reviews/", **headers) == {"hit" if hit else "miss": 100}


@pytest.mark.parametrize(
    ("match", "place"),
    [
        ("{sourceLabels: {app: web}}", "sourceLabels"),
        ("{sourceNamespace: prod}", "sourceNamespace"),
        ("{gateways: [edge]}", "gateways"),
        ("{scheme: {exact: https}}", "scheme"),
        ("{port: 8080}", "port"),
        ("{method: {prefix: P}}", "method"),
        ("{headers: {':path': {exact: /}}}", "headers.:path"),
        ("{headers: {x: {regex: '(?=a)'}}}", "headers.x.regex"),
        ("{headers: {x: {odd: 1}}}", "headers.x"),
        ("{headers: {x: {exact: '1'}}, withoutHeaders: {X: {exact: '2'}}}", "withoutHeaders.X"),
        ("{uri: {exact: foo}}", "uri.exact"),
    ],
)
def test_a_match_with_a_condition_that_cannot_be_kept_is_left_out_whole(match: str, place: str) -> None:
    text = service(f"""
        hosts: [reviews]
        http:
        - match: [{match}, {{uri: {{exact: /kept}}}}]
          route: [{{destination: {{host: hit, port: {{number: 1}}}}}}]
        - match: [{match}]
          route: [{{destination: {{host: gone, port: {{number: 1}}}}}}]
        - route: [{{destination: {{host: miss, port: {{number: 1}}}}}}]
    """)
    found = converted(text)
    said = [str(each) for each in found.report.lost]
    assert [each.partition("spec.http")[2].partition(": ")[0] for each in said] == [
        f"[0].match[0].{place}",
        f"[1].match[0].{place}",
    ]
    assert all("the match is left out" in each for each in said)
    documents = {document.policy.service: document.policy for document in found.documents}
    assert goes_to(documents, "GET", "reviews/kept") == {"hit": 100}
    assert goes_to(documents, "PUT", "reviews/", x="1") == {"miss": 100}


def acting(action: str) -> str:
    return service(f"""
        hosts: [reviews]
        http:
        - {action}
    """)


TO = "route: [{destination: {host: reviews, port: {number: 1}}}]"


@pytest.mark.parametrize(
    ("action", "field", "wanted"),
    [
        (f"{{{TO}, timeout: 1m30s}}", "timeout", "90s"),
        (f"{{{TO}, timeout: 0s}}", "timeout", None),
        (f"{{{TO}, fault: {{delay: {{fixedDelay: 7s, percentage: {{value: 12.5}}}}}}}}", "faults",
         [{"percent": 12.5, "delay": "7s", "scope": "request"}]),
        (f"{{{TO}, fault: {{abort: {{httpStatus: 503}}, delay: {{fixedDelay: 1s, percent: 5}}}}}}", "faults",
         [{"percent": 5, "delay": "1s", "scope": "request"}, {"percent": 100, "abort": {"status": 503}, "scope": "request"}]),
        (f"{{{TO}, fault: {{abort: {{grpcStatus: UNAVAILABLE, percentage: {{value: 5}}}}}}}}", "faults",
         [{"percent": 5, "abort": {"grpc": "UNAVAILABLE"}, "scope": "request"}]),
        (f"{{{TO}, headers: {{request: {{set: {{X-A: '1'}}, remove: [x-b]}}, response: {{add: {{x-c: '2'}}}}}}}}",
         "request_headers", {"set": {"x-a": "1"}, "remove": ["x-b"]}),
        ("{redirect: {uri: /v2, authority: b.example, redirectCode: 308}}", "redirect",
         {"status": 308, "path": "/v2", "host": "b.example"}),
        ("{redirect: {scheme: https, derivePort: FROM_PROTOCOL_DEFAULT}}", "redirect",
         {"status": 301, "scheme": "https", "port": 443}),
        ("{redirect: {authority: 'b.example:8443'}}", "redirect", {"status": 301, "host": "b.example", "port": 8443}),
        ("{directResponse: {status: 418, body: {string: tea}}}", "respond", {"status": 418, "headers": {}, "body": "tea"}),
        ("{directResponse: {status: 200, body: {bytes: dGVh}}}", "respond", {"status": 200, "headers": {}, "body": "tea"}),
        (f"{{match: [{{uri: {{exact: /a}}}}], {TO}, rewrite: {{uri: /b}}}}", "rewrite", {"path": "/b"}),
        (f"{{match: [{{uri: {{regex: '/a'}}}}], {TO}, rewrite: {{uri: /b, authority: c}}}}", "rewrite",
         {"path": "/b", "host": "c"}),
        (f"{{{TO}, rewrite: {{uri: /, authority: c}}}}", "rewrite", {"host": "c"}),
        (f"{{{TO}, mirror: {{host: copy, port: {{number: 9}}}}, mirrorPercentage: {{value: 12.5}}}}", "mirror",
         {"to": "copy", "percent": 12.5}),
        (f"{{{TO}, mirrors: [{{destination: {{host: copy, port: {{number: 9}}}}}}]}}", "mirror",
         {"to": "copy", "percent": 100}),
        (f"{{{TO}, corsPolicy: {{allowOrigins: [{{exact: 'https://a'}}, {{prefix: 'https://b'}}, {{regex: 'https://[cd]'}}], allowMethods: [GET], maxAge: 24h, allowCredentials: false}}}}",
         "cors",
         {"allow_origins": [{"exact": "https://a"}, {"prefix": "https://b"}, {"regex": "https://[cd]"}],
          "allow_methods": ["GET"], "max_age": "24h"}),
    ],
)  # fmt: skip
def test_actions(action: str, field: str, wanted: Any) -> None:
    assert asked(policies(acting(action)), "GET", "reviews/a").get(field) == wanted


@pytest.mark.parametrize(
    ("retries", "attempts", "on"),
    [
        ("{attempts: 3}", 4, ["connect-failure", 503]),
        ("{attempts: 1, retryOn: '5xx,reset, 429,retriable-status-codes'}", 2, ["5xx", "reset", 429]),
        ("{attempts: 2, retryOn: 'gateway-error,connect-failure,refused-stream'}", 3, ["gateway-error", "connect-failure"]),
    ],
)  # fmt: skip
def test_retries(retries: str, attempts: int, on: list[Any]) -> None:
    documents = policies(acting(f"{{{TO}, retries: {retries}}}"))
    retry = asked(documents, "GET", "reviews/")["retry"]
    assert (retry["attempts"], retry["on"]) == (attempts, on)
    assert "POST" in retry["methods"]


def test_no_retries() -> None:
    documents = policies(acting(f"{{{TO}, retries: {{attempts: 0}}}}"))
    assert asked(documents, "GET", "reviews/")["retry"] is None


def test_a_prefix_that_is_rewritten_is_of_whole_segments_here_and_that_is_said() -> None:
    text = acting(f"{{match: [{{uri: {{prefix: /ratings}}}}], {TO}, rewrite: {{uri: /v1/books}}}}")
    assert [
        each for each in lost(text) if "spec.http[0].rewrite.uri: here a prefix is of whole segments" in each
    ]
    documents = {each.policy.service: each.policy for each in converted(text).documents}
    data = asked(documents, "GET", "reviews/ratings/7")
    assert data["rewrite"] == {"prefix": "/v1/books"}
    assert goes_to(documents, "GET", "reviews/ratingsfoo") == 404


@pytest.mark.parametrize("match", ["{uri: 5}", "{later: {x: y}}", "{ignoreUriCase: 1}", "5"])
def test_a_match_that_is_not_understood_is_left_out_rather_than_widened(match: str) -> None:
    found = converted(acting(f"{{match: [{match}, {{uri: {{exact: /b}}}}], {TO}}}"))
    assert [each for each in found.report.lost if "so the match is left out" in each.message]
    documents = {document.policy.service: document.policy for document in found.documents}
    assert goes_to(documents, "GET", "reviews/") == 404
    assert goes_to(documents, "GET", "reviews/b") == {"reviews": 100}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (acting(f"{{{TO}, retries: {{attempts: 1, retryOn: 'unavailable,5xx'}}}}"), "retryOn: unavailable: no counter"),
        (acting(f"{{{TO}, retries: {{attempts: 1, retryRemoteLocalities: true}}}}"), "retries.retryRemoteLocalities"),
        (acting(f"{{{TO}, fault: {{abort: {{grpcStatus: NOPE}}}}}}"), "fault.abort.grpcStatus: NOPE: no counterpart"),
        (acting(f"{{{TO}, rewrite: {{uriRegexRewrite: {{match: a, rewrite: b}}}}}}"), "rewrite.uriRegexRewrite"),
        (acting(f"{{match: [{{uri: {{exact: /a}}}}, {{uri: {{prefix: /b}}}}], {TO}, rewrite: {{uri: /c}}}}"),
         "rewrite.uri: a prefix in place of some matches alone"),
        (acting(f"{{{TO}, timeout: soon}}"), "timeout: not a duration"),
        (acting(f"{{{TO}, headers: {{request: {{set: {{x: '%REQ(y)%'}}}}}}}}"), "a variable of Envoy"),
        (acting(f"{{{TO}, corsPolicy: {{allowOrigins: [{{exact: a}}], unmatchedPreflights: IGNORE}}}}"), "unmatchedPre"),
        (acting(f"{{{TO}, mirrors: [{{destination: {{host: a}}}}, {{destination: {{host: b}}}}]}}"), "one mirror only"),
        (acting("{delegate: {name: other}}"), "delegate: no counterpart here: the route is left out"),
        (acting("{name: nothing}"), "http[0]: it has no destination with a weight"),
        (service("{hosts: ['*'], http: []}"), "hosts[0]: every host cannot be claimed here: name the hosts"),
        (service("{hosts: [a], gateways: [edge, mesh]}"), "gateways: there are no gateways here"),
        (service("{hosts: [a], tcp: [{}]}"), "tcp: only HTTP is routed here"),
        (service("{hosts: [a], exportTo: ['.']}"), "exportTo: no counterpart here"),
        (rule("{host: a, subsets: [{name: v1, labels: {app: a}}]}"), "subsets[0].labels: there are no labels here"),
        (rule("{host: a, subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {}}]}"), "for one version alone"),
        (rule("{host: a, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}"), "loadBalancer.simple: PASSTHROUGH"),
        (rule("{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpQueryParameterName: q}}}}"),
         "consistentHash.httpQueryParameterName: no counterpart"),
        (rule("{host: a, trafficPolicy: {tls: {mode: SIMPLE}}}"), "tls.mode: SIMPLE: no counterpart"),
        (rule("{host: a, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}"),
         "http.maxRequestsPerConnection: no counterpart"),
        (rule("{host: a, trafficPolicy: {connectionPool: {http: {http1MaxPendingRequests: 1}}}}"),
         "http.http1MaxPendingRequests: requests wait for a connection only where maxConnections is set"),
        (rule("{host: a, trafficPolicy: {outlierDetection: {consecutiveGatewayErrors: 1, minHealthPercent: 5}}}"),
         "outlierDetection.minHealthPercent: no counterpart"),
        (rule("{host: a, trafficPolicy: {portLevelSettings: []}}"), "portLevelSettings: no counterpart"),
        (rule("{host: '*'}"), "host: *: every host cannot be claimed here"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_said(text: str, said: str) -> None:
    assert [each for each in lost(text) if said in each], lost(text)


@pytest.mark.parametrize(
    ("balancer", "wanted"),
    [
        ("{simple: ROUND_ROBIN}", "round_robin"),
        ("{simple: LEAST_REQUEST}", "least_request"),
        ("{simple: LEAST_CONN}", "least_request"),
        ("{simple: RANDOM}", "random"),
        ("{consistentHash: {httpHeaderName: X-User}}", {"hash": {"header": "x-user"}}),
        ("{consistentHash: {httpCookie: {name: uid}, ringHash: {minimumRingSize: 10}}}", {"hash": {"cookie": "uid"}}),
        ("{consistentHash: {useSourceIp: true}}", {"hash": "source_ip"}),
    ],
)  # fmt: skip
def test_load_balancers(balancer: str, wanted: Any) -> None:
    (policy,) = policies(rule(f"{{host: reviews, trafficPolicy: {{loadBalancer: {balancer}}}}}")).values()
    assert policy.document() == {"service": "reviews", "load_balancer": wanted}


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (
            "{outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 3m, maxEjectionPercent: 100}}",
            {"consecutive_failures": 1, "open_for": "3m", "max_open": "5m", "max_ejected": 100},
        ),
        (
            "{outlierDetection: {}, connectionPool: {tcp: {maxConnections: 1}}}",
            {"consecutive_failures": 0, "limits": {"connections": 1}},
        ),
        (
            "{outlierDetection: {baseEjectionTime: 10m}}",
            {"consecutive_failures": 5, "open_for": "10m", "max_open": "10m", "max_ejected": 10},
        ),
        (
            "{connectionPool: {tcp: {maxConnections: 9}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 5, maxRetries: 3}}}",
            {
                "consecutive_failures": 0,
                "limits": {"connections": 9, "pending": 1, "requests": 5, "retries": 3},
            },
        ),
    ],
)
def test_circuit_breakers(policy: str, wanted: Any) -> None:
    (found,) = policies(rule(f"{{host: reviews, trafficPolicy: {policy}}}")).values()
    assert found.document() == {"service": "reviews", "circuit_breaker": wanted}


@pytest.mark.parametrize(("mode", "wanted"), [("DISABLE", "off"), ("ISTIO_MUTUAL", "strict")])
def test_mutual_tls(mode: str, wanted: str) -> None:
    (policy,) = policies(rule(f"{{host: reviews, trafficPolicy: {{tls: {{mode: {mode}}}}}}}")).values()
    assert policy.mtls == wanted


def test_a_rule_is_part_of_its_hosts_document_however_the_host_is_spelt() -> None:
    documents = policies(
        together(
            service(f"{{hosts: [reviews], http: [{{{TO}}}]}}"),
            rule(
                "{host: reviews.prod.svc.cluster.local, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 1s}}}}"
            ),
        )
    )
    assert list(documents) == ["reviews"]
    assert documents["reviews"].connect_timeout == 1
    alone = policies(rule("{host: ratings, subsets: [{name: v1, labels: {version: v1}}]}"))
    assert goes_to(alone, "GET", "ratings/") == {"v1": 100}


def test_subsets_of_another_host_have_versions_of_their_own() -> None:
    documents = policies(
        together(
            service("""
                hosts: [shop.example]
                http:
                - match: [{uri: {prefix: /r}}]
                  route: [{destination: {host: reviews, subset: v1, port: {number: 1}}}]
                - route: [{destination: {host: reviews, port: {number: 1}}}]
            """),
            SUBSETS,
        )
    )
    assert goes_to(documents, "GET", "shop.example/r") == {"reviews-v1": 100}
    assert len(goes_to(documents, "GET", "shop.example/")) == 3
    assert goes_to(documents, "GET", "nowhere/") == {}


def test_a_service_entry_says_where_a_host_is() -> None:
    text = service(
        """
        hosts: [db.example, www.db.example]
        location: MESH_EXTERNAL
        resolution: STATIC
        ports: [{number: 8080, name: http, protocol: HTTP}]
        endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2, ports: {http: 9090}}, {address: "fd00::1"}]
        """,
        "db",
        "ServiceEntry",
        "v1alpha3",
    )
    (policy,) = policies(text).values()
    assert policy.service == "db.example"
    assert policy.hosts == ("www.db.example",)
    assert policy.endpoints is not None
    assert [each.address for each in policy.endpoints["default"]] == [
        "10.0.0.1:8080",
        "10.0.0.2:9090",
        "[fd00::1]:8080",
    ]
    (policy,) = policies(service("{hosts: [x.example], resolution: DNS}", "x", "ServiceEntry")).values()
    assert policy.document() == {"service": "x.example"}


def test_two_services_of_one_host_are_two_documents_that_cannot_both_be() -> None:
    text = service(f"{{hosts: [reviews], http: [{{{TO}}}]}}")
    assert list(policies(together(text, text))) == ["reviews", "reviews-2"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1h30m", 5400.0), ("1.5s", 1.5), ("300ms", 0.3), ("10us", 1e-5), ("0", 0.0), ("0s", 0.0), (".5s", 0.5)],
)
def test_durations(text: str, wanted: float) -> None:
    assert seconds(text) == pytest.approx(wanted)
    assert duration(text)


@pytest.mark.parametrize("text", ["", "1", "1d", "-1s", "1s ", "s", "1h 2m"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds(text)


@given(st.text(), st.text())
def test_a_quoted_text_matches_itself_alone(text: str, other: str) -> None:
    pattern = compile_regex(quoted(text))
    assert pattern.fullmatch(text)
    assert (pattern.fullmatch(other) is not None) is (text == other)
