"""mitmproxy's test helpers, which come without a promise of stability, wrapped in one place."""

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import dedent
from typing import Any
from urllib.parse import urlsplit

from mitmproxy import http
from mitmproxy.proxy import mode_specs
from mitmproxy.test import taddons, tflow, tutils

from addons.exchange import Attempt, Exchange, attach
from control.policy.reading import normalize, read_bytes
from control.policy.snapshot import Snapshot, build


def make_flow(
    url: str = "http://web/",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    mode: str = "regular",
    version: bytes = b"HTTP/1.1",
) -> http.HTTPFlow:
    """A request as it stands after its body has arrived."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = [(b"host", parts.netloc.encode())]
    fields += [
        (name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in (headers or {}).items()
    ]
    request = tutils.treq(
        host=parts.hostname,
        port=port,
        scheme=parts.scheme.encode(),
        method=method.encode(),
        path=target.encode(),
        headers=http.Headers(fields),
        content=body,
        http_version=version,
    )
    flow = tflow.tflow(req=request)
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse(mode)
    return flow


def make_answer(status: int = 200, body: bytes = b"ok", **fields: str) -> http.Response:
    return http.Response.make(status, body, {name.replace("_", "-"): value for name, value in fields.items()})


def snapshot(policy: str = "", revision: int = 1) -> Snapshot:
    """Of these documents, as a proxy would compile them."""
    documents = read_bytes(dedent(policy).encode(), "test.yaml") if policy.strip() else []
    return build(revision, {each.policy.service: normalize(each.policy) for each in documents})


def pinned(
    flow: http.HTTPFlow, policy: str | Snapshot = "", source: str = "", inbound: bool = False
) -> Exchange:
    """The flow's exchange, as the policy feed would have made it."""
    made = policy if isinstance(policy, Snapshot) else snapshot(policy)
    exchange = Exchange(made, "node-1", source, inbound)
    attach(flow, exchange)
    return exchange


def attempted(
    exchange: Exchange, status: int | None = None, error: str | None = None, **more: Any
) -> Attempt:
    """One more attempt of the exchange with this outcome."""
    attempt = Attempt(len(exchange.attempts) + 1, None, "10.0.0.1", 80)
    exchange.attempts.append(attempt)
    attempt.status, attempt.error = status, error
    for name, value in more.items():
        setattr(attempt, name, value)
    return attempt


@contextmanager
def loaded(*addons: object, **options: Any) -> Iterator[taddons.context]:
    """These addons in a master, told these options and that it runs; at the end told that it stops."""
    with taddons.context(*addons) as context:
        context.options.update(**options)
        for addon in addons:
            if hasattr(addon, "running"):
                addon.running()
        yield context
        context.master.should_exit.set()
        for addon in addons:
            if hasattr(addon, "done"):
                addon.done()
