"""What a canary is to do, and where it stands: the text that is kept in Redis while it runs."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from control.policy.units import format_duration

RUNNING, DONE, BACK, STOPPED = "running", "done", "back", "stopped"
"""States: under way; all steps passed; gone back; ended where it stood, since somebody else changed the split."""
_STATUSES = (RUNNING, DONE, BACK, STOPPED)
_FORM = 1

Weights = Mapping[str, float]
"""A `to` of a policy."""


@dataclass(frozen=True)
class Plan:
    """Which version gets which shares, for how long each, and what it may not do meanwhile.

    `steps` and `max_error_rate` in per cent, times in seconds. Limits that are None are not looked at.
    `route` None: the document's own `to`. `max_wait` None: a step waits for ever for its requests.
    """

    service: str
    route: str | None
    source: str
    """The version that the shares are taken from."""
    to: str
    steps: tuple[float, ...]
    every: float
    max_error_rate: float | None
    max_p99: float | None
    min_requests: int
    max_wait: float | None
    count_injected: bool


@dataclass(frozen=True)
class State:
    """Where a canary stands. Times in Unix seconds by Redis' clock.

    `step` counts from 0. `stands` is the split as it was found or put last, None: there was no `to`; `coming`
    is the one that is being put, so that a canary that dies in between knows both. `revision` put the split.
    """

    plan: Plan
    step: int
    stands: Weights | None
    coming: Weights | None
    revision: int
    author: str
    started: float
    status: str = RUNNING
    why: str = ""
    ended: float = 0.0

    @property
    def percent(self) -> float:
        """What the step at hand gives to the new version."""
        return self.plan.steps[self.step]

    @property
    def is_new(self) -> bool:
        """Nothing was put yet."""
        return self.step == 0 and self.coming is self.stands

    def is_ours(self, split: Weights | None) -> bool:
        """Whether the split is as this canary left it."""
        return split in (self.stands, self.coming)

    def ends(self, status: str, why: str, now: float) -> "State":
        return replace(self, status=status, why=why, ended=now)


def write_state(state: State) -> str:
    return json.dumps({"form": _FORM, **asdict(state)}, ensure_ascii=False, separators=(",", ":"))


def read_state(text: str) -> State | None:
    """The state in a stored text; None: it is none, or of another release."""
    try:
        said = json.loads(text)
        if said.pop("form") != _FORM or said["status"] not in _STATUSES:
            return None
        plan = said.pop("plan")
        steps = tuple(float(step) for step in plan.pop("steps"))
        state = State(Plan(**plan, steps=steps), **said)
        return state if 0 <= state.step < len(steps) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def parse_steps(text: str) -> tuple[float, ...]:
    """`5,25,50,100`: rising shares in per cent. Raises ValueError with one sentence."""
    steps = tuple(_share(part) for part in text.split(","))
    if any(step == 0 for step in steps) or any(a >= b for a, b in pairwise(steps)):
        raise ValueError("write shares that rise, above 0 and at most 100, such as 5,25,50,100")
    return steps


def parse_rate(text: str) -> float:
    """`1%` or `0.5`: a share in per cent. Raises ValueError with one sentence."""
    return _share(text)


def _share(text: str) -> float:
    found = re.fullmatch(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*%?\s*", text, re.ASCII)
    if not found or float(found[1]) > 100:
        raise ValueError("write a share in per cent, such as 5 or 0.5%")
    return float(found[1])


def number(value: float) -> str:
    """5.0 -> `5`, 2.5 -> `2.5`."""
    return f"{value:.6g}" if math.isfinite(value) else str(value)


def split_text(split: Weights | None) -> str:
    """`v1 95, v2 5`."""
    if split is None:
        return "all versions together"
    return ", ".join(f"{name} {number(weight)}" for name, weight in split.items())


def command(plan: Plan) -> list[str]:
    """The words of the command line that mean this plan."""
    words = ["mitmesh", "canary", plan.service, "--to", plan.to, "--from", plan.source]
    if plan.route is not None:
        words += ["--route", plan.route]
    words += [
        "--steps",
        ",".join(number(step) for step in plan.steps),
        "--every",
        format_duration(plan.every),
    ]
    if plan.max_error_rate is not None:
        words += ["--max-error-rate", f"{number(plan.max_error_rate)}%"]
    if plan.max_p99 is not None:
        words += ["--max-p99", format_duration(plan.max_p99)]
    words += ["--min-requests", str(plan.min_requests)]
    if plan.max_wait is not None:
        words += ["--max-wait", format_duration(plan.max_wait)]
    return [*words, *(["--count-injected"] if plan.count_injected else [])]


def plan_data(plan: Plan) -> dict[str, Any]:
    """As JSON data for programs; times in seconds, `from` for `source`."""
    data = asdict(plan)
    data["from"] = data.pop("source")
    return {**data, "steps": list(plan.steps)}
