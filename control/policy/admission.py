"""Whether a service lets a request in: its route's rules, asked about every path that the request's may be taken for."""

from dataclasses import replace
from random import Random

from control.policy.authorizing import Caller, Verdict, judge, judge_tunnel
from control.policy.facts import RequestFacts
from control.policy.path_readings import is_plain, readings
from control.policy.routes import CompiledRoute, CompiledService


def admit(
    service: CompiledService, route: CompiledRoute, facts: RequestFacts, caller: Caller, random: Random
) -> Verdict:
    """The verdict on a request that was given this route of the service.

    A path that servers read differently is judged in each reading, by the rules of the route that it would then have.
    """
    verdict = judge(route.authorization, facts, caller)
    path = facts.target.partition("?")[0]
    if verdict.refused or is_plain(path):
        return verdict
    found = readings(path)
    if found is None:
        audit = route.authorization is not None and route.authorization.audit
        return Verdict(False, "path", audit)
    for reading in found:
        if reading != facts.path:
            other = facts.read_as(reading)
            judged = judge(service.route(other, random).authorization, other, caller)
            if judged.refused:
                return replace(judged, reading=reading)
            if verdict.allowed and not judged.allowed:
                verdict = replace(judged, reading=reading)
    return verdict


def admit_tunnel(service: CompiledService, caller: Caller) -> tuple[Verdict, bool]:
    """The verdict on a CONNECT to the service: refused where every route refuses whatever may come through it.

    The second says whether anything may come, or only HTTP, which is judged request by request.
    """
    best, anything = None, True
    for route in (*service.routes, service.own):
        rules = route.authorization
        verdict, plain = judge_tunnel(rules, caller)
        anything = anything and (plain or (rules is not None and rules.audit))
        if best is None or (verdict.allowed, verdict.audit) > (best.allowed, best.audit):
            best = verdict
    assert best is not None
    return best, anything
