"""From what is wanted and what is stored to what is written, or a refusal. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from control.policy.checking import check
from control.policy.errors import PolicyErrors, Problem
from control.policy.model import Policy
from control.policy.reading import Document, normalize, parse_stored


@dataclass(frozen=True)
class Plan:
    """Services to write, with their text (None deletes), and what was found wrong in Redis on the way."""

    writes: Mapping[str, str | None]
    warnings: tuple[str, ...]


def plan(stored: Mapping[str, str], wanted: Sequence[Document], deleted: Collection[str] = ()) -> Plan:
    """What makes the stored documents say `wanted` and forget `deleted`.

    Raises PolicyErrors if the policy would then be unsound. What was unsound
    before and is not touched is no reason to refuse: it becomes a warning.
    """
    good, nonsense = read_stored(stored)
    touched = {document.policy.service for document in wanted} | set(deleted)
    problems = check(wanted, {service: policy for service, policy in good.items() if service not in deleted})
    old = set(check((), good)) if problems else set()
    if any(problem not in old for problem in problems):
        raise PolicyErrors(problem for problem in problems if problem not in old)
    warnings = [*(problem for problem in nonsense if problem.document not in touched), *problems]
    writes: dict[str, str | None] = dict.fromkeys(deleted)
    writes.update((document.policy.service, normalize(document.policy)) for document in wanted)
    return Plan(writes, tuple(str(problem) for problem in warnings))


def read_stored(stored: Mapping[str, str]) -> tuple[dict[str, Policy], list[Problem]]:
    """The policies among the stored texts, and the first problem of each text that is none."""
    good: dict[str, Policy] = {}
    nonsense: list[Problem] = []
    for service, text in sorted(stored.items()):
        try:
            good[service] = parse_stored(service, text)
        except PolicyErrors as errors:
            first = errors.problems[0]
            nonsense.append(Problem(first.file, first.line, service, first.field, first.message))
    return good, nonsense


def difference(
    stored: Mapping[str, str], writes: Mapping[str, str | None]
) -> dict[str, tuple[str | None, str | None]]:
    """Text before and after of every service that the writes would change."""
    pairs = {service: (stored.get(service), text) for service, text in writes.items()}
    return {service: pair for service, pair in pairs.items() if pair[0] != pair[1]}


def verb(before: str | None, after: str | None) -> str:
    """`created`, `changed`, `deleted` or `unchanged`."""
    if before == after:
        return "unchanged"
    if before is None:
        return "created"
    return "deleted" if after is None else "changed"
