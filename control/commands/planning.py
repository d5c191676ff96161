"""From what is wanted and what is stored to what is written, or a refusal. Pure."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from control.policy.checking import check
from control.policy.doubts import doubts
from control.policy.errors import PolicyErrors, Problem
from control.policy.expiring import end_text, expired_text, in_force, stamped, timed
from control.policy.model import DEFAULTS_SERVICE, Policy
from control.policy.reading import Document, normalize, parse_stored
from control.policy.sticking import allotted


@dataclass(frozen=True)
class Plan:
    """Services to write, with their text (None deletes), what was found wrong in Redis on the way, and what will expire when."""

    writes: Mapping[str, str | None]
    warnings: tuple[str, ...]
    ends: tuple[str, ...] = ()


def plan(
    stored: Mapping[str, str],
    wanted: Sequence[Document],
    deleted: Collection[str] = (),
    *,
    renew: bool = False,
    strict: bool = False,
    clock: Callable[[], float] = time.time,
) -> Plan:
    """What makes the stored documents say `wanted` and forget `deleted`.

    What holds `for` a while begins now by `clock`, in seconds since the epoch, unless it stands there already; with `renew`
    all of it begins now.

    Raises PolicyErrors if the policy would then be unsound. What was unsound
    before and is not touched is no reason to refuse: it becomes a warning. So
    does what is sound and can never work, unless `strict`.
    """
    good, nonsense = read_stored(stored)
    touched = {document.policy.service for document in wanted} | set(deleted)
    problems = check(wanted, {service: policy for service, policy in good.items() if service not in deleted})
    old = set(check((), good)) if problems else set()
    if any(problem not in old for problem in problems):
        raise PolicyErrors(problem for problem in problems if problem not in old)
    doubtful = doubts(wanted, good.get(DEFAULTS_SERVICE))
    if strict and doubtful:
        raise PolicyErrors(doubtful)
    warnings = [*(problem for problem in nonsense if problem.document not in touched), *problems, *doubtful]
    writes: dict[str, str | None] = dict.fromkeys(deleted)
    now = clock()
    ends: list[str] = []
    for document in wanted:
        service = document.policy.service
        policy = stamped(document.policy, good.get(service), now, renew=renew)
        policy = allotted(policy, good.get(service))
        writes[service] = normalize(policy)
        for place, part in timed(policy):
            if in_force(part, now):
                ends.append(f"{service}: {place} expires {end_text(part)}")
            else:
                remedy = "`mitmesh apply --renew` starts it again"
                warnings.append(
                    Problem(document.file, None, service, place, f"{expired_text(part)}: {remedy}")
                )
    return Plan(writes, tuple(str(problem) for problem in warnings), tuple(ends))


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
