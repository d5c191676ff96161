"""What `mitmesh status` and `mitmesh ca status` show of a proxy's certificate."""

import json
from typing import TYPE_CHECKING, Any

from control.commands.output import ago, timestamp
from control.identity.lives import Life

if TYPE_CHECKING:
    from control.store import NodeReport


def life_data(node: "NodeReport", now: float) -> dict[str, Any] | None:
    """The node's certificate as JSON data, `left` in seconds; None where it has and wants none."""
    try:
        said = json.loads(node.extra.get("identity", ""))
        life = Life(float(said["obtained"]), float(said["not_after"]))
        return {
            "id": str(said["id"]),
            "not_after": timestamp(life.not_after) if said["id"] else None,
            "left": round(max(0.0, life.not_after - now), 3) if said["id"] else None,
            "ending": bool(said["id"]) and life.ending(now),
            "root": str(said["root"]),
            "bundle": int(said["bundle"]),
            "error": str(said["error"]),
        }
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        return None


def life_text(node: "NodeReport", now: float) -> str:
    """`11h left`, `3.1s left, ending`, `expired`, `none yet`; `-` where it has and wants none."""
    data = life_data(node, now)
    if data is None:
        return "-"
    if not data["id"]:
        return "none yet"
    if not data["left"]:
        return "expired"
    return f"{ago(data['left'])} left{', ending' if data['ending'] else ''}"
