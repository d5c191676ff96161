"""mitmesh rollback: the policy as it was."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from control.commands.changing import Outcome, change_in, tell
from control.commands.options import Json, Mesh, Message, Redis, Wait, target_of, wait_seconds

if TYPE_CHECKING:
    from control.commands.planning import Plan
    from control.store import Store


def rollback(
    context: typer.Context,
    revision: Annotated[int, typer.Argument(metavar="REVISION", min=0, help="as `mitmesh history` shows it")],
    wait: Wait = None,
    message: Message = "",
    as_json: Json = False,
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Make a new revision whose documents are those of an earlier one."""
    target = target_of(context, redis, mesh)
    seconds = wait_seconds(wait)

    async def go_back(store: "Store") -> Outcome:
        then = await store.at(revision)
        return await change_in(
            store,
            lambda stored: plan_back(stored, then, revision),
            message=message or f"rollback to {revision}",
            wait=seconds,
            trusted=then,
        )

    tell(target.run(go_back), as_json=as_json)


def plan_back(stored: Mapping[str, str], then: Mapping[str, str], revision: int) -> "Plan":
    """What turns the stored documents into those of `then`.

    Raises PolicyErrors if one that would come back is none by today's language.
    """
    import dataclasses

    from control.commands.planning import plan
    from control.policy.errors import PolicyErrors, Problem
    from control.policy.reading import Document, parse_stored

    file, no_line = f"revision {revision}", 0
    wanted: list[Document] = []
    problems: list[Problem] = []
    for service, text in sorted(then.items()):
        if stored.get(service) == text:
            continue
        try:
            wanted.append(Document(parse_stored(service, text), file, no_line))
        except PolicyErrors as errors:
            problems += (dataclasses.replace(problem, file=file) for problem in errors.problems)
    try:
        made = plan(stored, wanted, [service for service in stored if service not in then])
    except PolicyErrors as errors:
        problems += errors.problems
    if problems:
        raise PolicyErrors(problems)
    # As it was to the letter, even where today's normal form of it differs.
    writes = {service: then.get(service) for service in made.writes}
    return dataclasses.replace(made, writes=writes)
