"""What the store hands out, and the text each of it has in Redis. Pure: no Redis here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace


class StoreError(Exception):
    """Redis cannot be used: one line for a person with the URL (password hidden), what happened and what to do."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The whole policy at one revision: service -> JSON text. Revision 0: nothing was ever written.

    signature: text of control/signing.py; empty: it is not signed.
    """

    revision: int
    documents: dict[str, str]
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Update:
    """What has become of the policy since a known revision.

    full: `documents` is all of it. Otherwise it is the changed services alone, None where one was
    deleted, and empty when the revision is still the known one.
    """

    revision: int
    documents: dict[str, str | None]
    full: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was made: service -> (text before, text after). Empty: there was nothing to change."""

    revision: int
    changed: dict[str, tuple[str | None, str | None]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One revision in the history; `time` in Unix seconds by the writer's clock."""

    revision: int
    time: float
    author: str
    message: str
    changes: dict[str, tuple[str | None, str | None]]
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Hint:
    """A publication: this revision was made by changing these services."""

    revision: int
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """A publication: an endpoint has registered itself, changed, or is gone."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a proxy says about itself. `started` and `seen` in Unix seconds.

    `seen`, when it reported last, is set by the reader from the report's remaining life and its own
    clock, so that clocks which disagree do not make a live node look dead. `extra` are further fields that parts of the
    proxy tell of themselves, each a text; `traffic` of control/traffic.py is one of them.
    """

    id: str
    service: str
    revision: int
    error: str = ""
    version: str = ""
    started: float = 0.0
    addresses: tuple[str, ...] = ()
    seen: float = 0.0
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def traffic(self) -> str:
        """Its traffic, as text of control/traffic.py; empty if it tells nothing of it."""
        return self.extra.get("traffic", "")


# The fields of every report; what else stands in a node's hash is extra.
_REPORT = frozenset(("service", "revision", "error", "version", "started", "addresses", "ttl"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Room that `count` requests want in a bucket of a rate limit; the numbers are those of control/policy/rate_limiting.py."""

    bucket: str
    cost: int
    rate: int
    capacity: int
    count: int


def as_text(data: bytes) -> str:
    """Text of Redis; bytes that are not UTF-8, written by hand, become U+FFFD for the reader to refuse."""
    return data.decode("utf-8", "replace")


def as_number(data: bytes | None) -> int:
    """The number of `data`; ValueError unless it is plain decimal digits."""
    if data is None or not data.isdigit() or len(data) > 15:
        raise ValueError("not a whole number")
    return int(data)


def write_hint(hint: Hint) -> str:
    return json.dumps({"revision": hint.revision, "services": hint.services}, ensure_ascii=False)


def read_hint(data: bytes) -> Hint | None:
    """The hint in a publication; None if it is not one, which tells no more than: look for yourself."""
    try:
        said = json.loads(data)
        return Hint(int(said["revision"]), tuple(str(service) for service in said["services"]))
    except (ValueError, TypeError, KeyError):
        return None


def write_changes(changes: Mapping[str, tuple[str | None, str | None]]) -> str:
    return json.dumps(changes, ensure_ascii=False, separators=(",", ":"))


def read_entry(entry_id: bytes, fields: list[bytes]) -> Entry | None:
    """One entry of the history stream; None for one that the store did not write."""
    said = {as_text(name): as_text(value) for name, value in zip(fields[::2], fields[1::2], strict=True)}
    try:
        revision = as_number(entry_id.removesuffix(b"-0"))
        changes = {name: (before, after) for name, (before, after) in json.loads(said["changes"]).items()}
        if not all(text is None or isinstance(text, str) for pair in changes.values() for text in pair):
            return None
        signature = said.get("signature", "")
        return Entry(revision, float(said["time"]), said["author"], said["message"], changes, signature)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def write_report(node: NodeReport, ttl: float) -> dict[str, str]:
    return {
        **node.extra,
        "service": node.service,
        "revision": str(node.revision),
        "error": node.error,
        "version": node.version,
        "started": repr(node.started),
        "addresses": json.dumps(node.addresses),
        "ttl": repr(ttl),
    }


def read_report(node_id: str, fields: list[bytes], left: float, now: float) -> NodeReport | None:
    """The report in a node's hash with `left` seconds to live; None for a hash that is no report."""
    said = {as_text(name): as_text(value) for name, value in zip(fields[::2], fields[1::2], strict=True)}
    try:
        report = NodeReport(
            node_id,
            said["service"],
            int(said["revision"]),
            said.get("error", ""),
            said.get("version", ""),
            float(said.get("started", "0")),
            tuple(str(address) for address in json.loads(said.get("addresses", "[]"))),
            extra={name: text for name, text in said.items() if name not in _REPORT},
        )
        return replace(report, seen=now - max(0.0, float(said["ttl"]) - left))
    except (ValueError, TypeError, KeyError):
        return None
