"""What a sound policy says that can never work, or that nobody can have meant: accepted, but told to its author. Pure."""

import re
from collections.abc import Callable, Iterator, Sequence

from control.policy.errors import Problem
from control.policy.matching import compile_match
from control.policy.model import DEFAULTS_SERVICE, Policy, Route
from control.policy.places import Path, field_text, find
from control.policy.reading import Document
from control.policy.shadowing import covers
from control.policy.stickiness import can_be_set
from control.policy.units import format_duration

Doubt = tuple[Path, str]
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]+", re.ASCII)
# What acts on the way to a service, and so never where the proxy answers.
_ON_THE_WAY = ("to", "mirror", "retry", "rewrite", "circuit_breaker")


def doubts(documents: Sequence[Document], defaults: Policy | None = None) -> list[Problem]:
    """The doubts about these documents, in the order of their files; each names its place and a remedy.

    `defaults` is the document of `"*"` beside them, unless it is one of them.
    """
    found = []
    for document in documents:
        if document.policy.service == DEFAULTS_SERVICE:
            defaults = document.policy
    for document in documents:
        policy = document.policy
        here = [*_times(policy, defaults), *(doubt for ask in _DOUBTS for doubt in ask(policy))]
        places = [(find(document.data, path), path, message) for path, message in here]
        problems = []
        for place, path, message in places:
            known = document.data is not None
            line = (place.line if known else None) or document.line or None
            field = field_text(place.path if known else path)
            problems.append(Problem(document.file, line, policy.service, field, message))
        found += sorted(problems, key=lambda problem: problem.line or 0)
    return found


def _levels(policy: Policy) -> Iterator[tuple[Path, Policy | Route]]:
    yield (), policy
    for index, route in enumerate(policy.routes):
        yield ("routes", index), route


def _named(index: int, route: Route) -> str:
    return f"routes[{index}]" + (f" ({route.name})" if route.name else "")


def _shadowed(policy: Policy) -> Iterator[Doubt]:
    conditions = [compile_match(route.match) for route in policy.routes]
    for index, narrow in enumerate(conditions):
        for earlier, wide in enumerate(conditions[:index]):
            # One that expires lets the later one have its turn.
            if policy.routes[earlier].for_ is None and covers(wide, narrow):
                taker = _named(earlier, policy.routes[earlier])
                message = f"{taker} takes every request that this one matches: move this one before it, or take it out"
                yield ("routes", index), message
                break


def _times(policy: Policy, defaults: Policy | None) -> Iterator[Doubt]:
    for path, level in _levels(policy):
        above = [policy, *([defaults] if defaults is not None else [])]
        said = [part.timeout for part in (level, *above) if part.timeout is not None]
        timeout = said[0] if said else None
        if not timeout:
            continue
        retries = [part.retry for part in (level, *above) if part.retry is not None]
        retry = retries[0] if retries else None
        per_try = None if retry is None else retry.per_try_timeout
        if per_try is not None and per_try > timeout and (level.retry or level.timeout is not None):
            place = (*path, "retry", "per_try_timeout") if level.retry else (*path, "timeout")
            each, all_together = format_duration(per_try), format_duration(timeout)
            remedy = "make per_try_timeout shorter than timeout"
            yield place, f"a try may take {each}, but all of them together only {all_together}: {remedy}"
        if level.connect_timeout is not None and level.connect_timeout > timeout:
            yield (
                (*path, "connect_timeout"),
                f"never ends anything, since timeout is {format_duration(timeout)}: make it shorter than that",
            )


def _once(policy: Policy) -> Iterator[Doubt]:
    for path, level in _levels(policy):
        retry = level.retry
        if retry is not None and retry.attempts == 1:
            idle = [name for name in ("on", "methods", "backoff", "budget") if name in retry.model_fields_set]
            if idle:
                message = f"one try is no retry, so {idle[0]} does nothing: 2 and more try again, 1 alone is enough for none"
                yield (*path, "retry", "attempts"), message


def _hedges(policy: Policy) -> Iterator[Doubt]:
    for path, level in _levels(policy):
        retry = policy.retry if level.retry is None else level.retry
        if retry is None or retry.hedge is None or (level.retry is None and level.timeout is None):
            continue
        timeout = policy.timeout if level.timeout is None else level.timeout
        limits = {"timeout": timeout, "per_try_timeout": retry.per_try_timeout}
        for name, limit in limits.items():
            if limit and retry.hedge.after >= limit:
                place = (*path, "retry", "hedge", "after") if level.retry else (*path, "timeout")
                after = format_duration(retry.hedge.after)
                yield (
                    place,
                    f"no try lasts {after}, since {name} is {format_duration(limit)}: make hedge.after shorter",
                )
                break


def _unreached(policy: Policy) -> Iterator[Doubt]:
    for path, level in _levels(policy):
        if level is policy and policy.routes:
            continue  # routes may answer otherwise, and inherit the rest
        answer = "redirect" if level.redirect else "respond" if level.respond else ""
        idle = [name for name in _ON_THE_WAY if getattr(level, name, None) is not None]
        if answer and idle:
            verb = "do" if len(idle) > 1 else "does"
            yield (
                (*path, answer),
                f"answers every request, so {', '.join(idle)} {verb} nothing beside it: leave out one or the other",
            )


def _faults(policy: Policy) -> Iterator[Doubt]:
    if policy.service != DEFAULTS_SERVICE:
        return
    for index, fault in enumerate(policy.faults or ()):
        bounded = fault.match or fault.for_ or fault.first or fault.allow_header or fault.max_active
        if fault.percent >= 100 and not bounded and (fault.every or 1) == 1:
            yield (
                ("faults", index),
                "hits every request of the whole mesh, for ever: give it `for`, `percent`, `first` or `match`",
            )


def _origins(policy: Policy) -> Iterator[Doubt]:
    for path, level in _levels(policy):
        if level.cors is None:
            continue
        for index, matcher in enumerate(level.cors.allow_origins):
            origin = matcher.exact
            if origin is not None and origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                yield (
                    (*path, "cors", "allow_origins", index),
                    f"no browser sends the origin {origin}: write scheme://host, with the port if it is not the scheme's own",
                )
            if origin == "*" and level.cors.allow_credentials:
                yield (
                    (*path, "cors", "allow_origins", index),
                    "every website may read answers to a visitor's cookies: name the origins, or leave out allow_credentials",
                )


def _stars(policy: Policy) -> Iterator[Doubt]:
    for path, level in _levels(policy):
        if level.cors is None or not level.cors.allow_credentials:
            continue
        for field in ("allow_methods", "allow_headers", "expose_headers"):
            if "*" in getattr(level.cors, field):
                message = "with allow_credentials browsers take * for a name and not for all: list the names"
                yield (*path, "cors", field), message


def _cookies(policy: Policy) -> Iterator[Doubt]:
    for path, level in _levels(policy):
        name = None if level.sticky is None else level.sticky.cookie
        if name is None:
            continue
        if not can_be_set(name):
            message = "no cookie can have this name, so nobody keeps a version: write letters, digits and the like, such as uid"
            yield (*path, "sticky", "cookie"), message
        elif name.lower().startswith(("__host-", "__secure-")):
            message = "browsers refuse a cookie of this name that is set without TLS in mind: write another one, such as uid"
            yield (*path, "sticky", "cookie"), message


_DOUBTS: tuple[Callable[[Policy], Iterator[Doubt]], ...] = (
    _shadowed,
    _once,
    _hedges,
    _unreached,
    _faults,
    _origins,
    _stars,
    _cookies,
)
