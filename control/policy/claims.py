"""What the documents of a mesh claim and reach for, and whether it fits together.

A claim is drawn from a policy, or from the data of a document that has errors
elsewhere, so that one reading shows those between documents as well.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from control.policy.addresses import host_claim
from control.policy.destinations import OTHERS
from control.policy.errors import Problem
from control.policy.model import DEFAULT_VERSION, Policy
from control.policy.places import Path, field_text, find
from control.policy.values import DEFAULTS_SERVICE, service_name, version_name

_MOST_NAMED = 10


@dataclass
class Claims:
    """One document's: its hosts and destinations with their places, and its versions (None: not known)."""

    service: str
    file: str
    data: Any = None
    line: int | None = None
    hosts: list[tuple[str, Path]] = field(default_factory=list)
    versions: tuple[str, ...] | None = ()
    destinations: list[tuple[str, Path]] = field(default_factory=list)

    def problem(self, path: Path, message: str) -> Problem:
        """A problem at a place of this document."""
        place = find(self.data, path)
        if self.data is None:
            return Problem(self.file, self.line, self.service, field_text(path), message)
        return Problem(self.file, place.line or self.line, self.service, field_text(place.path), message)


def of_policy(policy: Policy, file: str, data: Any = None, line: int | None = None) -> Claims:
    """The claims of a sound document."""
    claims = Claims(policy.service, file, data, line)
    claims.hosts = [(host, ("hosts", index)) for index, host in enumerate(policy.hosts)]
    claims.versions = _versions(policy.endpoints or {})
    claims.destinations = [(name, ("to", name)) for name in policy.to or ()]
    if policy.mirror:
        claims.destinations.append((policy.mirror.to, ("mirror", "to")))
    for index, route in enumerate(policy.routes):
        if route.to:
            claims.destinations += [(name, ("routes", index, "to", name)) for name in route.to]
        if route.mirror:
            claims.destinations.append((route.mirror.to, ("routes", index, "mirror", "to")))
    return claims


def of_data(data: Mapping[str, Any], file: str, line: int, *, whole: bool) -> Claims | None:
    """The claims of a document that may have errors, as far as they can be told; None if its service cannot.

    Of one that is not there as a whole, versions and destinations are not told.
    """
    if (service := sound(service_name, data.get("service"))) is None:
        return None
    claims = Claims(service, file, data, line)
    hosts = data.get("hosts")
    for index, value in enumerate(hosts if isinstance(hosts, list) else ()):
        if (host := sound(host_claim, value)) is not None:
            claims.hosts.append((host, ("hosts", index)))
    if not whole:
        claims.versions = None
        return claims
    endpoints = data.get("endpoints", {})
    if isinstance(endpoints, list):
        claims.versions = (DEFAULT_VERSION,)
    else:
        claims.versions = _versions(endpoints) if isinstance(endpoints, dict) else None
    claims.destinations = [*_names(data.get("to"), ("to",)), *_mirrored(data, ())]
    routes = data.get("routes")
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        if isinstance(route, dict):
            claims.destinations += _names(route.get("to"), ("routes", index, "to"))
            claims.destinations += _mirrored(route, ("routes", index))
    return claims


def _versions(endpoints: Mapping[str, object]) -> tuple[str, ...] | None:
    """None where proxies say which there are."""
    return None if OTHERS in endpoints else tuple(endpoints)


def sound(parse: Callable[[object], str], value: object) -> str | None:
    """What the parser makes of a value, or None if it refuses it."""
    try:
        return parse(value)
    except ValueError:
        return None


def _names(to: object, path: Path) -> Iterator[tuple[str, Path]]:
    for name in to if isinstance(to, dict) else [to]:
        if (found := sound(version_name, name)) is not None:
            yield found, (*path, str(name))


def _mirrored(settings: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Path]]:
    mirror = settings.get("mirror")
    name = mirror.get("to") if isinstance(mirror, dict) else mirror
    if (found := sound(version_name, name)) is not None:
        yield found, (*path, "mirror", "to")


def conflicts(changed: list[Claims], stored: list[Claims], *, complete: bool) -> Iterator[Problem]:
    """What does not fit together in the state of the stored documents and those that change it.

    `complete` says that there are no other services, so that a destination that is in neither is an error.
    """
    seen: dict[str, Claims] = {}
    once: list[Claims] = []
    for claims in changed:
        if (first := seen.setdefault(claims.service, claims)) is claims:
            once.append(claims)
        else:
            message = f"{claims.service} has a document {_place(first, claims)} already: make one document of the two"
            yield claims.problem(("service",), message)
    owners: dict[str, Claims] = {}
    yield from _hosts(stored, owners)
    yield from _hosts(once, owners)
    services = {claims.service: claims for claims in [*stored, *once]}
    for claims in [*changed, *stored]:
        yield from _destinations(claims, services, complete=complete)


def _place(claims: Claims, seen_from: Claims) -> str:
    if claims.line is None:
        return f"in {claims.file}"
    return f"on line {claims.line}" if claims.file == seen_from.file else f"in {claims.file}:{claims.line}"


def _hosts(documents: list[Claims], owners: dict[str, Claims]) -> Iterator[Problem]:
    # Names first: whoever takes another service's name as a host is the one to change.
    for claims in documents:
        if (owner := owners.setdefault(claims.service, claims)) is not claims:
            yield claims.problem(("service",), _claimed(claims.service, claims, owner))
    for claims in documents:
        own: set[str] = set()
        for host, path in claims.hosts:
            owner = owners.setdefault(host, claims)
            if owner.service != claims.service:
                yield claims.problem(path, _claimed(host, claims, owner))
            elif host in own:
                yield claims.problem(path, f"{host} is listed twice: take one out")
            own.add(host)


def _claimed(host: str, claims: Claims, owner: Claims) -> str:
    both = f"both {claims.service} and {owner.service} ({_place(owner, claims)})"
    return f"{both} claim {host}: leave the host to one of them"


def _destinations(claims: Claims, services: Mapping[str, Claims], *, complete: bool) -> Iterator[Problem]:
    for name, path in claims.destinations:
        service, slash, version = name.partition("/")
        if not slash or service == claims.service:
            target: Claims | None = claims
        else:
            target = services.get(service)
        version = version if slash else name
        if target is None:
            if complete:
                known = [each for each in services if each != DEFAULTS_SERVICE]
                yield claims.problem(path, f"no service {service}{_known(service, known)}")
        elif target.versions is not None and version not in target.versions:
            if target.versions:
                message = f"{target.service} has no version {version}{_known(version, target.versions)}"
            else:
                message = (
                    f"{target.service} has no endpoints: list those of version {version} under endpoints"
                )
            if target is not claims:
                message += f" ({_place(target, claims)})"
            yield claims.problem(path, message)


def _known(name: str, names: Iterable[str]) -> str:
    known = sorted(names)
    if len(known) <= _MOST_NAMED:
        return f": known are {', '.join(known)}" if known else ": there are none"
    near = get_close_matches(name, known, n=1)
    return (
        f": did you mean {near[0]}?" if near else f": known are {', '.join(known[:_MOST_NAMED])} and others"
    )
