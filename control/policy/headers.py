"""Changes to header fields, made ready: one pass over the fields."""

from collections.abc import Mapping
from dataclasses import dataclass

from control.policy.facts import Fields
from control.policy.model import HeaderOperations


def encode_fields(headers: Mapping[str, str]) -> Fields:
    """Policy text as it goes on the wire."""
    return tuple((name.encode(), value.encode()) for name, value in headers.items())


@dataclass(frozen=True, slots=True)
class HeaderEdit:
    """`dropped` (lower-case names) go, `appended` come at the end: what remove, set, add in that order amount to."""

    source: HeaderOperations
    dropped: frozenset[bytes]
    appended: Fields

    def apply(self, fields: Fields) -> Fields:
        """The fields after the changes; names are compared without regard to case, the others keep their order."""
        if self.dropped:
            dropped = self.dropped
            fields = tuple([field for field in fields if field[0].lower() not in dropped])
        return fields + self.appended


def compile_headers(operations: HeaderOperations) -> HeaderEdit:
    """The edit that a `request_headers` or `response_headers` describes."""
    dropped = frozenset(name.encode() for name in (*operations.remove, *operations.set))
    return HeaderEdit(operations, dropped, encode_fields(operations.set) + encode_fields(operations.add))
