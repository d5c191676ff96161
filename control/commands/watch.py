"""mitmesh watch: changes of the policy as they happen."""

from typing import TYPE_CHECKING

import typer

from control.commands.history import entry_data
from control.commands.options import Json, Mesh, Redis, target_of
from control.commands.output import local_time, say, say_json

if TYPE_CHECKING:
    from control.store import Entry, Store


def watch(context: typer.Context, as_json: Json = False, redis: Redis = None, mesh: Mesh = None) -> None:
    """Follow the changes of the policy, a line each, until Ctrl-C.

    A lost connection is taken up again, and what happened meanwhile is shown
    then. With --json, each change is one line of JSON as in `history --json`.
    """

    async def follow(store: "Store") -> None:
        from control.commands.following import changes

        async for entry in changes(store):
            if as_json:
                say_json(entry_data(entry), indent=None)
            else:
                say(_line(entry))

    target_of(context, redis, mesh).run(follow)


def _line(entry: "Entry") -> str:
    services = ", ".join(sorted(entry.changes))
    line = f"{entry.revision}  {local_time(entry.time)}  {entry.author}  {services}"
    return f"{line}  {entry.message}" if entry.message else line
