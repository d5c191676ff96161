"""mitmesh ca status: what the authority does, which certificates are in use, what was refused."""

import json
import time
from typing import TYPE_CHECKING, Any

import typer

from control.commands.certificate_lives import life_data, life_text
from control.commands.options import Json, Mesh, Redis, target_of
from control.commands.output import ago, local_time, say, say_json, table, timestamp, warn
from control.policy.units import format_duration

if TYPE_CHECKING:
    from control.store import NodeReport, Store
    from control.store_identity import Refusal

_ROOT_ENDING = 180 * 86400.0


def status(context: typer.Context, as_json: Json = False, redis: Redis = None, mesh: Mesh = None) -> None:
    """Show the authority, the certificates of the live proxies, open tokens, and what was refused.

    All of it as told in Redis: it works where the authority's folder is not.
    """
    target = target_of(context, redis, mesh)

    async def read(store: "Store") -> "tuple[dict[str, str], list[Refusal], list[NodeReport]]":
        return await store.authority(), await store.refusals(), await store.nodes()

    told, refusals, nodes = target.run(read)
    nodes = sorted((node for node in nodes if "identity" in node.extra), key=lambda n: (n.service, n.id))
    now = time.time()
    authority = _authority(told)
    if as_json:
        say_json(
            {
                "mesh": target.mesh,
                "authority": authority,
                "nodes": [
                    {"node": node.id, "service": node.service, "certificate": life_data(node, now)}
                    for node in nodes
                ],
                "refusals": [{**_fields(each), "time": timestamp(each.time)} for each in refusals],
            }
        )
        return
    if authority is None:
        say(f"mesh {target.mesh}: no certificate authority serves (`mitmesh ca serve`)")
    else:
        _tell(target.mesh, authority, now)
    if nodes:
        rows = [
            (
                node.id,
                node.service or "-",
                life_text(node, now),
                (life_data(node, now) or {}).get("error") or "-",
            )
            for node in nodes
        ]
        table(("NODE", "SERVICE", "CERTIFICATE", "ERROR"), rows)
    if refusals:
        refused = [
            (local_time(each.time), each.service or "-", each.node or "-", each.reason) for each in refusals
        ]
        table(("REFUSED", "SERVICE", "NODE", "REASON"), refused)


def _fields(refusal: "Refusal") -> dict[str, Any]:
    return {"service": refusal.service, "node": refusal.node, "reason": refusal.reason}


def _authority(told: dict[str, str]) -> dict[str, Any] | None:
    """As JSON data; None where no authority serves."""
    try:
        return {
            "started": timestamp(float(told["started"])),
            "lifetime": float(told["lifetime"]),
            "issued": int(told["issued"]),
            "refused": int(told["refused"]),
            "bundle": int(told["serial"]),
            "roots": json.loads(told["roots"]),
            "tokens": json.loads(told["tokens"]),
        }
    except (ValueError, KeyError, TypeError):
        return None


def _tell(mesh: str, authority: dict[str, Any], now: float) -> None:
    say(
        f"mesh {mesh}: the certificate authority serves, certificates of {format_duration(authority['lifetime'])};"
        f" {authority['issued']} issued, {authority['refused']} refused"
    )
    for root in authority["roots"]:
        role = "signs" if root["signing"] else "is trusted too"
        say(f"root {root['fingerprint']} {role}, {ago(root['not_after'] - now)} left")
        if root["signing"] and root["not_after"] - now < _ROOT_ENDING:
            warn("the root that signs ends within half a year: `mitmesh ca rotate`")
    if authority["tokens"]:
        rows = [
            (each["token"], each["service"], str(each["left"]), ago(each["expires"] - now))
            for each in authority["tokens"]
        ]
        table(("TOKEN", "SERVICE", "USES LEFT", "TIME LEFT"), rows)
