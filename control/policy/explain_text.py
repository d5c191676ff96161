"""An explanation's settings as JSON data, and all of it as lines for a person."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from control.policy.errors import one_line
from control.policy.expiring import end_text
from control.policy.facts import RequestFacts
from control.policy.faulting import CompiledFault
from control.policy.model import Fault
from control.policy.parts import Part
from control.policy.retrying import CompiledRetry
from control.policy.routes import CompiledRoute
from control.policy.units import format_duration

_SHOWN_IF_SAID = (
    "sticky",
    "circuit_breaker",
    "mirror",
    "rate_limit",
    "cors",
    "request_headers",
    "response_headers",
    "access_log",
)
_PLAIN = re.compile(r"[A-Za-z0-9_./%][A-Za-z0-9_./%+-]*", re.ASCII)


def settings_data(
    route: CompiledRoute, faults: Sequence[CompiledFault], facts: RequestFacts
) -> dict[str, Any]:
    """What applies to a request on this route, spelt as in a policy; null is none or no limit."""
    data: dict[str, Any] = {
        "retry": None if route.retry is None else _retry_data(route.retry),
        "timeout": _duration(route.timeout),
        "connect_timeout": _duration(route.connect_timeout),
        "idle_timeout": _duration(route.idle_timeout),
        "faults": [_fault_data(fault.source) for fault in faults],
        "mtls": route.mtls or "off",
    }
    if route.sticky is not None:
        data["sticky"] = route.sticky.source.document()
    if route.circuit_breaker is not None:
        data["circuit_breaker"] = _whole(route.circuit_breaker.source)
    if route.request_headers is not None:
        data["request_headers"] = route.request_headers.source.document()
    if route.response_headers is not None:
        data["response_headers"] = route.response_headers.source.document()
    if route.rate_limit is not None:
        data["rate_limit"] = route.rate_limit.source.document()
    if route.mirror is not None:
        data["mirror"] = route.mirror.source.document()
    if route.cors is not None:
        data["cors"] = route.cors.source.document()
    if route.rewrite is not None:
        data["rewrite"] = route.rewrite.source.document()
        if route.rewrite.path is not None:
            data["target"] = route.rewrite.path.target(facts)
    if route.redirect is not None:
        data["redirect"] = route.redirect.source.document()
        scheme = "https" if facts.port == 443 else "http"
        data["location"] = route.redirect.location(facts, scheme)
    if route.respond is not None:
        fields = {name.decode(): value.decode() for name, value in route.respond.fields}
        data["respond"] = {
            "status": route.respond.status,
            "headers": fields,
            "body": route.respond.body.decode(),
        }
    if route.access_log is not None:
        only = {"only": "errors"} if route.access_log.only_errors else {}
        data["access_log"] = {"sample": _number(route.access_log.sample), **only}
    return data


def _fault_data(fault: Fault) -> dict[str, Any]:
    """As it is written, and when it expires."""
    end = end_text(fault)
    return fault.document() if end is None else {**fault.document(), "expires": end}


def _number(value: float) -> float:
    return int(value) if value == int(value) else value


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else format_duration(seconds)


def _whole(part: Part) -> dict[str, Any]:
    """All of it, defaults too."""
    data: dict[str, Any] = part.model_dump(mode="json", by_alias=True, exclude_none=True)
    return data


def _retry_data(retry: CompiledRetry) -> dict[str, Any]:
    """All of it, defaults too."""
    data = _whole(retry.source)
    data["methods"] = sorted(retry.methods)
    return data


def explanation_lines(facts: RequestFacts, data: dict[str, Any]) -> list[str]:
    """The same as lines: what is asked, where it goes, why, and what applies."""
    return [one_line(f"{name:<17}{text}".rstrip()) for name, text in _rows(facts, data)]


def _rows(facts: RequestFacts, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    host = f"[{facts.host}]" if ":" in facts.host else facts.host
    caller = f" from {facts.source}" if facts.source else ""
    origins = data["from"]

    def said(field: str) -> str:
        return f"   (from {origins[field]})" if field in origins else ""

    yield "request", f"{facts.method} http://{host}:{facts.port}{facts.target}{caller}"
    yield "revision", str(data["revision"])
    yield "service", data["service"] or "none claims this host"
    for name, each in _first_named("considered", data["considered"]):
        yield name, f"{each['route']}: {each['why']}"
    if data["service"] is not None:
        until = f"   (expires {data['expires']})" if data.get("expires") else ""
        yield "route", (data["label"] or "none: the document's own settings") + until
    if "idle_timeout" not in data:
        yield "answer", 'from the proxy: 404 NR (unknown_hosts: refuse in "*")'
        return
    if "authorization" in data:
        yield "authorization", f"{data['authorization']['why']}{said('authorization')}"
    if "redirect" in data:
        status = data["redirect"].get("status", 302)
        yield "answer", f"from the proxy: {status} to {data['location']}{said('redirect')}"
    if "respond" in data:
        yield "answer", f"from the proxy: {data['respond']['status']}{said('respond')}"
    for name, share in _first_named("to", data["to"]):
        yield name, f"{_share_text(share)}{said('to') if name else ''}"
    if not data["to"]:
        yield "to", f"where the caller addressed it: {host}:{facts.port}"
    if "rewrite" in data:
        seen = f": the service sees {data['target']}" if "target" in data else ""
        yield "rewrite", f"{_flow(data['rewrite'])}{seen}{said('rewrite')}"
    for field in ("timeout", "connect_timeout", "idle_timeout"):
        yield field, f"{data[field] or 'none'}{said(field)}"
    yield "retry", f"{_retry_text(data['retry'])}{said('retry')}"
    for name, fault in _first_named("faults", data["faults"] or [None]):
        yield name, f"{'none' if fault is None else _flow(fault)}{said('faults') if name else ''}"
    for name, lapsed in _first_named("expired", data.get("expired", [])):
        yield name, lapsed
    yield "mtls", f"{data['mtls']}{said('mtls')}"
    for field in _SHOWN_IF_SAID:
        if field in data:
            yield field, f"{_flow(data[field])}{said(field)}"


def _first_named(name: str, items: list[Any]) -> Iterator[tuple[str, Any]]:
    for index, item in enumerate(items):
        yield ("" if index else name), item


def _share_text(share: dict[str, Any]) -> str:
    pairs = zip(share["endpoints"], share["endpoint_shares"], strict=True)
    endpoints = ", ".join(f"{address} {100 * part:.4g} %" for address, part in pairs)
    endpoints = endpoints or "no endpoint is registered: 503 UH"
    text = f"{share['version'] or 'all versions'} {100 * share['share']:.4g} %: {endpoints}"
    if "sticky" in share:
        text += "; this user's"
    if "load_balancer" in share:
        text += f"; {_flow(share['load_balancer'])}"
    return f"{text}, this one {share['picked']}" if "picked" in share else text


def _retry_text(retry: dict[str, Any] | None) -> str:
    if retry is None or retry["attempts"] == 1:
        return "none"
    conditions = ", ".join(_flow(condition) for condition in retry["on"])
    hedge = retry.get("hedge")
    beside = f"; one more after {hedge['after']}, up to {hedge['max']} at once" if hedge else ""
    return f"{retry['attempts']} attempts on {conditions}{beside}; methods {', '.join(retry['methods'])}"


def _flow(value: Any) -> str:
    """Data as a policy in YAML's flow style would say it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(each) for each in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
