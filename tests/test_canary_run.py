"""A run of `mitmesh canary` that finds another one in its place."""

from dataclasses import replace
from typing import Any

import pytest

from control.canary.plan import BACK, DONE, RUNNING, Plan, State, write_state
from control.commands import canary_run
from control.commands.canary_run import Runner
from control.commands.failure import Failed
from control.store import Held

PLAN = Plan("reviews", None, "v1", "v2", (5.0, 100.0), 30.0, 1.0, None, 50, None, False)
STATE = State(PLAN, 0, {"v1": 1}, {"v1": 95, "v2": 5}, 7, "ann@laptop", 1e9)


class OfAnother:
    """The store as one sees it who does not hold the canary: with each of these states in turn."""

    def __init__(self, *states: State) -> None:
        self.states = list(states)

    async def canary(self, service: str, *asked: Any) -> Held:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return Held(1e9, False, "bob process 1 ff", 1e9 + 5, write_state(state))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(canary_run.asyncio, "sleep", sleep)
    return waited


def runner(store: Any, waited: list[float]) -> Runner:
    made = Runner(store, "reviews", show=None)  # type: ignore[arg-type]  # nothing is shown
    made._clock = lambda: sum(waited)
    return made


@pytest.mark.parametrize("status", [BACK, DONE])
@pytest.mark.parametrize("looks", [0, 1, 20])
async def test_one_that_is_ended_by_another_ends_with_what_that_has_done(
    clock: list[float], status: str, looks: int
) -> None:
    """The other one takes the canary first, and writes that it is over when it is."""
    over = replace(STATE, status=status, why="ended by bob")
    run = runner(OfAnother(*[STATE] * looks, over), clock)
    assert await run.go_back(STATE, "ended by Ctrl-C") == over
    assert run.state == over


async def test_one_whose_canary_another_goes_on_with_says_so(clock: list[float]) -> None:
    run = runner(OfAnother(replace(STATE, status=RUNNING)), clock)
    with pytest.raises(Failed, match="another run has taken over the canary of reviews") as failed:
        await run.go_back(STATE, "ended by Ctrl-C")
    assert failed.value.code == 2
    assert 2 < sum(clock) < 5
