"""What a rule of Gateway API's HTTPRoute does with a request: filters, timeouts, retries."""

from typing import Any

from control.convert.cors import gateway_cors
from control.convert.fields import UNKNOWN, Fields
from control.convert.values import ALL_METHODS, duration, header_edits, seconds
from control.policy.units import format_duration

_MODIFIERS = {"RequestHeaderModifier": "request_headers", "ResponseHeaderModifier": "response_headers"}
_BODIES = {
    "RequestHeaderModifier": "requestHeaderModifier",
    "ResponseHeaderModifier": "responseHeaderModifier",
    "RequestRedirect": "requestRedirect",
    "URLRewrite": "urlRewrite",
    "RequestMirror": "requestMirror",
    "CORS": "cors",
}


class Filters:
    """The settings that a list of filters amounts to; `mirror` is the backend to copy to, if there is one."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.mirror: tuple[Fields, float] | None = None
        self._edits: dict[str, list[tuple[Fields, Any]]] = {}

    def take(self, filters: list[Fields], *, of_backend: bool = False) -> None:
        """of_backend: the filters of a backendRef, of which only those on headers can be the rule's."""
        for each in filters:
            kind = each.text("type")
            if kind not in _BODIES or (of_backend and kind not in _MODIFIERS):
                each.lose((), f"{kind or 'a filter without a type'}: {UNKNOWN}")
                continue
            body = each.part(_BODIES[kind])
            each.done()
            if kind in _MODIFIERS:
                self._edits.setdefault(_MODIFIERS[kind], []).append((body, _operations(body)))
            elif kind == "RequestRedirect":
                if redirect := _redirect(body):
                    self.settings["redirect"] = redirect
            elif kind == "URLRewrite":
                if rewrite := _rewrite(body):
                    self.settings["rewrite"] = rewrite
            elif kind == "RequestMirror":
                self._mirror(body)
            elif (cors := gateway_cors(body)) is not None:
                self.settings["cors"] = cors
            body.done()

    def done(self) -> dict[str, Any]:
        for field, pairs in self._edits.items():
            if edits := header_edits(pairs):
                self.settings[field] = edits
        return self.settings

    def _mirror(self, body: Fields) -> None:
        if self.mirror is not None:
            body.take("backendRef", "percent", "fraction")
            body.lose((), "there is one mirror only here: this one is left out")
        else:
            percent = body.number("percent")
            if fraction := body.part("fraction"):
                percent = 100 * (fraction.number("numerator") or 0) / (fraction.number("denominator") or 100)
                fraction.done()
            self.mirror = (body.part("backendRef"), 100.0 if percent is None else percent)


def _operations(body: Fields) -> dict[str, Any]:
    said: dict[str, Any] = {"remove": body.texts("remove")}
    for kind in ("set", "add"):
        said[kind] = {}
        for each in body.parts(kind):
            name, value = each.text("name"), each.text("value")
            each.done()
            if name is not None and value is not None:
                said[kind].setdefault(name, value)
    return said


def _redirect(body: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (status := body.whole("statusCode")) is not None:
        found["status"] = status
    if (scheme := body.text("scheme")) is not None:
        found["scheme"] = scheme.lower()
    if (host := body.text("hostname")) is not None:
        found["host"] = host
    if (port := body.whole("port")) is not None:
        found["port"] = port
    elif scheme is not None:
        # Gateway API: without a port it is the scheme's own, whichever the caller used.
        found["port"] = 443 if scheme.lower() == "https" else 80
    found.update(_path(body.part("path")))
    if not found.keys() - {"status"}:
        body.lose((), "it names nothing that is other than what the caller asked for")
        return {}
    return found


def _rewrite(body: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (host := body.text("hostname")) is not None:
        found["host"] = host
    return {**found, **_path(body.part("path"))}


def _path(path: Fields) -> dict[str, Any]:
    if not path:
        return {}
    kind = path.text("type")
    whole, prefix = path.text("replaceFullPath"), path.text("replacePrefixMatch")
    path.done()
    if kind == "ReplaceFullPath" and whole is not None:
        return {"path": whole or "/"}
    if kind == "ReplacePrefixMatch" and prefix is not None:
        return {"prefix": prefix}
    path.lose((), f"{kind}: {UNKNOWN}")
    return {}


def timeouts_and_retry(rule: Fields) -> dict[str, Any]:
    """`timeout` and `retry` of a rule."""
    found: dict[str, Any] = {}
    timeouts = rule.part("timeouts")
    if (whole := timeouts.parsed("request", duration)) is not None:
        found["timeout"] = whole
    per_try = timeouts.parsed("backendRequest", seconds)
    timeouts.done()
    retry: dict[str, Any] = {}
    if said := rule.part("retry"):
        codes = said.wholes("codes")
        attempts = said.whole("attempts")
        # The number of retries is left to the implementation where it is not said; Envoy Gateway's is 2.
        retry = {"attempts": 1 + (2 if attempts is None else attempts), "methods": ALL_METHODS}
        retry["on"] = [
            "connect-failure",
            "reset",
            "timeout",
            *codes,
        ]
        if (pause := said.parsed("backoff", seconds)) is not None and pause > 0:
            retry["backoff"] = {"base": format_duration(pause), "max": format_duration(10 * pause)}
        said.done()
    if per_try:
        retry = {**(retry or {"attempts": 1}), "per_try_timeout": format_duration(per_try)}
    if retry:
        found["retry"] = retry
    return found
