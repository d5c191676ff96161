"""mitmesh validate: policy files alone, without Redis."""

from typing import Any

from control.commands.failure import Failed
from control.commands.options import Files, Json, Strict
from control.commands.output import counted, say, say_json, warn
from control.commands.reading import read_files


def validate(file: Files, strict: Strict = False, as_json: Json = False) -> None:
    """Check policy files, without Redis.

    Every problem is reported, a line each, as `mitmesh apply` would. A policy
    that can never work is a warning, or with --strict an error.
    `mitmesh apply --dry-run` also checks against what is stored.
    """
    from control.policy.checking import check
    from control.policy.doubts import doubts
    from control.policy.errors import PolicyErrors, Problem

    services: list[str] = []
    warnings: list[Problem] = []
    try:
        documents = read_files(file)
        services = [document.policy.service for document in documents]
        problems = tuple(check(documents))
        warnings = doubts(documents)
    except PolicyErrors as errors:
        problems = errors.problems
    if strict:
        problems, warnings = (*problems, *warnings), []
    if not problems:
        for warning in warnings:
            warn(str(warning))
    if as_json:
        import dataclasses

        data: dict[str, Any] = {
            "valid": not problems,
            "services": services,
            "problems": [dataclasses.asdict(p) for p in problems],
        }
        if warnings:
            data["warnings"] = [dataclasses.asdict(p) for p in warnings]
        say_json(data)
        if problems:
            raise Failed
    if problems:
        raise PolicyErrors(problems)
    if not as_json:
        say(f"valid: {counted(len(services), 'document')} ({', '.join(services)})")
