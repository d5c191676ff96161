"""How a rotation of the root goes on: which step is next. Pure.

First every proxy learns to trust the new root, while the old one signs; then the new one signs, and every proxy gets a
new certificate; then the old one is dropped. So at no moment does anybody show what another does not trust.
"""

import enum
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SETTLE = 5.0
"""Seconds that each step takes at least, for proxies that are just starting."""


@dataclass(frozen=True)
class Shown:
    """What a live proxy says of its identity: which bundle it trusts, which root signed its certificate."""

    node: str
    bundle: int
    root: str


class Step(enum.Enum):
    NONE = "no rotation under way"
    SPREAD = "proxies learn to trust the new root, the old one still signs"
    SIGN = "the new root may sign"
    RENEW = "the new root signs, certificates of the old one are renewed"
    DROP = "the old root may be dropped"


def next_step(
    rotating: bool,
    newest_signs: bool,
    serial: int,
    signing: str,
    age: float,
    lifetime: float,
    shown: Sequence[Shown],
) -> tuple[Step, list[str]]:
    """The step, and the nodes that it waits for.

    serial, signing (a fingerprint): of the authority's bundle; age: seconds since the last step; lifetime: a leaf's.
    """
    if not rotating:
        return Step.NONE, []
    if not newest_signs:
        behind = sorted(each.node for each in shown if each.bundle < serial)
        # One that does not hear Redis for a whole lifetime has no valid certificate any more.
        ready = age >= SETTLE and (not behind or age >= lifetime)
        return (Step.SIGN if ready else Step.SPREAD), behind
    behind = sorted(each.node for each in shown if each.root != signing)
    ready = age >= max(SETTLE, lifetime) and not behind
    return (Step.DROP if ready else Step.RENEW), behind


def shown_by(node: str, text: str) -> Shown | None:
    """Of the `identity` field in a node's report; None: it has none."""
    try:
        said: dict[str, Any] = json.loads(text)
        return Shown(node, int(said.get("bundle", 0)), str(said["root"])) if said.get("id") else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def all_shown(reports: Iterable[tuple[str, str]]) -> list[Shown]:
    """Of (node, text of its `identity` field)."""
    return [shown for node, text in reports if (shown := shown_by(node, text)) is not None]
