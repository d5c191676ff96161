"""mitmesh apply: policy files into Redis."""

from typing import Annotated

import typer

from control.commands.changing import change, tell
from control.commands.options import Files, Json, Mesh, Message, Redis, Strict, Wait, target_of, wait_seconds
from control.commands.reading import read_files


def apply(
    context: typer.Context,
    file: Files,
    wait: Wait = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check against Redis, say what would change, write nothing")
    ] = False,
    renew: Annotated[
        bool, typer.Option("--renew", help="start every `for` afresh, also of what is unchanged")
    ] = False,
    strict: Strict = False,
    message: Message = "",
    as_json: Json = False,
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Write policy to Redis, from where every proxy takes it at once.

    All files are read and checked first, against each other and against what
    Redis holds; if anything is wrong, every problem is reported and nothing is
    written. Services that the files do not name stay as they are. What is
    already so makes no new revision. A policy that can never work is a warning,
    or with --strict an error. What holds `for` a while begins with the
    apply that brings or changes it, and goes on as it was in later ones.
    """
    target = target_of(context, redis, mesh)
    seconds = wait_seconds(wait)
    documents = read_files(file)
    from control.commands.planning import plan

    outcome = change(
        target,
        lambda stored: plan(stored, documents, renew=renew, strict=strict),
        message=message,
        wait=seconds,
        dry_run=dry_run,
    )
    tell(outcome, dry_run=dry_run, as_json=as_json)
