"""mitmesh delete: documents out of Redis."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from control.commands.changing import change, tell
from control.commands.failure import Failed
from control.commands.options import Json, Mesh, Message, Redis, Wait, target_of, wait_seconds

if TYPE_CHECKING:
    from control.commands.planning import Plan


def delete(
    context: typer.Context,
    service: Annotated[
        list[str], typer.Argument(metavar="SERVICE...", help='services to forget; "*" for the defaults')
    ],
    wait: Wait = None,
    message: Message = "",
    as_json: Json = False,
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Delete the document of a service.

    Refused while another service's `to` still leads there.
    """
    target = target_of(context, redis, mesh)
    seconds = wait_seconds(wait)
    from control.commands.planning import plan

    def without(stored: Mapping[str, str]) -> "Plan":
        names = [found_in(stored, name) for name in service]
        return plan(stored, (), names)

    tell(change(target, without, message=message, wait=seconds), as_json=as_json)


def found_in(stored: Mapping[str, str], name: str) -> str:
    """The name as stored, whatever its case. Raises Failed that names the nearest one there is."""
    if name in stored:
        return name
    if name.lower() in stored:
        return name.lower()
    import difflib

    near = difflib.get_close_matches(name.lower(), stored, n=1)
    if near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = "`mitmesh get` shows all there are" if stored else "there are none yet: `mitmesh apply` one"
    raise Failed(f"error: no document for service {name}; {hint}")
