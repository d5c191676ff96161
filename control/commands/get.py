"""mitmesh get: the documents that Redis holds."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from control.commands.delete import found_in
from control.commands.failure import Failed
from control.commands.options import Json, Mesh, Redis, target_of
from control.commands.output import remark, say_json, warn

if TYPE_CHECKING:
    from control.store import Store, Stored


class Form(StrEnum):
    yaml = "yaml"
    json = "json"


def get(
    context: typer.Context,
    service: Annotated[
        str | None, typer.Argument(metavar="[SERVICE]", help="without it: all documents")
    ] = None,
    output: Annotated[
        Form, typer.Option("--output", "-o", metavar="yaml|json", help="how to write them")
    ] = Form.yaml,
    as_json: Json = False,
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Print the policy in Redis.

    `mitmesh apply -f -` takes it again. As JSON, one service is an object, all
    of them are a list.
    """
    from control.commands.planning import read_stored

    async def read(store: "Store") -> "Stored":
        return await store.read()

    stored = dict(target_of(context, redis, mesh).run(read).documents)
    if service is not None:
        name = found_in(stored, service)
        stored = {name: stored[name]}
    good, nonsense = read_stored(stored)
    if nonsense and service is not None:
        raise Failed(f"error: {nonsense[0]}; stored is: {stored[nonsense[0].document]}")
    for problem in nonsense:
        warn(str(problem))
    policies = [good[name] for name in sorted(good)]
    if as_json or output is Form.json:
        documents = [policy.document() for policy in policies]
        say_json(documents if service is None else documents[0])
    elif policies:
        from control.policy.reading import to_yaml

        print(to_yaml(policies), end="")
    elif not stored:
        remark("no policy yet: `mitmesh apply -f FILE` writes some")
