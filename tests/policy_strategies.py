"""Hypothesis strategies for policy documents as their authors write them, shorthands included."""

from typing import Any

from hypothesis import strategies as st

# Words that YAML readers like to take for something else, and text that is hard to quote.
TRICKY = (
    *(
        "on",
        "off",
        "yes",
        "no",
        "true",
        "False",
        "null",
        "~",
        "",
        " ",
        "1e3",
        "1_000",
        "0777",
        "0x1f",
        "12:30:00",
    ),
    *(
        "2020-01-01",
        ".inf",
        ".nan",
        "-",
        "? a",
        "a: b",
        "a #b",
        "&a",
        "*a",
        "!a",
        "%a",
        "@a",
        "`a`",
        "<<",
        "=",
        "---",
    ),
    *(
        "'",
        '"',
        "\\",
        "a\nb",
        "a\n",
        "\na",
        " a\nb ",
        "a\n\n\n",
        "\t",
        "a\tb",
        "ä",
        "😀",
        "\x85",
        "\u2028",
        "\ufeff",
    ),
    *("\x00", "\x1b[31m", "\x7f", "1.", "+1", "-0", "{}", "[a]", ", ", "...", "|", ">", "é\n漢字\n"),
)
texts = st.one_of(st.sampled_from(TRICKY), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,6}[A-Za-z0-9])?", fullmatch=True)
header_names = st.from_regex(r"x-[a-z0-9]{1,4}", fullmatch=True)
header_values = texts.filter(
    lambda text: all(char == "\t" or (char >= " " and char != "\x7f") for char in text)
)
versions = st.sampled_from(["v1", "v2", "default", "on", "1.5"])
numbers = st.one_of(st.integers(0, 1000), st.floats(0, 1000, allow_nan=False))
weights = st.one_of(st.integers(1, 10**9), st.floats(1e-3, 1e9))
percents = st.one_of(st.integers(0, 100), st.floats(0, 100))
statuses = st.integers(200, 599)


def _spelled(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")


some_times = st.builds(
    lambda n, unit: f"{_spelled(n)}{unit}", st.floats(0.001, 20), st.sampled_from(["ms", "s", "m", "h"])
)
times = st.one_of(some_times, st.sampled_from([0, "0s", "0.001ms"]))
sizes = st.builds(
    lambda n, unit: f"{n}{unit}", st.integers(0, 900), st.sampled_from(["B", "KB", "KiB", "MiB"])
)
regexes = st.sampled_from([".*", "[a-z]+", "(a|b)\\d", "\n", "on"])
headers = st.dictionaries(header_names, header_values, max_size=3)
paths = texts.map(lambda text: "/" + text.replace("?", ""))


def one(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of([st.fixed_dictionaries({name: option}) for name, option in options.items()])


def some(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=options)


def listed(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(items, st.lists(items, min_size=1, max_size=3))


_simple = one(exact=texts, prefix=texts, suffix=texts, contains=texts, regex=regexes, present=st.booleans())
matchers = st.recursive(st.one_of(texts, _simple), lambda inner: one(**{"not": inner}), max_leaves=3)
matcher_maps = st.dictionaries(header_names, matchers, max_size=2)
matches = some(
    path=st.one_of(paths, one(exact=paths, prefix=paths, regex=regexes)),
    method=listed(st.sampled_from(["GET", "post", "M-SEARCH"])),
    headers=matcher_maps,
    query=st.dictionaries(texts, matchers, max_size=2),
    cookies=st.dictionaries(texts, matchers, max_size=2),
    source=listed(names),
    percent=percents,
)
bodies = st.one_of(
    texts,
    matchers.map(lambda matcher: matcher if isinstance(matcher, dict) else {"exact": matcher}),
    st.builds(
        lambda matcher, place: {**matcher, "json": place}, _simple, st.sampled_from(["a.b.0", "1", "on"])
    ),
)
conditions = st.one_of(
    st.sampled_from(
        ["connect-failure", "reset", "timeout", "5xx", "gateway-error", "retriable-4xx", "500-504"]
    ),
    st.integers(100, 599),
    one(header=matcher_maps, body=bodies),
)
backoffs = st.sampled_from(
    [{"base": 0, "max": 0}, {"base": "1ms"}, {"max": "2s"}, {"base": "1.5s", "max": "3s"}]
)
retries = st.one_of(
    st.integers(1, 100),
    some(
        attempts=st.integers(1, 100),
        on=listed(conditions),
        methods=listed(st.sampled_from(["GET", "POST"])),
        backoff=backoffs,
        per_try_timeout=some_times,
        budget=some(percent=percents, min_concurrent=st.integers(0, 100)),
        other_endpoint=st.booleans(),
        retry_after=st.booleans(),
        max_body=sizes,
    ),
    some(hedge=some(max=st.just(2)).map(lambda hedge: {"after": "200ms", **hedge})),
)
rate_limits = st.fixed_dictionaries(
    {"requests": st.integers(1, 10**9), "per": some_times},
    optional={
        "burst": st.integers(1, 10**9),
        "by": st.one_of(st.sampled_from(["source", "client_ip"]), one(header=header_names)),
        "scope": st.sampled_from(["proxy", "mesh"]),
    },
)
mirrors = st.one_of(versions, st.fixed_dictionaries({"to": versions}, optional={"percent": percents}))
origins = st.sampled_from(["*", "https://a.example", {"suffix": ".example"}, {"regex": "https://.*"}])
cross_origins = st.fixed_dictionaries(
    {"allow_origins": listed(origins)},
    optional={
        "allow_methods": st.lists(st.sampled_from(["GET", "*"]), max_size=2),
        "allow_headers": st.lists(header_names, max_size=2),
        "expose_headers": st.lists(header_names, max_size=2),
        "allow_credentials": st.booleans(),
        "max_age": times,
    },
)
targets = st.sampled_from(["/", "/v2", "/a/b?c=d", "/%20"])
rewrites = st.one_of(
    st.fixed_dictionaries({"path": targets}, optional={"host": st.sampled_from(["a.example", "b:80"])}),
    st.fixed_dictionaries({"host": st.just("[::1]:80")}),
)
redirects = st.fixed_dictionaries(
    {"scheme": st.sampled_from(["http", "https"])},
    optional={
        "status": st.sampled_from([301, 302, 303, 307, 308]),
        "host": st.sampled_from(["a.example", "10.0.0.1", "[::1]"]),
        "port": st.integers(1, 65535),
        "path": targets,
    },
)
answers = some(status=statuses, headers=headers, body=texts)
rates = st.builds(lambda size: f"{size}KiB/s", st.integers(1, 999))
aborts = st.one_of(
    statuses,
    st.sampled_from(["reset", "hang"]),
    st.builds(lambda a, s: {**a, "status": s}, answers, statuses),
    st.builds(
        lambda a, s: {**{k: a[k] for k in a if k != "status"}, "grpc": s},
        answers,
        st.sampled_from(["OK", "UNAVAILABLE"]),
    ),
)
delays = st.one_of(
    times,
    st.builds(lambda a, b: {"uniform": [f"{a}ms", f"{a + b}ms"]}, st.integers(0, 999), st.integers(0, 999)),
    st.builds(lambda a, b: {"normal": {"mean": a, "stddev": b}}, times, times),
)
effects = {
    "delay": delays,
    "abort": aborts,
    "bandwidth": rates,
    "truncate": st.one_of(st.integers(0, 10**6), st.just("64KiB")),
    "corrupt": st.one_of(st.integers(1, 100), st.floats(0.001, 100)),
    "slow_close": some_times,
}
faults = st.builds(
    lambda acts, rest: {**rest, **acts},
    st.one_of(one(**effects), st.fixed_dictionaries(effects), st.just({"allow_header": True})),
    some(
        percent=percents,
        match=listed(matches),
        first=st.integers(1, 99),
        every=st.integers(1, 99),
        seed=st.integers(0, 2**63 - 1),
        max_active=st.integers(1, 99),
        scope=st.sampled_from(["attempt", "request"]),
        **{"for": some_times},
    ),
)
operations = some(set=headers, add=headers, remove=st.lists(header_names, max_size=2))
callers = st.sampled_from(["web", "Web-*", "*", "spiffe://mesh/service/web", "spiffe://*/x"])
path_matches = st.one_of(paths, one(exact=paths, prefix=paths, regex=regexes))
authorization_rules = some(
    **{"from": listed(callers)},
    methods=listed(st.sampled_from(["GET", "post"])),
    paths=listed(path_matches),
    headers=matcher_maps,
)
authorizations = some(
    allow=listed(authorization_rules), deny=listed(authorization_rules), audit=st.booleans()
)
breakers = some(
    consecutive_failures=st.integers(0, 100),
    open_for=st.sampled_from(["10ms", "1.5s", "5m"]),
    max_open=st.sampled_from(["5m", "1h"]),
    max_ejected=percents,
    panic=st.booleans(),
    limits=st.one_of(
        st.fixed_dictionaries(
            {"connections": st.integers(1, 9)},
            optional={"pending": st.integers(0, 9), "retries": st.integers(0, 9)},
        ),
        one(requests=st.integers(1, 9)),
    ),
)
settings = {
    "circuit_breaker": breakers,
    "timeout": times,
    "connect_timeout": some_times,
    "idle_timeout": times,
    "retry": retries,
    "faults": st.lists(faults, max_size=2),
    "request_headers": operations,
    "response_headers": operations,
    "rate_limit": rate_limits,
    "cors": cross_origins,
    "rewrite": rewrites,
    "respond": answers,
    "authorization": authorizations,
    "access_log": st.one_of(st.sampled_from(["on", "off"]), some(sample=percents, only=st.just("errors"))),
}
stickies = st.one_of(
    st.fixed_dictionaries({"header": header_names}),
    st.fixed_dictionaries({"cookie": header_names}, optional={"ttl": some_times}),
    st.fixed_dictionaries({"header": header_names, "stretches": st.just([{"v1": 99.5}, {"o/v2": 0.5}])}),
)
to = st.one_of(versions, st.dictionaries(versions, weights, min_size=1, max_size=3))
addresses = st.sampled_from(["10.0.0.1:80", "reviews.example:8080", "[::1]:443", "Upper.Example:1"])
endpoints = st.lists(
    st.one_of(
        addresses,
        st.builds(lambda a, w, m: {"address": a, "weight": w, "mtls": m}, addresses, weights, st.booleans()),
    ),
    min_size=1,
    max_size=3,
)
routes = st.lists(
    some(match=listed(matches), to=to, sticky=stickies, mirror=mirrors, **{"for": some_times}, **settings),
    max_size=3,
).map(lambda routes: [{"name": f"r{index}", **route} for index, route in enumerate(routes)])
modes = st.sampled_from(["strict", "permissive", "off"])
load_balancers = st.one_of(
    st.sampled_from(["round_robin", "random", "least_request", {"hash": "source_ip"}]),
    one(header=header_names, cookie=header_names).map(lambda key: {"hash": key}),
)
hosts = st.lists(
    st.sampled_from(["a.example", "*.a.example", "B.example:80", "10.0.0.5:8080", "[::1]"]), unique=True
)
documents = st.one_of(
    st.builds(
        lambda service, rest: {"service": service, **rest},
        names,
        some(
            hosts=hosts,
            load_balancer=load_balancers,
            endpoints=st.one_of(endpoints, st.dictionaries(versions, endpoints, min_size=1, max_size=3)),
            routes=routes,
            to=to,
            sticky=stickies,
            mtls=modes,
            **settings,
        ),
    ),
    some(
        unknown_hosts=st.sampled_from(["allow", "refuse"]),
        load_balancer=load_balancers,
        mtls=modes,
        **settings,
    ).map(lambda rest: {"service": "*", **rest}),
)
"""Documents that are sound by themselves; their versions need not exist."""
