"""mitmesh validate: policy files alone, without Redis."""

from control.commands.failure import Failed
from control.commands.options import Files, Json
from control.commands.output import counted, say, say_json
from control.commands.reading import read_files


def validate(file: Files, as_json: Json = False) -> None:
    """Check policy files, without Redis.

    Every problem is reported, a line each, as `mitmesh apply` would.
    `mitmesh apply --dry-run` also checks against what is stored.
    """
    from control.policy.checking import check
    from control.policy.errors import PolicyErrors

    services: list[str] = []
    try:
        documents = read_files(file)
        services = [document.policy.service for document in documents]
        problems = tuple(check(documents))
    except PolicyErrors as errors:
        problems = errors.problems
    if as_json:
        import dataclasses

        data = {
            "valid": not problems,
            "services": services,
            "problems": [dataclasses.asdict(p) for p in problems],
        }
        say_json(data)
        if problems:
            raise Failed
    if problems:
        raise PolicyErrors(problems)
    if not as_json:
        say(f"valid: {counted(len(services), 'document')} ({', '.join(services)})")
