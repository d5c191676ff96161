"""What can only be seen across documents: services written twice, hosts claimed twice, destinations that are not there."""

from collections.abc import Mapping, Sequence

from control.policy.errors import Problem
from control.policy.model import Policy
from control.policy.reading import Document

_NOTHING: Mapping[str, Policy] = {}


def check(changed: Sequence[Document], stored: Mapping[str, Policy] = _NOTHING) -> list[Problem]:
    """Every problem of the state that would be after `changed` is applied over `stored`; empty if it is sound.

    For a deletion pass what remains as `stored`. Problems of stored documents have the file `redis`.
    """
    problems: list[Problem] = []
    return problems
