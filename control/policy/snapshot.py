"""All policy at one moment, ready for the request path; and how one grows out of the last with only the work that a change needs."""

import gc
from collections.abc import Iterable, Mapping

from control.policy.checking import check
from control.policy.compiling import (
    Level,
    balancing_in,
    compile_defaults,
    compile_service,
    compile_unclaimed,
    reached,
)
from control.policy.endpoints import NOBODY, Endpoint, EndpointTable, Registry, compile_endpoints, registers
from control.policy.errors import PolicyErrors, Problem
from control.policy.expiring import NEVER_BEGUN, next_end
from control.policy.hosts import HostIndex
from control.policy.model import DEFAULTS_SERVICE, Policy
from control.policy.mtls import Mode, mode
from control.policy.reading import Document
from control.policy.routes import CompiledRoute, CompiledService, Share
from control.policy.stored import STORED, parse_stored

__all__ = ["EMPTY", "CompiledRoute", "CompiledService", "Endpoint", "Share", "Snapshot", "build"]


class Snapshot:
    """Immutable. `services` are the compiled documents without `"*"`; `unknown` serves hosts that nobody claims, None: refuse.

    `texts` and `policies` are the documents it was made from, `"*"` included, with what has expired. `ends`: service -> when
    the next part of its document expires, in seconds since the epoch; `expires`: the first of these moments, None: nothing will.
    `registered` are the endpoints that registered themselves, `registering` the services of which it used those.
    """

    __slots__ = (
        "defaults",
        "ends",
        "expires",
        "find",
        "hosts",
        "policies",
        "reaches",
        "registered",
        "registering",
        "revision",
        "services",
        "tables",
        "texts",
        "unknown",
    )

    def __init__(
        self,
        revision: int,
        texts: Mapping[str, str],
        policies: Mapping[str, Policy],
        services: Mapping[str, CompiledService],
        unknown: CompiledService | None,
        hosts: HostIndex,
        defaults: Level,
        tables: Mapping[str, EndpointTable],
        reaches: Mapping[str, frozenset[str]],
        ends: Mapping[str, float],
        registered: Registry = NOBODY,
        registering: frozenset[str] = frozenset(),
    ) -> None:
        self.revision = revision
        self.texts = texts
        self.policies = policies
        self.services = services
        self.unknown = unknown
        self.hosts = hosts
        self.defaults = defaults
        self.tables = tables
        self.reaches = reaches
        self.ends = ends
        self.expires = min(ends.values(), default=None)
        self.registered = registered
        self.registering = registering
        # (host, port) -> the service that claims it, or None. Bound here: one call less for each request.
        self.find = hosts.find

    def inbound_mtls(self, service: str) -> Mode | None:
        """What that service's proxies take at inbound ports: "strict" mutual TLS alone, "permissive" both, None plain."""
        compiled = self.services.get(service)
        found: Mode | None = self.defaults["mtls"] if compiled is None else compiled.own.mtls
        return found

    def __repr__(self) -> str:
        return f"<Snapshot {self.revision}: {len(self.services)} services>"


def build(
    revision: int,
    documents: Mapping[str, str],
    previous: Snapshot | None = None,
    now: float = NEVER_BEGUN,
    registered: Registry | None = None,
) -> Snapshot:
    """The snapshot of these documents (service -> normalized JSON text) at `now`, in seconds since the epoch.

    `registered` None: as before.

    With a `previous` one, only what changed is read and compiled; a service whose document, `"*"` and reached services are
    the same is the same object. Raises PolicyErrors with every problem of the changed documents and what they break.
    """
    # It makes millions of objects and no garbage: looking for garbage meanwhile would take most of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        before = EMPTY if previous is None else previous
        return _build(
            revision, documents, before, now, before.registered if registered is None else registered
        )
    finally:
        if collecting:
            gc.enable()


def _build(
    revision: int, documents: Mapping[str, str], before: Snapshot, now: float, registered: Registry
) -> Snapshot:
    changed = [service for service, text in documents.items() if before.texts.get(service) != text]
    removed = [service for service in before.texts if service not in documents]
    read = _read(changed, documents)
    kept = dict(before.policies)
    for service in removed:
        del kept[service]
    policies = {**kept, **read}
    tables = {service: table for service, table in before.tables.items() if service in documents}
    reaches = {service: names for service, names in before.reaches.items() if service in documents}
    star = policies.get(DEFAULTS_SERVICE)
    mtls = mode(star.mtls if star is not None else None, None)
    renewed = (
        {service for service, policy in policies.items() if policy.mtls is None}
        if mtls != before.defaults["mtls"]
        else set()
    )
    for service, policy in read.items():
        old = before.policies.get(service)
        if old is None or (old.endpoints, old.mtls) != (policy.endpoints, policy.mtls):
            renewed.add(service)
        reaches.pop(service, None)
        if names := reached(policy):
            reaches[service] = names
    registering = (before.registering - {*changed, *removed}) | {
        service for service, policy in read.items() if registers(policy)
    }
    moved = {service for service in registering if before.registered.get(service) != registered.get(service)}
    for service in renewed | moved:
        tables[service] = compile_endpoints(
            policies[service], mode(policies[service].mtls, mtls), registered.get(service, ())
        )
    touched = {*changed, *removed, *moved}
    reaching = {service for service, names in reaches.items() if not names.isdisjoint(touched)}
    _check(read, kept, reaches, reaching, before.hosts)

    lapsed = {service for service, end in before.ends.items() if end <= now and service in documents}
    ends = {service: end for service, end in before.ends.items() if service in documents}
    for service in {*changed, *lapsed}:
        ends.pop(service, None)
        if (end := next_end(policies[service], now)) is not None:
            ends[service] = end

    defaults, unknown = before.defaults, before.unknown
    affected: Iterable[str]
    if DEFAULTS_SERVICE in touched or DEFAULTS_SERVICE in lapsed:
        defaults = compile_defaults(star, now)
        refuse = star is not None and star.unknown_hosts == "refuse"
        unknown = None if refuse else compile_unclaimed(defaults)
        affected = policies
    else:
        affected = {*changed, *moved, *reaching, *lapsed}

    balancing_of = balancing_in(policies)
    compiled = {
        service: compile_service(policies[service], defaults, tables, balancing_of, now)
        for service in affected
        if service != DEFAULTS_SERVICE
    }
    services = {service: old for service, old in before.services.items() if service in documents}
    services.update(compiled)
    gone = [before.policies[service] for service in (*compiled, *removed) if service in before.services]
    hosts = before.hosts.changed(gone, ((policies[service], new) for service, new in compiled.items()))
    return Snapshot(
        revision,
        dict(documents),
        policies,
        services,
        unknown,
        hosts,
        defaults,
        tables,
        reaches,
        ends,
        registered,
        registering,
    )


def _read(changed: Iterable[str], documents: Mapping[str, str]) -> dict[str, Policy]:
    read = {}
    problems: list[Problem] = []
    for service in changed:
        try:
            read[service] = parse_stored(service, documents[service])
        except PolicyErrors as errors:
            problems += errors.problems
    if problems:
        raise PolicyErrors(problems)
    return read


def _check(
    read: Mapping[str, Policy],
    kept: Mapping[str, Policy],
    reaches: Mapping[str, frozenset[str]],
    reaching: Iterable[str],
    hosts: HostIndex,
) -> None:
    """Raises PolicyErrors if the documents read and those kept do not fit together.

    Among thousands of services only those are looked at that a change can concern: whose hosts it claims, who reaches what it
    changes, and whatever these reach.
    """
    documents = [Document(policy, STORED, 0) for policy in read.values()]
    concerned: set[str] = set()
    waiting = [*read, *reaching, *(owner for policy in read.values() for owner in hosts.owners(policy))]
    while waiting:
        service = waiting.pop()
        if service not in concerned:
            concerned.add(service)
            waiting += reaches.get(service, ())
    near = {service: kept[service] for service in concerned if service in kept}
    # If something is wrong, once more over all of them, for messages that know every service's name.
    if check(documents, near) and (problems := check(documents, kept)):
        raise PolicyErrors(problems)


def _empty() -> Snapshot:
    defaults = compile_defaults(None)
    return Snapshot(0, {}, {}, {}, compile_unclaimed(defaults), HostIndex(), defaults, {}, {}, {})


# What holds before anything was applied: everything is passed on with the built-in settings.
EMPTY = _empty()
