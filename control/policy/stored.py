"""One value of the policies in Redis: the normalized JSON of a service, or whatever someone put there by hand."""

import json
from typing import Any

from control.policy.errors import PolicyErrors, Problem
from control.policy.model import Policy
from control.policy.places import field_text, shown
from control.policy.validating import validated

STORED = "redis"
_REMEDY = "apply the service's policy again, or delete it"


def normalize(policy: Policy) -> str:
    """The one JSON text of a policy: what Redis holds, and what two policies are compared by."""
    return json.dumps(policy.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def parse_stored(service: str, text: str) -> Policy:
    """The policy of one stored value. Raises PolicyErrors (file `redis`) if it is none, or another service's."""
    try:
        data = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        if "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise _errors(service, f"nested too deep: {_REMEDY}") from None
    except UnicodeEncodeError:
        raise _errors(service, f"half a character, as in \\ud800: {_REMEDY}") from None
    except ValueError as error:
        raise _errors(service, f"not the JSON of a policy: {error}: {_REMEDY}") from None
    if not isinstance(data, dict):
        raise _errors(service, f"a policy is a mapping, got {shown(data)}: {_REMEDY}")
    policy, problems = validated(data)
    if policy is None:
        raise PolicyErrors(
            Problem(STORED, None, service, field_text(path), text) for _, path, text in problems
        )
    if policy.service != service:
        raise _errors(service, f"{policy.service}'s document is stored under this name: {_REMEDY}", "service")
    return policy


def _errors(service: str, message: str, field: str = "") -> PolicyErrors:
    return PolicyErrors([Problem(STORED, None, service, field, message)])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(name for name in names if names.count(name) > 1))} is given twice")
    if None in found.values():
        raise ValueError(f"{shown(next(name for name in found if found[name] is None))} has no value")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of a policy")
