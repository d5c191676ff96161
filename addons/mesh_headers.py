"""The request headers that mean something to the mesh, and so must not come from outside it."""

from addons.engine.wire import Fields
from control.policy import fault_header

FORGEABLE = frozenset((fault_header.HEADER, b"x-mesh-attempts", b"x-mesh-flag", b"x-mesh-relay"))
"""In lower case. An application that passes headers on would hand them to a proxy that believes them."""


def without_forged(fields: Fields) -> Fields:
    """The fields without those; the same object where there are none."""
    for name, _ in fields:
        if name.lower() in FORGEABLE:
            return tuple([field for field in fields if field[0].lower() not in FORGEABLE])
    return fields
