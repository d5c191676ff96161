"""Who runs a canary: one run of the command holds it in Redis; beginning, going on, and being refused."""

import asyncio
from dataclasses import replace

from control.canary.plan import RUNNING, Plan, State, Weights, command, read_state
from control.canary.splitting import CannotSplitError, source_of, split_of, weights, with_split
from control.commands.author import author
from control.commands.failure import Failed
from control.commands.output import remark
from control.commands.planning import plan as planned
from control.commands.planning import read_stored
from control.policy.errors import PolicyErrors
from control.policy.model import Policy
from control.policy.reading import Document
from control.store import Held, Store, Stored

HOLD = 5.0
"""Seconds after its last sign until a run counts as dead."""
LIFE = 30 * 86400.0
"""Seconds that the state of a canary under way is kept."""
_PAUSE = 0.3


def refused(*lines: str) -> Failed:
    """For what cannot be run: exit code 2."""
    return Failed(*(f"error: {line}" if not index else line for index, line in enumerate(lines)), code=2)


async def hold(store: Store, service: str, runner: str) -> Held:
    """Take the canary of a service. A run that died holds it for a few seconds more: they are waited for.

    Raises Failed where another run is alive.
    """
    held = first = await store.canary(service, runner, "take", HOLD, LIFE)
    said = False
    while not held.mine:
        if held.until > first.until or held.runner != first.runner:
            raise refused(
                f"a canary of {service} is being run by {_person(held.runner)}: "
                "watch it with --status, end it with --abort"
            )
        if not said:
            remark(f"waiting up to {HOLD:.0f} s: {_person(held.runner)} may still run this canary")
            said = True
        await asyncio.sleep(_PAUSE)
        held = await store.canary(service, runner, "take", HOLD, LIFE)
    return held


def _person(runner: str) -> str:
    """Without the secret end of a runner's name."""
    return runner.rpartition(" ")[0]


async def begin(store: Store, wanted: Plan | None, service: str, held: Held) -> State:
    """The state to go on from: of the canary that stands, or of a new one. Raises Failed."""
    old = state_of(service, held)
    if old is not None and old.status == RUNNING:
        if wanted is not None and replace(wanted, source=wanted.source or old.plan.source) != old.plan:
            raise refused(
                f"another canary of {service} is under way: "
                f"step {old.step + 1} of {len(old.plan.steps)}, started by {old.author}",
                f"go on with it: {' '.join(command(old.plan))}",
                f"or end it: mitmesh canary {service} --abort",
            )
        return old
    if wanted is None:
        raise refused(f"no canary of {service} is under way: say which version is to come with --to VERSION")
    return planned_state(await store.read(), wanted, held.now)


def state_of(service: str, held: Held) -> State | None:
    """The state that is stored, None: there is none. Raises Failed for one that cannot be read."""
    state = read_state(held.state) if held.state else None
    if held.state and state is None:
        raise refused(
            f"what Redis holds of the canary of {service} cannot be read by this release: "
            f"delete the key canary:{service} of the mesh, and look where the split stands"
        )
    return state


def planned_state(stored: Stored, wanted: Plan, now: float) -> State:
    """The state before the first step. Raises Failed where the plan does not fit the policy."""
    policy = policy_in(stored, wanted.service)
    try:
        source = source_of(policy, wanted.route, wanted.to, wanted.source or None)
        split = split_of(policy, wanted.route)
        first = weights(split, source, wanted.to, wanted.steps[0])
        new = with_split(wanted.service, stored.documents[wanted.service], wanted.route, first)
        planned(stored.documents, [Document(new, "--to", 0)])
    except CannotSplitError as error:
        raise refused(str(error)) from None
    except PolicyErrors as errors:
        raise refused(*(str(problem) for problem in errors.problems)) from None
    plan = replace(wanted, source=source)
    return State(plan, 0, split, split, stored.revision, author(), now)


def policy_in(stored: Stored, service: str) -> Policy:
    """The service's policy. Raises Failed if there is none."""
    good, nonsense = read_stored({name: text for name, text in stored.documents.items() if name == service})
    if service not in good:
        raise refused(*([str(problem) for problem in nonsense] or [f"there is no policy of {service}"]))
    return good[service]


def standing_in(stored: Stored, plan: Plan) -> Weights | None:
    """The split where the plan has it. Raises CannotSplitError if that place is gone."""
    good, _ = read_stored({name: text for name, text in stored.documents.items() if name == plan.service})
    if plan.service not in good:
        raise CannotSplitError(f"the policy of {plan.service} is gone")
    return split_of(good[plan.service], plan.route)
