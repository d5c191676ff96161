"""What a route of Istio's VirtualService does with its requests, but for where it sends them."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from control.convert.cors import istio_cors
from control.convert.fields import UNKNOWN, Fields
from control.convert.values import ALL_METHODS, duration, header_edits, seconds
from control.policy.grpc_status import GRPC_STATUSES
from control.policy.units import format_duration

_RETRY_WORDS = {
    "5xx": "5xx",
    "gateway-error": "gateway-error",
    "reset": "reset",
    "connect-failure": "connect-failure",
    "retriable-4xx": "retriable-4xx",
    # A stream that was refused was not begun: in HTTP/1.1 that is a connection that did not come about.
    "refused-stream": "connect-failure",
}
_DEFAULT_RETRY = ["connect-failure", 503]


def headers(parts: list[Fields]) -> dict[str, Any]:
    """`request_headers` and `response_headers` of `headers` of a route and of its destination."""
    found: dict[str, Any] = {}
    for theirs, ours in (("request", "request_headers"), ("response", "response_headers")):
        pairs: list[tuple[Fields, Mapping[str, Any]]] = []
        for part in parts:
            said = part.part(theirs)
            texts = {kind: said.part(kind) for kind in ("set", "add")}
            operations: dict[str, Any] = {
                kind: {name: text for name in each.names() if (text := each.text(name)) is not None}
                for kind, each in texts.items()
            }
            pairs.append((said, {**operations, "remove": said.texts("remove")}))
            said.done()
        if edits := header_edits(pairs):
            found[ours] = edits
    for part in parts:
        part.done()
    return found


def redirect(part: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {"status": part.whole("redirectCode") or 301}
    if (path := part.text("uri")) is not None:
        found["path"] = path
    if (authority := part.text("authority")) is not None:
        host, colon, port = authority.partition(":")
        found["host"] = host
        if colon:
            found["port"] = int(port) if port.isdigit() else port
    if (scheme := part.text("scheme")) is not None:
        found["scheme"] = scheme
    if (port_number := part.whole("port")) is not None:
        found["port"] = port_number
    derived = part.text("derivePort")
    if derived == "FROM_PROTOCOL_DEFAULT":
        found["port"] = 443 if scheme == "https" else 80
    elif derived not in (None, "FROM_REQUEST_PORT"):
        part.lose(("derivePort",))
    part.done()
    return found


def direct_response(part: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {"status": part.whole("status") or 200}
    body = part.part("body")
    if (text := body.text("string")) is not None:
        found["body"] = text
    if (coded := body.text("bytes")) is not None:
        try:
            found["body"] = base64.b64decode(coded, validate=True).decode()
        except (binascii.Error, ValueError):
            body.lose(("bytes",), "a body here is text")
    body.done()
    part.done()
    return found


def retry(part: Fields) -> dict[str, Any] | None:
    """Their attempts are those after the first one."""
    attempts = part.whole("attempts")
    found: dict[str, Any] = {"attempts": 1 + (2 if attempts is None else attempts), "methods": ALL_METHODS}
    words = part.text("retryOn")
    if words is None:
        found["on"] = _DEFAULT_RETRY
    else:
        on: list[Any] = []
        for word in filter(None, (word.strip() for word in words.split(","))):
            if word in _RETRY_WORDS:
                on.append(_RETRY_WORDS[word])
            elif re.fullmatch(r"[1-5]\d\d", word):
                on.append(int(word))
            elif word != "retriable-status-codes":
                part.lose(("retryOn",), f"{word}: {UNKNOWN}")
        found["on"] = list(dict.fromkeys(on))
    if per_try := part.parsed("perTryTimeout", seconds):
        found["per_try_timeout"] = format_duration(per_try)
    if pause := part.parsed("backoff", seconds):
        found["backoff"] = {"base": format_duration(pause), "max": format_duration(10 * pause)}
    if part.truth("retryIgnorePreviousHosts") is False:
        found["other_endpoint"] = False
    part.unsaid(("retryRemoteLocalities",), UNKNOWN)
    part.done()
    return found if found["attempts"] > 1 and found["on"] else None


def faults(part: Fields) -> list[dict[str, Any]]:
    """Theirs hit a request once, before it is tried."""
    found: list[dict[str, Any]] = []
    delay, abort = part.part("delay"), part.part("abort")
    if delay:
        share = _percent(delay)
        if (fixed := delay.parsed("fixedDelay", duration)) is not None:
            found.append({"percent": share, "delay": fixed})
        delay.done()
    if abort:
        share = _percent(abort)
        if (status := abort.whole("httpStatus")) is not None:
            found.append({"percent": share, "abort": status})
        if (code := abort.text("grpcStatus")) is not None:
            if code in GRPC_STATUSES:
                found.append({"percent": share, "abort": {"grpc": code}})
            else:
                abort.lose(("grpcStatus",), f"{code}: {UNKNOWN}")
        abort.done()
    part.done()
    return [{**fault, "scope": "request"} for fault in found]


def _percent(part: Fields) -> float:
    whole = part.number("percent")
    share = part.part("percentage")
    value = share.number("value")
    share.done()
    return 100 if value is None and whole is None else (whole if value is None else value) or 0


def mirror_percent(route: Fields) -> float:
    """How much of the requests a route mirrors."""
    for name in ("mirrorPercent", "mirror_percent"):
        if (percent := route.number(name)) is not None:
            return percent
    part = route.part("mirrorPercentage")
    value = part.number("value")
    part.done()
    return 100 if value is None else value


def settings(route: Fields, destination_headers: list[Fields]) -> dict[str, Any]:
    """All settings of a route that need nothing but itself."""
    found = headers([route.part("headers"), *destination_headers])
    if (whole := route.parsed("timeout", duration)) is not None:
        found["timeout"] = whole
    if "retries" in route and (tried := retry(route.part("retries"))) is not None:
        found["retry"] = tried
    if "fault" in route and (hit := faults(route.part("fault"))):
        found["faults"] = hit
    if "redirect" in route:
        found["redirect"] = redirect(route.part("redirect"))
    elif "directResponse" in route:
        found["respond"] = direct_response(route.part("directResponse"))
    if "corsPolicy" in route and (cors := istio_cors(route.part("corsPolicy"))) is not None:
        found["cors"] = cors
    return found
