"""The matches of Gateway API's HTTPRoute, and which of them come first.

Gateway API has no order: an exact path goes before a prefix, a longer prefix before a shorter one, then a match with a
method, then more headers, then more query parameters, then the order of routes and rules. What a regular expression
is worth it leaves open; here, as in Envoy Gateway, it stands between exact paths and prefixes.
"""

from typing import Any

from control.convert.fields import Fields
from control.convert.values import regex

Precedence = tuple[int, int, int, int, int]
"""Sorts what goes first to the front."""

_KINDS = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}
EVERYTHING: Precedence = (-2, -1, 0, 0, 0)


def precedence(kind: str, length: int, method: bool, headers: int, query: int) -> Precedence:
    return (_KINDS[kind], -length, 0 if method else 1, -headers, -query)


def convert_match(match: Fields) -> tuple[dict[str, Any], Precedence]:
    """A match of ours and its place in the order. Raises Skip for one with a condition that is not known here."""
    found: dict[str, Any] = {}
    path = match.part("path")
    kind = path.text("type") or "PathPrefix"
    value = path.text("value") or "/"
    if kind not in _KINDS:
        raise path.skip(("type",), f"{kind} is not known: the match is left out")
    if not value.startswith("/") and kind != "RegularExpression":
        raise path.skip(("value",), "a path starts with /: the match is left out")
    if "?" in value and kind != "RegularExpression":
        raise path.skip(("value",), "a path has no query: the match is left out")
    if kind == "Exact":
        found["path"] = {"exact": value}
    elif kind == "PathPrefix":
        value = value.rstrip("/") or "/"
        if value != "/":
            found["path"] = {"prefix": value}
    else:
        found["path"] = {"regex": _expression(path, value)}
    path.done()
    if (method := match.text("method")) is not None:
        found["method"] = [method]
    for theirs, ours in (("headers", "headers"), ("queryParams", "query")):
        tests: dict[str, Any] = {}
        for each in match.parts(theirs):
            name, test = _named(each)
            # Of a name that stands there twice the first counts.
            tests.setdefault(name.lower() if ours == "headers" else name, test)
        if tests:
            found[ours] = tests
    match.done()
    rank = precedence(
        kind, len(value), method is not None, len(found.get("headers", ())), len(found.get("query", ()))
    )
    return found, rank


def _named(each: Fields) -> tuple[str, dict[str, Any]]:
    name, value = each.text("name"), each.text("value")
    kind = each.text("type") or "Exact"
    if name is None or value is None:
        raise each.skip((), "a name and a value are expected here: the match is left out")
    if kind not in ("Exact", "RegularExpression"):
        raise each.skip(("type",), f"{kind} is not known: the match is left out")
    each.done()
    return name, {"exact": value} if kind == "Exact" else {"regex": _expression(each, value)}


def _expression(fields: Fields, text: str) -> str:
    try:
        return regex(text)
    except ValueError as error:
        raise fields.skip(("value",), f"{error}: the match is left out") from None
