"""The matches of Istio's VirtualService: texts compared as a whole, by prefix or by regular expression."""

import re
from typing import Any

from control.convert.fields import Fields
from control.convert.values import quoted, regex, starts_with

LEFT_OUT = "no counterpart here: the match is left out"
_TOKENS = re.compile(r"[A-Za-z]+(?:\|[A-Za-z]+)*")
_KINDS = ("exact", "prefix", "regex")


def convert_match(match: Fields) -> tuple[dict[str, Any], Fields]:
    """A match of ours, and the `uri` that it came from. Raises Skip where a condition cannot be kept.

    To leave out a condition would send requests here that were meant to go on to the next route.
    """
    found: dict[str, Any] = {}
    uri, ignore_case = match.part("uri"), match.truth("ignoreUriCase")
    if path := _path(uri, ignore_case=bool(ignore_case)):
        found["path"] = path
    if "method" in match:
        found["method"] = _methods(match.part("method"))
    headers: dict[str, Any] = {}
    if "authority" in match:
        headers["host"] = _authority(match.part("authority"))
    for theirs, invert in (("headers", False), ("withoutHeaders", True)):
        listed = match.part(theirs)
        for name in listed.names():
            test = _text(listed.part(name))
            if name.startswith(":"):
                raise listed.skip((name,), LEFT_OUT)
            if name.lower() in headers:
                raise listed.skip((name,), f"two conditions on the header {name}: the match is left out")
            if invert:
                test = {"present": False} if test == {"present": True} else {"not": test}
            headers[name.lower()] = test
    if headers:
        found["headers"] = headers
    query = match.part("queryParams")
    if tests := {name: _text(query.part(name)) for name in query.names()}:
        found["query"] = tests
    # What it is called in metrics is no condition.
    match.take("name", "statPrefix")
    for name in match.names():
        if name in ("scheme", "port", "sourceLabels", "sourceNamespace", "gateways"):
            if name == "gateways" and match.texts("gateways") == ["mesh"]:
                continue
            raise match.skip((name,), LEFT_OUT)
    match.done()
    return found, uri


def _path(uri: Fields, *, ignore_case: bool) -> dict[str, Any] | None:
    """None: every path."""
    kind, text = _said(uri)
    if kind is None:
        return None
    if kind == "regex":
        # Istio: the case is ignored in exact and prefix matches only.
        return {"regex": _expression(uri, text)}
    if kind == "prefix":
        if text in ("", "/"):
            return None
        # Theirs is the beginning of a text: /foo is also that of /foobar.
        return {"regex": ("(?i)" if ignore_case else "") + starts_with(text)}
    if ignore_case:
        return {"regex": "(?i)" + quoted(text)}
    if not text.startswith("/") or "?" in text:
        raise uri.skip(("exact",), "no path is like that: the match is left out")
    return {"exact": text}


def _methods(part: Fields) -> list[str]:
    kind, text = _said(part)
    if kind == "exact":
        return [text]
    if kind == "regex" and _TOKENS.fullmatch(text):
        return text.split("|")
    raise part.skip((), LEFT_OUT)


def _authority(part: Fields) -> dict[str, Any]:
    return _text(part)


def _text(part: Fields) -> dict[str, Any]:
    """A matcher of ours; an empty one of theirs means that it is there."""
    kind, text = _said(part)
    if kind is None:
        return {"present": True}
    return {kind: _expression(part, text) if kind == "regex" else text}


def _said(part: Fields) -> tuple[str | None, str]:
    found = [(kind, text) for kind in _KINDS if (text := part.text(kind)) is not None]
    if len(found) > 1 or (part and not found):
        raise part.skip((), "one of exact, prefix and regex is expected here: the match is left out")
    part.done()
    return found[0] if found else (None, "")


def _expression(part: Fields, text: str) -> str:
    try:
        return regex(text)
    except ValueError as error:
        raise part.skip(("regex",), f"{error}: the match is left out") from None
