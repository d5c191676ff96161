"""mitmesh diff: what an apply would change, line by line."""

import difflib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import typer

from control.commands.failure import Failed
from control.commands.options import Files, Json, Mesh, Redis, target_of
from control.commands.output import coloured, remark, say_json, warn
from control.commands.reading import read_files
from control.policy.errors import one_line

if TYPE_CHECKING:
    from control.commands.planning import Plan
    from control.store import Store

DIFFERENT = 1
TROUBLE = 2


def diff(
    context: typer.Context, file: Files, as_json: Json = False, redis: Redis = None, mesh: Mesh = None
) -> None:
    """Show how policy files differ from what Redis holds.

    Exit code as of diff(1) and kubectl diff: 0 no difference, 1 differences,
    2 trouble. Services that the files do not name are left out, as `apply`
    leaves them alone.
    """
    from control.policy.errors import PolicyErrors

    try:
        _diff(context, file, as_json, redis, mesh)
    except PolicyErrors as errors:
        raise Failed(*(str(problem) for problem in errors.problems), code=TROUBLE) from None
    except Failed as failure:
        raise Failed(*failure.lines, code=failure.code if not failure.lines else TROUBLE) from None


def _diff(
    context: typer.Context, file: list[str], as_json: bool, redis: str | None, mesh: str | None
) -> None:
    from control.commands.planning import difference, plan, verb

    documents = read_files(file)

    async def against(store: "Store") -> "tuple[Mapping[str, str], Plan]":
        stored = (await store.read()).documents
        return stored, plan(stored, documents)

    stored, planned = target_of(context, redis, mesh).run(against)
    for warning in planned.warnings:
        warn(warning)
    for end in planned.ends:
        remark(end)
    changed = difference(stored, planned.writes)
    if as_json:
        data = {
            s: {"verb": verb(*pair), "diff": list(_lines(s, *pair))} for s, pair in sorted(changed.items())
        }
        say_json({"services": data})
    else:
        for service, pair in sorted(changed.items()):
            for line in _lines(service, *pair):
                print(coloured(line, _colour(line), sys.stdout))
    if changed:
        raise Failed(code=DIFFERENT)


def _lines(service: str, before: str | None, after: str | None) -> Iterator[str]:
    old, new = _readable(service, before), _readable(service, after)
    yield from difflib.unified_diff(
        old, new, f"redis/{one_line(service)}", f"files/{one_line(service)}", lineterm=""
    )


def _readable(service: str, text: str | None) -> list[str]:
    """As `mitmesh get` shows it; what is stored but no policy stays as it is."""
    from control.policy.errors import PolicyErrors
    from control.policy.reading import parse_stored, to_yaml

    if text is None:
        return []
    try:
        return to_yaml([parse_stored(service, text)]).splitlines()
    except PolicyErrors:
        return [one_line(line) for line in text.splitlines()]


def _colour(line: str) -> str:
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "plain")
