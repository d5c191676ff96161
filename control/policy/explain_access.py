"""Whether a request would be allowed, and by which rule, for `explain`."""

from random import Random
from typing import Any

from control.policy.admission import admit
from control.policy.authorizing import NOBODY, Caller, Verdict
from control.policy.facts import RequestFacts
from control.policy.routes import CompiledRoute, CompiledService


def access_data(
    service: CompiledService, route: CompiledRoute, facts: RequestFacts, caller: Caller, random: Random
) -> dict[str, Any] | None:
    """As JSON data; None: no rules stand that this request could meet.

    `rule` is null where none decided: no allow rule held, or there is none. `reading`: the path in the reading that decided,
    null where it was the one that routes see.
    """
    if not service.guarded:
        return None
    verdict = admit(service, route, facts, caller, random)
    if route.authorization is None and verdict.allowed:
        return None
    return {
        "allowed": not verdict.refused,
        "rule": verdict.rule or None,
        "audit": verdict.audit,
        "caller": None if caller == NOBODY else caller.spiffe_id,
        "reading": verdict.reading or None,
        "why": _why(verdict, caller),
        "rules": None if route.authorization is None else route.authorization.source.document(),
    }


def _why(verdict: Verdict, caller: Caller) -> str:
    who = "a caller without a verified name" if caller == NOBODY else caller.service or caller.spiffe_id
    if verdict.allowed:
        why = f"allowed by {verdict.rule}" if verdict.rule else "allowed: no rule speaks against it"
    else:
        done = (
            "would be refused (audit: let pass, flag RBAC_AUDIT)" if verdict.audit else "refused (403 RBAC)"
        )
        if verdict.rule == "path":
            why = f"{done}: the path can be read in too many ways"
        elif verdict.rule:
            why = f"{done} by {verdict.rule}"
        else:
            why = f"{done}: no allow rule holds for {who}"
    return f"{why}, read as {verdict.reading}" if verdict.reading else why
