"""Istio's VirtualService: its routes in their order, its destinations as versions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from control.convert.building import Draft, claimable, named_by
from control.convert.fields import UNKNOWN, Fields, Skip, whole_match
from control.convert.istio_actions import mirror_percent, settings
from control.convert.istio_match import convert_match
from control.convert.istio_rule import Rule, address_of

_SEGMENTS = "here a prefix is of whole segments: /foo and /foo/x, not /foobar"


@dataclass(frozen=True)
class Context:
    """What else is known: rules by the host they are for; the namespace; the port where none is said."""

    rules: Mapping[str, Rule]
    namespace: str
    port: int

    def key(self, host: str) -> str:
        return host_key(host, self.namespace)


def host_key(host: str, namespace: str) -> str:
    """What the names of one Kubernetes service have in common: `reviews`, `reviews.prod.svc.cluster.local`."""
    host = host.lower()
    if "." not in host:
        return f"{host}.{namespace}"
    return host.removesuffix(".cluster.local").removesuffix(".svc")


def convert(spec: Fields, name: str, context: Context) -> Draft:
    """The document of a VirtualService."""
    hosts = []
    for index, host in enumerate(spec.texts("hosts")):
        try:
            hosts.append(claimable(host))
        except ValueError as error:
            spec.lose(("hosts", index), str(error))
    origin = spec.origin
    draft = Draft(named_by(hosts, name), hosts, file=origin.file, line=origin.line)
    own = [context.rules[key] for host in hosts if (key := context.key(host)) in context.rules]
    for rule in own:
        draft.settings |= rule.settings
    if (gateways := spec.raw("gateways")) is not None and gateways != ["mesh"]:
        spec.lose(("gateways",), "there are no gateways here: it holds wherever a proxy has the policy")
    routes = spec.parts("http")
    for index, route in enumerate(routes):
        _route(draft, route, route.text("name") or f"{name}-{index}", own, context)
    for other in ("tcp", "tls"):
        spec.unsaid((other,), "only HTTP is routed here")
    spec.done()
    for rule in own:
        rule.addresses(draft, context.port)
    draft.end_routes(had_any=bool(routes))
    return draft


def _route(draft: Draft, route: Fields, name: str, own: list[Rule], context: Context) -> None:
    said = route.matches("match")
    matches, uris = [], []
    for match in said or ():
        try:
            found, uri = whole_match(match, convert_match)
        except Skip:
            continue
        matches.append(found)
        uris.append(uri)
    if "delegate" in route:
        route.take(*route.names())
        route.lose(("delegate",), f"{UNKNOWN}: the route is left out")
        return
    destinations = route.parts("route")
    extra = [each.part("headers") for each in destinations] if len(destinations) == 1 else []
    data = settings(route, extra)
    if "redirect" not in data and "respond" not in data:
        if to := _to(draft, destinations, own, context):
            data["to"] = to
        else:
            route.lose((), "it has no destination with a weight, no redirect and no directResponse")
            data["respond"] = {"status": 500}
    _mirror(draft, route, data, own, context)
    if "rewrite" in route:
        _rewrite(route.part("rewrite"), data, matches, uris)
    route.done()
    if said is None or (said and not matches):
        return
    if matches and all(matches):
        data = {"match": matches[0] if len(matches) == 1 else matches, **data}
    draft.route(name, data)


def _to(draft: Draft, destinations: list[Fields], own: list[Rule], context: Context) -> Any:
    """A `to` of ours; None: where the document goes anyway."""
    weights: dict[str, float] = {}
    for each in destinations:
        destination, weight = each.part("destination"), each.number("weight")
        if len(destinations) == 1:
            weight = 1
        else:
            each.unsaid(("headers",), f"headers of one destination among several: {UNKNOWN}")
            weight = weight or 0
        shares = _versions(draft, destination, own, context)
        each.done()
        for version in shares:
            part = weight / len(shares)
            weights[version] = weights.get(version, 0) + (int(part) if part == int(part) else part)
    if not weights or sum(weights.values()) <= 0:
        return None
    return next(iter(weights)) if len(weights) == 1 else weights


def _versions(draft: Draft, destination: Fields, own: list[Rule], context: Context) -> list[str]:
    """The versions that a destination stands for: a subset, or all of a host together."""
    host, subset = destination.text("host") or "", destination.text("subset")
    port_part = destination.part("port")
    port = port_part.whole("number")
    port_part.done()
    destination.done()
    rule = context.rules.get(context.key(host))
    if rule is not None and rule not in own and rule.has_policy:
        destination.lose(
            (), f"the trafficPolicy of {host} is that of its own document, not of {draft.service}"
        )
    mine = rule in own if rule is not None else any(context.key(host) == context.key(h) for h in draft.hosts)
    if rule is not None and rule.entries and subset is None:
        return [draft.version(host, address) for address in rule.entries]
    if subset is None and rule is not None and rule.subsets:
        return [_version(draft, destination, host, each, port, mine, context) for each in rule.subsets]
    return [_version(draft, destination, host, subset, port, mine, context)]


def _version(
    draft: Draft, at: Fields, host: str, subset: str | None, port: int | None, mine: bool, context: Context
) -> str:
    if port is None:
        at.note((), f"no port is said: {context.port} is taken (--port)")
    address = f"{address_of(host, subset)}:{context.port if port is None else port}"
    if subset is None:
        return draft.version(host.partition(".")[0], address)
    at.note(("subset",), f"{subset} of {host} is taken to be at {address}")
    return draft.version(subset if mine else f"{host.partition('.')[0]}-{subset}", address)


def _mirror(draft: Draft, route: Fields, data: dict[str, Any], own: list[Rule], context: Context) -> None:
    copies: list[tuple[Fields, float]] = []
    if "mirror" in route:
        copies.append((route.part("mirror"), mirror_percent(route)))
    for each in route.parts("mirrors"):
        share = each.part("percentage")
        percent = share.number("value")
        share.done()
        copies.append((each.part("destination"), 100 if percent is None else percent))
        each.done()
    if copies:
        copy, percent = copies.pop(0)
        (version, *more) = _versions(draft, copy, own, context)
        data["mirror"] = {"to": version, "percent": percent}
        if more:
            copy.lose((), f"it is mirrored to {version} alone")
    for copy, _ in copies:
        copy.take(*copy.names())
        copy.lose((), "there is one mirror only here: this one is left out")


def _rewrite(part: Fields, data: dict[str, Any], matches: list[dict[str, Any]], uris: list[Fields]) -> None:
    rewrite: dict[str, Any] = {}
    if (authority := part.text("authority")) is not None:
        rewrite["host"] = authority
    uri = part.text("uri")
    part.unsaid(("uriRegexRewrite",), UNKNOWN)
    part.done()
    if uri is not None and uris and all("exact" in each or "regex" in each for each in uris):
        # Without a prefix the whole path is replaced.
        rewrite["path"] = uri
    elif uri is not None:
        rewrite |= _prefix(part, uri, matches, uris)
    if rewrite:
        data["rewrite"] = rewrite


def _prefix(part: Fields, uri: str, matches: list[dict[str, Any]], uris: list[Fields]) -> dict[str, Any]:
    """Theirs puts one text in place of another; ours replaces whole segments, which is the same for some."""
    if not matches:
        matches.append({})
    found = [None if "exact" in each or "regex" in each else each.raw("prefix") or "/" for each in uris] or [
        "/"
    ]
    insensitive = any(match.get("path", {}).get("regex", "").startswith("(?i)") for match in matches)
    if None in found or insensitive:
        part.lose(
            ("uri",),
            "a prefix in place of some matches alone, or of one in any case: the path stays as it is",
        )
        return {}
    if found != ["/"] or uri != "/":
        part.lose(("uri",), _SEGMENTS)
    for match, text in zip(matches, found, strict=True):
        match["path"] = {"prefix": text}
    return {} if found == ["/"] and uri == "/" else {"prefix": uri}
