"""A canary's progress as it is shown: a table in place on a terminal, lines in a pipe, JSON for programs."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from control.canary.gathering import Gathering
from control.canary.judging import Next, counted, error_rate, milliseconds
from control.canary.plan import BACK, DONE, RUNNING, State, number, plan_data, split_text
from control.commands.canary_run import Show
from control.commands.output import on_terminal, remark, say, say_json, timestamp, warn
from control.histogram import quantile
from control.traffic import Row

if TYPE_CHECKING:
    from rich.console import RenderableType

TELL = 10.0
"""Seconds between lines of a step that goes on."""


def figures(row: Row) -> tuple[str, str, str]:
    """Requests, failed, p99 as a person reads them."""
    p99 = quantile(row.latency, 0.99)
    failed = f"{error_rate(row):.2f}%" if row.requests else "-"
    return str(row.requests), failed, "-" if p99 is None else milliseconds(p99)


def figures_data(row: Row) -> dict[str, Any]:
    p99 = quantile(row.latency, 0.99)
    return {
        "requests": row.requests,
        "failed": row.failed,
        "injected": row.injected,
        "p99": None if p99 is None else round(p99, 3),
    }


def outcome(state: State) -> tuple[str, str]:
    """One line on where a canary stands, and its colour."""
    plan = state.plan
    where = f"{plan.service}, route {plan.route}" if plan.route else plan.service
    if state.status == DONE:
        return f"{where}: done: {plan.to} has {number(state.percent)} %, revision {state.revision}", "green"
    if state.status == BACK:
        return f"{where}: back to {plan.source}, revision {state.revision}: {state.why}", "red"
    if state.status == RUNNING:
        step = f"step {state.step + 1} of {len(plan.steps)}"
        shares = split_text(state.stands)
        return (
            f"{where}: under way to {plan.to}, {step}: it stands at {shares}, revision {state.revision}",
            "yellow",
        )
    return (
        f"{where}: stopped at step {state.step + 1} of {len(plan.steps)}, nothing put back: {state.why}",
        "red",
    )


def state_data(state: State) -> dict[str, Any]:
    """As JSON data for programs."""
    return {
        "service": state.plan.service,
        "status": state.status,
        "step": state.step + 1,
        "steps": len(state.plan.steps),
        "percent": state.percent,
        "split": None if state.stands is None else dict(state.stands),
        "revision": state.revision,
        "why": state.why,
        "author": state.author,
        "started": timestamp(state.started),
        "ended": timestamp(state.ended) if state.ended else None,
        "plan": plan_data(state.plan),
    }


def notes(seen: Gathering, what: Next) -> str:
    """What else there is to say of a step: why it waits, which proxies are behind."""
    said = [what.why] if what.action == "wait" and what.why else []
    said += [
        f"proxy {told.node} has not taken it{f' ({told.error})' if told.error else ''}"
        for told in seen.behind[:3]
    ]
    if len(seen.behind) > 3:
        said.append(f"nor have {len(seen.behind) - 3} more")
    return "; ".join(said)


class Lines:
    """A line for every turn, and for a step that goes on now and then."""

    def __init__(self) -> None:
        self._told = 0.0

    def step(self, state: State) -> None:
        plan = state.plan
        of = f"step {state.step + 1} of {len(plan.steps)}"
        self._say(f"{plan.service}: {number(state.percent)} % to {plan.to}, {of}, revision {state.revision}")
        self._told = time.monotonic()

    def progress(self, state: State, seen: Gathering, now: float, what: Next) -> None:
        if what.action == "wait" and time.monotonic() - self._told < TELL:
            return
        self._told = time.monotonic()
        parts = []
        for version in (state.plan.to, state.plan.source):
            requests, failed, p99 = figures(counted(state.plan, seen.row(version)))
            parts.append(f"{version} {requests} requests, {failed} failed, p99 {p99}")
        note = notes(seen, what)
        self._say(f"{state.plan.service}: {'; '.join(parts)}{f' ({note})' if note else ''}")

    def trouble(self, text: str) -> None:
        if not text:
            remark("connected again")
        elif not self._in_trouble:
            warn(f"{text}; trying again")
        self._in_trouble = bool(text)

    _in_trouble = False

    def ended(self, state: State) -> None:
        self._say(*outcome(state))

    def _say(self, text: str, colour: str | None = None) -> None:
        say(f"{time.strftime('%H:%M:%S')}  {text}", colour)


class JsonLines(Lines):
    """An object a line: `event` is step, progress or ended."""

    def step(self, state: State) -> None:
        self._tell("step", state)

    def progress(self, state: State, seen: Gathering, now: float, what: Next) -> None:
        if what.action == "wait" and time.monotonic() - self._told < 1:
            return
        self._told = time.monotonic()
        plan = state.plan
        versions = {name: figures_data(seen.row(name)) for name in (plan.to, plan.source)}
        behind = [told.node for told in seen.behind]
        elapsed = round(seen.elapsed(now), 3)
        self._tell(
            "progress",
            state,
            elapsed=elapsed,
            versions=versions,
            next=what.action,
            note=what.why,
            behind=behind,
        )

    def ended(self, state: State) -> None:
        self._tell("ended", state)

    def _tell(self, event: str, state: State, **more: Any) -> None:
        say_json({"event": event, "time": timestamp(time.time()), **state_data(state), **more}, indent=None)


class Drawn:
    """A table of the steps, drawn in place."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self._past: dict[int, tuple[str, ...]] = {}
        self._trouble = ""
        self._last: tuple[State, Gathering, float, Next] | None = None

    def step(self, state: State) -> None:
        self._last = None
        self._draw(self._table(state))

    def progress(self, state: State, seen: Gathering, now: float, what: Next) -> None:
        self._last = (state, seen, now, what)
        self._past[state.step] = self._row(state, seen, now)
        self._draw(self._table(state))

    def trouble(self, text: str) -> None:
        self._trouble = text
        if self._last is not None:
            self._draw(self._table(self._last[0]))

    def ended(self, state: State) -> None:
        self._trouble = ""
        self._last = None
        self._draw(self._table(state))

    def _row(self, state: State, seen: Gathering, now: float) -> tuple[str, ...]:
        plan = state.plan
        new, old = (figures(counted(plan, seen.row(version))) for version in (plan.to, plan.source))
        return f"{seen.elapsed(now):.1f}s of {plan.every:.4g}s", *new, *old

    def _table(self, state: State) -> "RenderableType":
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        plan = state.plan
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        headings = (
            "STEP",
            "",
            "TIME",
            f"TO {plan.to}",
            "FAILED",
            "P99",
            f"TO {plan.source}",
            "FAILED",
            "P99",
        )
        for heading in headings:
            shown.add_column(Text(heading), justify="right" if heading else "left", no_wrap=True)
        for index, percent in enumerate(plan.steps):
            mark, style = self._mark(state, index)
            cells = self._past.get(index, ("",) * 7)
            shown.add_row(
                Text(f"{number(percent)} %", style), Text(mark, style), *(Text(cell, style) for cell in cells)
            )
        text, colour = outcome(state)
        below = [Text(text, colour)]
        if self._last is not None and (note := notes(self._last[1], self._last[3])):
            below.append(Text(note, "yellow"))
        if self._trouble:
            below.append(Text(f"{self._trouble}; trying again", "red"))
        return Group(shown, *below)

    @staticmethod
    def _mark(state: State, index: int) -> tuple[str, str]:
        if index < state.step or (state.status == DONE and index == state.step):
            return "passed", "green"
        if index > state.step:
            return "", "dim"
        return ("now", "bold") if state.status == RUNNING else ("broken", "red")


@contextlib.contextmanager
def shown(as_json: bool, *, drawn: bool = True) -> Iterator[Show]:
    """How the progress is shown here."""
    if as_json or not drawn or not on_terminal(sys.stdout):
        yield JsonLines() if as_json else Lines()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stdout, highlight=False)
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield Drawn(lambda table: live.update(table, refresh=True))
