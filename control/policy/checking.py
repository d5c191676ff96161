"""What can only be seen across documents: services written twice, hosts claimed twice, destinations that are not there."""

from collections.abc import Mapping, Sequence

from control.policy import claims
from control.policy.errors import Problem
from control.policy.model import Policy
from control.policy.reading import Document
from control.policy.stored import STORED

_NOTHING: Mapping[str, Policy] = {}


def check(changed: Sequence[Document], stored: Mapping[str, Policy] = _NOTHING) -> list[Problem]:
    """Every problem of the state that would be after `changed` is applied over `stored`; empty if it is sound.

    For a deletion pass what remains as `stored`. Problems of stored documents have the file `redis`.
    """
    new = [claims.of_policy(each.policy, each.file, each.data, each.line or None) for each in changed]
    replaced = {each.service for each in new}
    kept = [claims.of_policy(policy, STORED) for service, policy in stored.items() if service not in replaced]
    return list(claims.conflicts(new, kept, complete=True))
