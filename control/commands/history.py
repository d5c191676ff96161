"""mitmesh history: who changed what, when and why."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control.commands.options import Json, Mesh, Redis, target_of
from control.commands.output import local_time, remark, say_json, table, timestamp

if TYPE_CHECKING:
    from control.store import Entry, Store


def history(
    context: typer.Context,
    service: Annotated[
        str | None, typer.Argument(metavar="[SERVICE]", help="only changes of this service")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="show the newest N")] = 50,
    as_json: Json = False,
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """List the changes of the policy, the newest first.

    With --json, the documents before and after each change are in it.
    """

    async def read(store: "Store") -> "list[Entry]":
        return await store.history(service and service.lower(), limit)

    entries = target_of(context, redis, mesh).run(read)
    if as_json:
        say_json([entry_data(entry) for entry in entries])
    elif entries:
        rows = [
            (
                str(entry.revision),
                local_time(entry.time),
                entry.author,
                ", ".join(sorted(entry.changes)),
                entry.message,
            )
            for entry in entries
        ]
        table(("REVISION", "TIME", "AUTHOR", "SERVICES", "MESSAGE"), rows)
    else:
        remark("no changes yet" if service is None else f"no changes of {service} in the history")


def entry_data(entry: "Entry") -> dict[str, Any]:
    """An entry as JSON data; a document that is not JSON as the text it is."""
    changes = {
        service: {"before": _document(before), "after": _document(after)}
        for service, (before, after) in sorted(entry.changes.items())
    }
    return {
        "revision": entry.revision,
        "time": timestamp(entry.time),
        "author": entry.author,
        "message": entry.message,
        "changes": changes,
    }


def _document(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text
