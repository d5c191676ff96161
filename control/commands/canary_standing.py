"""The canaries that are under way, for `mitmesh status`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from control.store import Held


@dataclass(frozen=True)
class Standing:
    """A canary under way: a line for a person, and JSON data."""

    text: str
    data: dict[str, Any]


def under_way(canaries: "Mapping[str, Held]") -> list[Standing]:
    """Those that are not over, by service. What another release wrote is passed over: `mitmesh canary` tells."""
    if not canaries:
        return []
    from control.canary.plan import RUNNING, read_state
    from control.commands.canary_view import outcome, state_data

    found = []
    for service, held in sorted(canaries.items()):
        state = read_state(held.state)
        if state is None or state.status != RUNNING:
            continue
        unwatched = (
            "" if held.is_held else f"; nobody watches it: mitmesh canary {service}, or with --abort back"
        )
        data = {**state_data(state), "watched": held.is_held}
        found.append(Standing(f"canary of {outcome(state)[0]}{unwatched}", data))
    return found
