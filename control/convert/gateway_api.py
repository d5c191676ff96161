"""Gateway API's HTTPRoute: rules without an order, of any number of routes, as the ordered routes of a document per host."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from control.convert.building import Draft, claimable, named_by
from control.convert.fields import UNKNOWN, Fields, Skip, whole_match
from control.convert.gateway_filters import Filters, timeouts_and_retry
from control.convert.gateway_match import Precedence, convert_match, precedence

EVERY_PATH: Precedence = precedence("PathPrefix", 1, False, 0, 0)


@dataclass(frozen=True)
class Backend:
    name: str
    address: str
    weight: float


@dataclass(frozen=True)
class Rule:
    """One rule, converted; `matches` with their places in the order. `settings` without `to`."""

    name: str
    matches: tuple[tuple[dict[str, Any], Precedence], ...]
    backends: tuple[Backend, ...]
    settings: dict[str, Any]
    mirror: tuple[Backend, float] | None


@dataclass(frozen=True)
class HttpRoute:
    """One HTTPRoute, converted. `hosts` in their normal form."""

    name: str
    hosts: tuple[str, ...]
    rules: tuple[Rule, ...]
    file: str
    line: int
    created: str


def read_route(spec: Fields, name: str, created: str) -> HttpRoute | None:
    """The HTTPRoute with this `spec`. None: it has no host that is known here."""
    services = _parents(spec)
    hosts = []
    for index, host in enumerate(spec.texts("hostnames")):
        try:
            hosts.append(claimable(host))
        except ValueError as error:
            spec.lose(("hostnames", index), str(error))
    if not hosts and not services:
        spec.lose(
            ("hostnames",), f"none: the hosts of its gateway are not known here; the service is called {name}"
        )
    rules = []
    for index, rule in enumerate(spec.parts("rules")):
        if (converted := _rule(rule, f"{name}-{index}")) is not None:
            rules.append(converted)
    spec.done()
    origin = spec.origin
    return HttpRoute(
        name, tuple(hosts or services or [name]), tuple(rules), origin.file, origin.line, created
    )


def _parents(spec: Fields) -> list[str]:
    """The hosts of parents that are services (GAMMA). What a Gateway is called does not matter here, its listeners do."""
    hosts = []
    for parent in spec.parts("parentRefs"):
        kind, name = parent.text("kind") or "Gateway", parent.text("name") or ""
        parent.take("group", "namespace")
        port = parent.whole("port")
        if kind == "Service":
            hosts.append(f"{name}:{port}".lower() if port is not None else name.lower())
        elif port is not None:
            parent.lose(("port",), "listeners are not known here: this holds for every port")
        parent.unsaid(("sectionName",), "listeners are not known here: this holds for all of them")
        parent.done()
    return hosts


def _rule(rule: Fields, otherwise: str) -> Rule | None:
    name = rule.text("name") or otherwise
    matches = []
    said = rule.matches("matches")
    for match in said or ():
        try:
            matches.append(whole_match(match, convert_match))
        except Skip:
            continue
    filters = Filters()
    filters.take(rule.parts("filters"))
    backends = []
    refs = rule.parts("backendRefs")
    for ref in refs:
        backend = _backend(ref)
        if len(refs) == 1:
            filters.take(ref.parts("filters"), of_backend=True)
        else:
            ref.unsaid(("filters",), "filters of one backend among several: " + UNKNOWN)
        ref.done()
        if backend is not None:
            backends.append(backend)
    settings = {**filters.done(), **timeouts_and_retry(rule)}
    mirror = None
    if filters.mirror is not None:
        ref, percent = filters.mirror
        copy = _backend(ref)
        ref.done()
        mirror = None if copy is None else (copy, percent)
    rule.unsaid(("sessionPersistence",), UNKNOWN)
    rule.done()
    if said is None or (said and not matches):
        return None
    if refs and not backends:
        # To leave a rule out would send its requests elsewhere.
        settings["respond"] = {"status": 500}
    return Rule(name, tuple(matches or [({}, EVERY_PATH)]), tuple(backends), settings, mirror)


def _backend(ref: Fields) -> Backend | None:
    kind, group = ref.text("kind") or "Service", ref.text("group") or ""
    name, namespace, port = ref.text("name"), ref.text("namespace"), ref.whole("port")
    weight = ref.number("weight")
    if kind != "Service" or group or name is None:
        ref.lose((), f"{group + '/' if group else ''}{kind}: {UNKNOWN}; only services are")
        return None
    if port is None:
        ref.lose((), "a port is needed: the backend is left out")
        return None
    host = f"{name}.{namespace}" if namespace else name
    return Backend(host, f"{host}:{port}", 1 if weight is None else weight)


def documents(routes: Iterable[HttpRoute]) -> list[Draft]:
    """A document for each set of hosts that the same routes are for."""
    # Ties go to the older route, then to the first by name.
    ordered = sorted(routes, key=lambda route: (route.created or "9", route.name))
    hosts = dict.fromkeys(host for route in routes for host in route.hosts)
    groups: dict[tuple[int, ...], list[str]] = {}
    for host in hosts:
        sources = tuple(index for index in _for_host(host, ordered))
        groups.setdefault(sources, []).append(host)
    drafts = []
    for sources, claimed in groups.items():
        chosen = [ordered[index] for index in sources]
        first = chosen[0]
        draft = Draft(named_by(claimed, first.name), claimed, file=first.file, line=first.line)
        _fill(draft, claimed[0], chosen)
        drafts.append(draft)
    return drafts


def _for_host(host: str, routes: list[HttpRoute]) -> list[int]:
    """The routes whose rules are for a host: those that name it, then those with a wildcard for it, the longest first."""
    found = []
    for index, route in enumerate(routes):
        lengths = [len(claim) for claim in route.hosts if claim == host or _covers(claim, host)]
        if lengths:
            found.append((host not in route.hosts, -max(lengths), index))
    return [index for _, _, index in sorted(found)]


def _covers(claim: str, host: str) -> bool:
    return claim.startswith("*.") and host.removeprefix("*").endswith(claim[1:]) and host != claim


def _fill(draft: Draft, host: str, routes: list[HttpRoute]) -> None:
    entries: list[tuple[Any, Rule, dict[str, Any]]] = []
    for number, route in enumerate(routes):
        # Rules of a more specific host go before all of a less specific one.
        depth = 0 if host in route.hosts else 1 + number
        for rule_number, rule in enumerate(route.rules):
            for match, rank in rule.matches:
                entries.append(((depth, rank, number, rule_number), rule, match))
    entries.sort(key=lambda entry: entry[0])
    position = 0
    while position < len(entries):
        rule = entries[position][1]
        matches = []
        while position < len(entries) and entries[position][1] is rule:
            matches.append(entries[position][2])
            position += 1
        draft.route(rule.name, _route(draft, rule, matches))
    draft.end_routes(had_any=True)


def _route(draft: Draft, rule: Rule, matches: list[dict[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if any("prefix" in rule.settings.get(field, {}) for field in ("rewrite", "redirect")):
        # What replaces a prefix needs one: / is every path's.
        matches = [{"path": {"prefix": "/"}, **match} for match in matches]
    if all(matches):
        data["match"] = matches[0] if len(matches) == 1 else matches
    settings = dict(rule.settings)
    weights: dict[str, float] = {}
    for backend in rule.backends:
        version = draft.version(backend.name, backend.address)
        weights[version] = weights.get(version, 0) + backend.weight
    if weights and sum(weights.values()) > 0:
        data["to"] = next(iter(weights)) if len(weights) == 1 else weights
    elif "redirect" not in settings:
        # No backend at all, or none with a weight: Gateway API answers 500.
        settings.setdefault("respond", {"status": 500})
    if rule.mirror is not None:
        copy, percent = rule.mirror
        settings["mirror"] = {"to": draft.version(copy.name, copy.address), "percent": percent}
    return {**data, **settings}
