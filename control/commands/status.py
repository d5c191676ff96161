"""mitmesh status: the proxies and what they have in force."""

import time
from typing import TYPE_CHECKING, Any

import typer

from control.breakers import breakers_of
from control.commands.canary_standing import under_way
from control.commands.certificate_lives import life_data, life_text
from control.commands.options import Json, Mesh, Redis, target_of
from control.commands.output import ago, counted, say, say_json, table, timestamp, warn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control.breakers import Ejected
    from control.store import Held, NodeReport, Store, Stored
    from control.store_identity import Refusal
    from control.store_registry import Registration

MOST_REFUSALS = 100
"""As many as are kept."""


def status(context: typer.Context, as_json: Json = False, redis: Redis = None, mesh: Mesh = None) -> None:
    """Show the live proxies, the revision each has in force, and the endpoints that are registered.

    AGE is the time since the proxy started, SEEN since its last report. A proxy
    that refused a revision or lags behind is shown, not an error of this
    command: the exit code is 0. Endpoints that a circuit breaker has ejected
    follow, with when they are tried again. Before them stand what expires, and
    the canaries under way, watched or not.
    """
    target = target_of(context, redis, mesh)

    async def read(
        store: "Store",
    ) -> "tuple[Stored, list[NodeReport], list[Refusal], dict[str, Held], dict[str, Registration]]":
        refusals, canaries = await store.refusals(MOST_REFUSALS), await store.canaries()
        return await store.read(), await store.nodes(), refusals, canaries, await store.registrations()

    stored, nodes, refusals, canaries, registrations = target.run(read)
    timed = timed_parts(stored)
    endpoints = endpoints_data(registrations)
    nodes.sort(key=lambda node: (node.service, node.id))
    now = time.time()
    if as_json:
        say_json(
            {
                "mesh": target.mesh,
                "revision": stored.revision,
                "services": sorted(stored.documents),
                "timed": [_timed_data(each, now) for each in timed],
                "nodes": [node_data(node, stored.revision, now) for node in nodes],
                "certificate_refusals": len(refusals),
                "canaries": [each.data for each in under_way(canaries)],
                "endpoints": endpoints,
            }
        )
        return
    say(
        f"mesh {target.mesh}: revision {stored.revision},"
        f" {counted(len(stored.documents), 'document')}, {counted(len(nodes), 'live node')}"
    )
    if refusals:
        last = refusals[0]
        warn(
            f"{counted(len(refusals), 'certificate request')} {'was' if len(refusals) == 1 else 'were'} refused,"
            f" the last {ago(now - last.time)} ago, {last.service or 'unknown'} at {last.node or 'unknown'}:"
            f" {last.reason} (`mitmesh ca status`)"
        )
    if nodes:
        with_certificates = any(life_data(node, now) is not None for node in nodes)
        rows = [
            (
                node.id,
                node.service or "-",
                f"{node.revision}" if node.revision == stored.revision else f"{node.revision} (not current)",
                ago(now - node.started),
                ago(now - node.seen),
                node.version,
                *([life_text(node, now)] if with_certificates else []),
                _errors(node, now) or "-",
            )
            for node in nodes
        ]
        certificate = ("CERTIFICATE",) if with_certificates else ()
        table(("NODE", "SERVICE", "REVISION", "AGE", "SEEN", "VERSION", *certificate, "ERROR"), rows)
    for each in timed:
        where, end = f"{each['service']}: {each['place']}", each["ends"]
        if end is None:
            say(f"{where} has never begun: write it with `mitmesh apply`", "yellow")
        elif _over(each, now):
            say(f"{where} expired {ago(now - end)} ago ({timestamp(end)})", "yellow")
        else:
            say(f"{where} expires in {ago(end - now)} ({timestamp(end)})")
    for each_canary in under_way(canaries):
        say(each_canary.text, "yellow")
    if ejected := [(node.id, each) for node in nodes for each in breakers_of(node)]:
        say("")
        table(("NODE", "SERVICE", "ENDPOINT", "BREAKER", "EJECTIONS"), [_row(*each) for each in ejected])
    if endpoints:
        say("")
        registered = [
            (
                each["service"],
                each["version"],
                each["address"],
                "yes" if each["mtls"] else "no",
                *each["nodes"][:1],
            )
            for each in endpoints
        ]
        table(("ENDPOINTS OF", "VERSION", "ADDRESS", "MTLS", "NODE"), registered)


def timed_parts(stored: "Stored") -> list[dict[str, Any]]:
    """Every route and fault that holds for a while, `ends` in seconds since the epoch; None: it never began."""
    found = []
    for service, text in sorted(stored.documents.items()):
        if '"for":' not in text:
            continue  # most documents have none, and there may be thousands
        from control.policy.errors import PolicyErrors
        from control.policy.expiring import NEVER_BEGUN, end_of, timed
        from control.policy.reading import parse_stored

        try:
            policy = parse_stored(service, text)
        except PolicyErrors:
            continue  # `get` and `apply` tell
        for place, part in timed(policy):
            end = end_of(part)
            found.append({"service": service, "place": place, "ends": None if end == NEVER_BEGUN else end})
    return found


def _over(part: dict[str, Any], now: float) -> bool:
    return part["ends"] is None or part["ends"] <= now


def _timed_data(part: dict[str, Any], now: float) -> dict[str, Any]:
    end = part["ends"]
    return {**part, "ends": None if end is None else timestamp(end), "expired": _over(part, now)}


def _errors(node: "NodeReport", now: float) -> str:
    """What is wrong with its policy, and with its certificate."""
    certificate = life_data(node, now)
    return "; ".join(each for each in (node.error, certificate["error"] if certificate else "") if each)


def endpoints_data(registrations: "Mapping[str, Registration]") -> list[dict[str, Any]]:
    """The endpoints that registered themselves, as JSON data; `nodes`: the proxies there, several with `--workers`."""
    found: dict[tuple[str, str, str, bool], list[str]] = {}
    for node, each in sorted(registrations.items()):
        endpoint = each.endpoint
        found.setdefault((each.service, endpoint.version, endpoint.address, endpoint.mtls), []).append(node)
    return [
        {"service": service, "version": version, "address": address, "mtls": mtls, "nodes": nodes}
        for (service, version, address, mtls), nodes in sorted(found.items())
    ]


def node_data(node: "NodeReport", current: int, now: float) -> dict[str, Any]:
    """A node as JSON data; `age` and `seen` are seconds."""
    return {
        "node": node.id,
        "service": node.service,
        "revision": node.revision,
        "current": node.revision == current,
        "error": node.error,
        "started": timestamp(node.started),
        "age": round(max(0.0, now - node.started), 3),
        "seen": round(max(0.0, now - node.seen), 3),
        "version": node.version,
        "addresses": list(node.addresses),
        "certificate": life_data(node, now),
        "breakers": [each.data() for each in breakers_of(node)],
    }


def _row(node: str, breaker: "Ejected") -> tuple[str, ...]:
    how = breaker.state
    if breaker.state == "open":
        how = f"open, probed in {ago(breaker.left)}" if breaker.left else "open, the next request is a probe"
    return node, breaker.service or "-", breaker.endpoint, how, f"{breaker.ejections}"
