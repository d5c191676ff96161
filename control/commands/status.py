"""mitmesh status: the proxies and what they have in force."""

import time
from typing import TYPE_CHECKING, Any

import typer

from control.commands.options import Json, Mesh, Redis, target_of
from control.commands.output import ago, counted, say, say_json, table, timestamp

if TYPE_CHECKING:
    from control.store import NodeReport, Store, Stored


def status(context: typer.Context, as_json: Json = False, redis: Redis = None, mesh: Mesh = None) -> None:
    """Show the live proxies and the revision each has in force.

    AGE is the time since the proxy started, SEEN since its last report. A proxy
    that refused a revision or lags behind is shown, not an error of this
    command: the exit code is 0.
    """
    target = target_of(context, redis, mesh)

    async def read(store: "Store") -> "tuple[Stored, list[NodeReport]]":
        return await store.read(), await store.nodes()

    stored, nodes = target.run(read)
    nodes.sort(key=lambda node: (node.service, node.id))
    now = time.time()
    if as_json:
        say_json(
            {
                "mesh": target.mesh,
                "revision": stored.revision,
                "services": sorted(stored.documents),
                "nodes": [node_data(node, stored.revision, now) for node in nodes],
            }
        )
        return
    say(
        f"mesh {target.mesh}: revision {stored.revision},"
        f" {counted(len(stored.documents), 'document')}, {counted(len(nodes), 'live node')}"
    )
    if nodes:
        rows = [
            (
                node.id,
                node.service or "-",
                f"{node.revision}" if node.revision == stored.revision else f"{node.revision} (not current)",
                ago(now - node.started),
                ago(now - node.seen),
                node.version,
                node.error or "-",
            )
            for node in nodes
        ]
        table(("NODE", "SERVICE", "REVISION", "AGE", "SEEN", "VERSION", "ERROR"), rows)


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
    }
