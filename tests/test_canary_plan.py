"""What is kept of a canary, and the words of its options."""

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.canary.plan import (
    Plan,
    State,
    command,
    parse_rate,
    parse_steps,
    read_state,
    split_text,
    write_state,
)

PLAN = Plan("reviews", None, "v1", "v2", (5.0, 100.0), 30.0, 1.0, None, 50, None, False)
STATE = State(PLAN, 0, {"v1": 1}, {"v1": 95, "v2": 5}, 7, "ann@laptop", 1e9)

SHARES = st.lists(st.floats(0.001, 100).map(lambda x: round(x, 3)), min_size=1, max_size=9, unique=True)
TIMES = st.integers(1, 10**9).map(lambda milliseconds: milliseconds / 1000)
PLANS = st.builds(
    Plan,
    service=st.text(max_size=9),
    route=st.none() | st.text(max_size=9),
    source=st.text(max_size=9),
    to=st.text(max_size=9),
    steps=SHARES.map(lambda shares: tuple(sorted(shares))),
    every=TIMES,
    max_error_rate=st.none() | st.floats(0, 100),
    max_p99=st.none() | TIMES,
    min_requests=st.integers(1, 10**9),
    max_wait=st.none() | TIMES,
    count_injected=st.booleans(),
)
SPLITS = st.none() | st.dictionaries(st.text(max_size=5), st.integers(0, 100), max_size=4)


@given(PLANS, SPLITS, SPLITS, st.integers(0, 10**12), st.text(max_size=9))
def test_a_state_is_read_as_it_was_written(
    plan: Plan, stands: Any, coming: Any, revision: int, why: str
) -> None:
    state = State(plan, len(plan.steps) - 1, stands, coming, revision, "ann", 5.5, why=why)
    assert read_state(write_state(state)) == state


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "[" * 100_000]
    + [
        json.dumps({**json.loads(write_state(STATE)), **wrong})
        for wrong in ({"form": 2}, {"status": "odd"}, {"step": 2}, {"step": -1}, {"plan": None}, {"more": 1})
    ],
)
def test_a_text_that_is_no_state_is_none(text: str) -> None:
    assert read_state(write_state(STATE)) == STATE
    assert read_state(text) is None


@pytest.mark.parametrize(
    ("text", "steps"),
    [("5,25,50,100", (5, 25, 50, 100)), ("100", (100,)), ("0.5%, 1 %", (0.5, 1)), ("1,99.99", (1, 99.99))],
)
def test_steps(text: str, steps: tuple[float, ...]) -> None:
    assert parse_steps(text) == steps


@pytest.mark.parametrize(
    "text", ["", "0", "0,5", "5,5", "25,5", "5,,6", "101", "-1", "x", "1e1", "5;6", "\u0665"]
)
def test_steps_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"write (a share|shares)"):
        parse_steps(text)


def test_rates() -> None:
    assert (parse_rate("1%"), parse_rate("0"), parse_rate("0.25")) == (1, 0, 0.25)
    with pytest.raises(ValueError, match="write a share in per cent"):
        parse_rate("1.5.2%")


def test_the_command_line_that_means_a_plan() -> None:
    plan = Plan("reviews", "a b", "v1", "other/v2", (0.5, 100.0), 90.0, 0.1, 0.3, 7, 600.0, True)
    assert shlex.join(command(plan)) == (
        "mitmesh canary reviews --to other/v2 --from v1 --route 'a b' --steps 0.5,100 --every 90s"
        " --max-error-rate 0.1% --max-p99 300ms --min-requests 7 --max-wait 10m --count-injected"
    )


def test_whose_split_it_is() -> None:
    assert STATE.is_ours({"v2": 5, "v1": 95})
    assert STATE.is_ours({"v1": 1})
    assert not STATE.is_ours({"v1": 94, "v2": 6})
    assert not STATE.is_ours(None)
    assert (split_text(STATE.coming), split_text(None)) == ("v1 95, v2 5", "all versions together")
