"""Plain data as a policy, or everything that is wrong with it, at the places where its author wrote it."""

from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from control.policy.model import Policy
from control.policy.places import Path, find, shown

Wrong = tuple[int | None, Path, str]
"""A line, a place and a sentence."""


def validated(data: Any, holes: Collection[Path] = ()) -> tuple[Policy | None, list[Wrong]]:
    """The policy, or what is wrong: but not at or below a hole, where that has been said already."""
    try:
        return Policy.model_validate(data), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    except RecursionError:
        return None, [(None, (), "nested too deep: a policy needs a few levels")]
    wrong: list[Wrong] = []
    for each in errors:
        place = find(data, each["loc"])
        if not any(place.path[:end] in holes for end in range(len(place.path) + 1)):
            got = f", got {shown(place.value)}" if each["ctx"]["got"] else ""
            wrong.append((place.line, place.path, each["ctx"]["text"] + got))
    return None, wrong
