"""How a canary ends before its last step: Ctrl-C, --abort; and what --status says of one."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from control.commands.options import Target
from control.commands.output import remark, say, say_json

if TYPE_CHECKING:
    from control.canary.plan import State
    from control.store import Store

EXIT_CODES = {"done": 0, "back": 1, "stopped": 2}
"""By the status of a canary that ended."""


def interrupted(
    target: Target, runner: str, state: "State", message: str, as_json: bool, *, back: bool
) -> None:
    """Go back if that is wished; say what stands and how to go on."""
    from control.canary.plan import split_text, write_state
    from control.commands.canary_hold import LIFE, standing_in
    from control.commands.canary_run import Runner
    from control.commands.canary_view import shown
    from control.commands.failure import Failed

    service = state.plan.service

    async def leave(store: "Store") -> str:
        if back:
            with shown(as_json, drawn=False) as show:
                again = Runner(store, service, show, message)
                again.id = runner
                show.ended(await again.go_back(state, "ended by Ctrl-C"))
            return ""
        await store.canary(service, runner, "keep", 0, LIFE, write_state(state))
        return split_text(standing_in(await store.read(), state.plan))

    try:
        stands = target.run(leave)
    except (Failed, ValueError) as error:
        remark(str(error), "red")
        stands = f"{split_text(state.coming)}, as far as is known"
    except KeyboardInterrupt:
        stands = f"{split_text(state.coming)}, as far as is known"
    if stands:
        remark(
            f"{service}: interrupted at step {state.step + 1} of {len(state.plan.steps)}: {stands}", "yellow"
        )
        remark(f"go on: mitmesh canary {service}; go back: mitmesh canary {service} --abort")


async def tell_status(store: "Store", service: str, as_json: bool) -> None:
    from control.commands.canary_hold import state_of
    from control.commands.canary_view import outcome, state_data

    held = await store.canary(service)
    state = state_of(service, held)
    watched = held.is_held
    if as_json:
        say_json(None if state is None else {**state_data(state), "watched": watched})
    elif state is None:
        say(f"no canary of {service}")
    else:
        say(*outcome(state))
        if state.status == "running" and not watched:
            say(f"nobody watches it: go on with mitmesh canary {service}, or go back with --abort", "yellow")


async def end(store: "Store", service: str, message: str, as_json: bool) -> None:
    from control.commands.author import author
    from control.commands.canary_hold import HOLD, LIFE, refused, state_of
    from control.commands.canary_run import Runner
    from control.commands.canary_view import shown

    state = state_of(service, await store.canary(service))
    if state is None or state.status != "running":
        raise refused(f"no canary of {service} is under way")
    with shown(as_json, drawn=False) as show:
        runner = Runner(store, service, show, message)
        await store.canary(service, runner.id, "force", HOLD, LIFE)
        state = await runner.go_back(state, f"ended by {author()}")
        show.ended(state)
    if state.status == "stopped":
        raise typer.Exit(EXIT_CODES[state.status])


@contextlib.contextmanager
def ended_as_by_ctrl_c() -> "Iterator[None]":
    """SIGTERM, as of `docker stop`, and a closed terminal end it as Ctrl-C does: with words on what stands."""
    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    try:
        before = {name: signal.signal(name, lambda *_: os.kill(os.getpid(), signal.SIGINT)) for name in names}
    except ValueError:  # not in the main thread
        before = {}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
