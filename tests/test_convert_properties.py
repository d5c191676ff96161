"""Conversion against plain evaluators of what those projects say, and against documents that are nonsense somewhere."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from control.policy.yaml_text import trees
from tests.test_convert_gateway import (
    PRECEDENCE,
    REWRITES,
    SIMPLE,
    SPLIT,
    converted,
    goes_to,
    policies,
    route,
)
from tests.test_convert_istio import BOOKS, TO, acting, rule, service

SEGMENTS = st.sampled_from(["", "a", "b", "ab", "a.b"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
VALUES = st.sampled_from(["1", "2", "12"])
TESTS = st.dictionaries(st.sampled_from(["x", "y", "z"]), VALUES, max_size=2)
REQUESTS = st.fixed_dictionaries(
    {"method": st.sampled_from(["GET", "POST"]), "path": PATHS, "headers": TESTS, "query": TESTS}
)


def send(documents: Any, request: Any) -> Any:
    query = "&".join(f"{name}={value}" for name, value in request["query"].items())
    return goes_to(
        documents, request["method"], f"shop.example{request['path']}?{query}", **request["headers"]
    )


# Gateway API

GATEWAY_MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "path": st.tuples(st.sampled_from(["Exact", "PathPrefix"]), PATHS),
        "method": st.sampled_from(["GET", "POST"]),
        "headers": TESTS,
        "query": TESTS,
    },
)


def gateway_matches(match: Any, request: Any) -> bool:
    kind, path = match.get("path", ("PathPrefix", "/"))
    if kind == "Exact" and request["path"] != path:
        return False
    wanted = path.rstrip("/")
    if kind == "PathPrefix" and not (request["path"] == wanted or request["path"].startswith(wanted + "/")):
        return False
    return (
        match.get("method", request["method"]) == request["method"]
        and match.get("headers", {}).items() <= request["headers"].items()
        and match.get("query", {}).items() <= request["query"].items()
    )


def gateway_rank(match: Any) -> tuple[Any, ...]:
    kind, path = match.get("path", ("PathPrefix", "/"))
    length = 0 if kind == "Exact" else -len(path.rstrip("/") or "/")
    counts = (-len(match.get("headers", {})), -len(match.get("query", {})))
    return (kind != "Exact", length, "method" not in match, *counts)


def gateway_rule(index: int, matches: list[Any]) -> dict[str, Any]:
    written = []
    for match in matches:
        one: dict[str, Any] = {name: match[name] for name in ("method",) if name in match}
        if "path" in match:
            one["path"] = {"type": match["path"][0], "value": match["path"][1]}
        for ours, theirs in (("headers", "headers"), ("query", "queryParams")):
            if ours in match:
                one[theirs] = [{"name": name, "value": value} for name, value in match[ours].items()]
        written.append(one)
    return {"matches": written, "backendRefs": [{"name": f"rule-{index}", "port": 1}]}


@settings(max_examples=150)
@given(st.lists(st.lists(GATEWAY_MATCHES, min_size=1, max_size=3), min_size=1, max_size=5), st.lists(REQUESTS, min_size=1, max_size=5))  # fmt: skip
def test_gateway_api_routes_as_a_plain_reading_of_its_precedence(
    rules: list[Any], requests: list[Any]
) -> None:
    spec = {
        "hostnames": ["shop.example"],
        "rules": [gateway_rule(index, matches) for index, matches in enumerate(rules)],
    }
    documents = policies(route(json.dumps(spec)))
    for request in requests:
        fitting = [
            (gateway_rank(match), index)
            for index, matches in enumerate(rules)
            for match in matches
            if gateway_matches(match, request)
        ]
        wanted = {f"rule-{min(fitting)[1]}": 100} if fitting else 404
        assert send(documents, request) == wanted, request


# Istio

ISTIO_MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "uri": st.tuples(st.sampled_from(["exact", "prefix"]), PATHS),
        "ignoreUriCase": st.booleans(),
        "method": st.sampled_from(["GET", "POST"]),
        "headers": st.dictionaries(
            st.sampled_from(["x", "y", "z"]),
            st.tuples(st.sampled_from(["exact", "prefix"]), VALUES),
            max_size=2,
        ),
        "withoutHeaders": st.dictionaries(st.sampled_from(["v", "w"]), st.tuples(st.just("exact"), VALUES)),
        "queryParams": st.dictionaries(st.sampled_from(["x", "y"]), st.tuples(st.just("exact"), VALUES)),
    },
)
ISTIO_REQUESTS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "POST"]),
        "path": st.one_of(PATHS, PATHS.map(str.upper)),
        "headers": st.dictionaries(st.sampled_from(["v", "w", "x", "y", "z"]), VALUES, max_size=3),
        "query": TESTS,
    }
)


def fits(test: tuple[str, str], value: str | None) -> bool:
    kind, text = test
    return value is not None and (value == text if kind == "exact" else value.startswith(text))


def istio_matches(match: Any, request: Any) -> bool:
    path, test = request["path"], match.get("uri")
    if test is not None and match.get("ignoreUriCase"):
        path, test = path.lower(), (test[0], test[1].lower())
    headers, query = request["headers"], request["query"]
    return (
        (test is None or fits(test, path))
        and match.get("method", request["method"]) == request["method"]
        and all(fits(each, headers.get(name)) for name, each in match.get("headers", {}).items())
        and not any(fits(each, headers.get(name)) for name, each in match.get("withoutHeaders", {}).items())
        and all(fits(each, query.get(name)) for name, each in match.get("queryParams", {}).items())
    )


def istio_match(match: Any) -> dict[str, Any]:
    written: dict[str, Any] = {name: match[name] for name in ("ignoreUriCase",) if name in match}
    if "method" in match:
        written["method"] = {"exact": match["method"]}
    if "uri" in match:
        written["uri"] = dict([match["uri"]])
    for name in ("headers", "withoutHeaders", "queryParams"):
        if name in match:
            written[name] = {key: dict([test]) for key, test in match[name].items()}
    return written


@settings(max_examples=150)
@given(st.lists(st.lists(ISTIO_MATCHES, max_size=3), min_size=1, max_size=4), st.lists(ISTIO_REQUESTS, min_size=1, max_size=5))  # fmt: skip
def test_istio_routes_as_a_plain_reading_of_its_first_match(routes: list[Any], requests: list[Any]) -> None:
    http = [
        {
            **({"match": [istio_match(match) for match in matches]} if matches else {}),
            "route": [{"destination": {"host": f"route-{index}", "port": {"number": 1}}}],
        }
        for index, matches in enumerate(routes)
    ]
    documents = policies(service(json.dumps({"hosts": ["shop.example"], "http": http})))
    for request in requests:
        fitting = (
            index
            for index, matches in enumerate(routes)
            if not matches or any(istio_matches(match, request) for match in matches)
        )
        found = next(fitting, None)
        wanted = 404 if found is None else {f"route-{found}": 100}
        assert send(documents, request) == wanted, request


# Nonsense

RICH = [
    *(SIMPLE, SPLIT, PRECEDENCE, REWRITES, *BOOKS.split("\n---\n")),
    route(
        "{parentRefs: [{kind: Service, name: a, port: 1}], rules: [{timeouts: {request: 1s, backendRequest: 1s}, "
        "retry: {codes: [500], attempts: 1, backoff: 1s}, filters: [{type: RequestMirror, requestMirror: {backendRef: "
        "{name: m, port: 1}, fraction: {numerator: 1, denominator: 2}}}, {type: ResponseHeaderModifier, "
        "responseHeaderModifier: {set: [{name: a, value: b}], remove: [c]}}, {type: CORS, cors: {allowOrigins: ['*']}}]}]}"
    ),
    acting(
        f"{{{TO}, timeout: 1s, retries: {{attempts: 1, perTryTimeout: 1s, retryOn: 5xx, backoff: 1s}}, fault: {{delay: "
        "{fixedDelay: 1s, percentage: {value: 1}}, abort: {httpStatus: 500, percent: 1}}, headers: {request: {set: {a: b}, "
        "remove: [c]}}, mirror: {host: m, subset: v1}, mirrorPercentage: {value: 1}, corsPolicy: {allowOrigins: [{exact: x}],"
        " maxAge: 1s}, rewrite: {uri: /x, authority: y}, match: [{uri: {prefix: /a}, method: {regex: A|B}, headers: {h: "
        "{regex: x}}, queryParams: {q: {exact: x}}, authority: {exact: z}}]}"
    ),
    acting("{redirect: {uri: /x, authority: 'a:1', port: 1, scheme: https, redirectCode: 301, derivePort: FROM_REQUEST_PORT}}"),
    acting("{directResponse: {status: 200, body: {bytes: aGk=}}}"),
    rule(
        "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 1s}, useSourceIp: true}}, tls: "
        "{mode: DISABLE}, connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s}, http: {http1MaxPendingRequests: 1,"
        " maxRetries: 1}}, outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 1s, maxEjectionPercent: 1}}, subsets:"
        " [{name: v1, labels: {version: v1}}]}"
    ),
    service("{hosts: [a], ports: [{number: 1}], endpoints: [{address: 1.1.1.1, weight: 1, ports: {h: 1}}]}", "e", "ServiceEntry"),
]  # fmt: skip
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=9),
    st.sampled_from(["*", "a b", "(", "1s", "-1s", "%", "/", "v1", "99999", "*.a", "[::1]", "é", ":", "a:b"]),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(
        st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3
    ),
)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


def replaced(node: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    key, *rest = path
    if isinstance(node, dict):
        return {**node, key: replaced(node[key], tuple(rest), junk)}
    return [replaced(each, tuple(rest), junk) if index == key else each for index, each in enumerate(node)]


@settings(max_examples=400)
@given(st.sampled_from(RICH), st.data())
def test_nonsense_anywhere_is_reported_or_passed_over_and_never_a_traceback(text: str, data: Any) -> None:
    (tree,), _ = trees(text)
    root = json.loads(json.dumps(tree.root))
    path = data.draw(
        st.sampled_from([each for each in places(root) if each[:1] not in ((), ("kind",), ("apiVersion",))])
    )
    junk = data.draw(JUNK)
    found = converted(json.dumps(replaced(root, path, junk)))
    for document in found.documents:
        assert document.policy.service
