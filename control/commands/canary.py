"""mitmesh canary: a new version gets more and more of the requests, for as long as it does well."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from control.commands.canary_ends import EXIT_CODES, end, ended_as_by_ctrl_c, interrupted, tell_status
from control.commands.failure import Failed, usage
from control.commands.options import Json, Mesh, Message, Redis, Target, target_of

if TYPE_CHECKING:
    from control.canary.plan import Plan, State
    from control.commands.canary_run import Runner
    from control.store import Store

T = TypeVar("T")


def canary(
    context: typer.Context,
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="whose requests are split")],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="VERSION", help="the new version; none: go on where one stands"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="VERSION", help="whose share it takes (the only other version)"),
    ] = None,
    route: Annotated[
        str | None, typer.Option(metavar="NAME", help="the split of this route (the document's own `to`)")
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(metavar="SHARES", help="its shares in per cent, one after the other (5,25,50,100)"),
    ] = None,
    every: Annotated[str | None, typer.Option(metavar="TIME", help="how long a step lasts (30s)")] = None,
    max_error_rate: Annotated[
        str | None, typer.Option(metavar="SHARE", help="go back above this share of failed requests (1%)")
    ] = None,
    max_p99: Annotated[
        str | None, typer.Option(metavar="TIME", help="go back above this p99 (not looked at)")
    ] = None,
    min_requests: Annotated[
        int | None, typer.Option(metavar="N", help="requests to it that a step is judged by (50)")
    ] = None,
    max_wait: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="go back if a step has to wait longer for them (for ever)"),
    ] = None,
    count_injected: Annotated[
        bool, typer.Option("--count-injected", help="failures made by the policy's faults count, too")
    ] = False,
    on_interrupt: Annotated[
        Literal["stay", "back"], typer.Option(metavar="stay|back", help="what Ctrl-C leaves (stay)")
    ] = "stay",
    status: Annotated[bool, typer.Option("--status", help="say where the canary stands, and end")] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="go back and end the canary, whoever runs it")
    ] = False,
    message: Message = "",
    as_json: Json = False,
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Move requests to a new version step by step, and back at once if it fails.

    Each step is one `apply` of the split's weights. The proxies tell how the
    new version does; when it breaks a limit, all requests go back. It stands in
    Redis where the canary is: after Ctrl-C or a crash the same command goes on,
    or `mitmesh canary SERVICE` alone. If somebody else changes the split, it
    stops and touches nothing.

    Exit codes: 0 done, 1 gone back, 2 could not run or had to stop, 130 Ctrl-C.
    """
    target = target_of(context, redis, mesh)
    texts = {
        "--steps": steps,
        "--every": every,
        "--max-error-rate": max_error_rate,
        "--max-p99": max_p99,
        "--max-wait": max_wait,
    }
    new = [source, route, min_requests, *texts.values()]
    if to is None and (count_injected or any(each is not None for each in new)):
        raise usage("these options belong to a new canary: name its version with --to")
    if (status and abort) or ((status or abort) and to is not None):
        raise usage("--status and --abort are for the canary under way: give one of them, and no --to")
    service = service.lower()
    if status:
        target.run(lambda store: tell_status(store, service, as_json))
        return
    if abort:
        target.run(lambda store: end(store, service, message, as_json))
        return
    wanted = None if to is None else _plan(service, route, source, to, texts, min_requests, count_injected)
    raise typer.Exit(_run(target, service, wanted, message, as_json, on_interrupt))


def _plan(
    service: str,
    route: str | None,
    source: str | None,
    to: str,
    texts: "Mapping[str, str | None]",
    min_requests: int | None,
    count_injected: bool,
) -> "Plan":
    """What the options ask for; `source` is empty where --from is not given. Raises Failed for what cannot be."""
    from control.canary.plan import Plan, parse_rate, parse_steps
    from control.policy.units import parse_duration
    from control.policy.values import version_name

    def read(option: str, parse: "Callable[[str], T]", default: "T") -> "T":
        text = texts[option]
        try:
            return default if text is None else parse(text)
        except ValueError as error:
            raise usage(f"{option} {text}: {error}") from None

    try:
        to, source = version_name(to), version_name(source) if source is not None else ""
    except ValueError as error:
        raise usage(f"--to, --from: {error}") from None
    seconds = read("--every", parse_duration, 30.0)
    if not 1 <= seconds <= 7 * 86400:
        raise usage(f"--every {texts['--every']}: write a time from 1s to 168h")
    least = 50 if min_requests is None else min_requests
    if not 1 <= least <= 10**9:
        raise usage(f"--min-requests {least}: write a number of at least 1")
    return Plan(
        service=service,
        route=route,
        source=source,
        to=to,
        steps=read("--steps", parse_steps, (5.0, 25.0, 50.0, 100.0)),
        every=seconds,
        max_error_rate=read("--max-error-rate", parse_rate, 1.0),
        max_p99=read("--max-p99", parse_duration, None),
        min_requests=least,
        max_wait=read("--max-wait", parse_duration, None),
        count_injected=count_injected,
    )


def _run(
    target: Target, service: str, wanted: "Plan | None", message: str, as_json: bool, on_interrupt: str
) -> int:
    """Walk to the end; the exit code."""
    from control.commands.canary_view import shown

    runner: Runner | None = None

    async def walk(store: "Store") -> "State":
        nonlocal runner
        from control.commands.canary_hold import begin, hold
        from control.commands.canary_run import ENDED_LIFE, Runner
        from control.store import StoreError

        runner = Runner(store, service, show, message)
        held = await hold(store, service, runner.id)
        try:
            state = await begin(store, wanted, service, held)
            await runner.save(state)
        except BaseException:
            # Nothing was begun: the next run need not wait for this one.
            await store.canary(service, runner.id, "keep", 0, 1.0 if not held.state else ENDED_LIFE)
            raise
        try:
            return await runner.walk(state)
        except StoreError as error:
            if state.is_new:
                await runner.forget(state, str(error))
            raise

    with ended_as_by_ctrl_c():
        try:
            with shown(as_json) as show:
                state = target.run(walk)
                show.ended(state)
        except KeyboardInterrupt:
            if runner is not None and runner.state is not None:
                interrupted(target, runner.id, runner.state, message, as_json, back=on_interrupt == "back")
            raise
        except Failed as failure:
            # 1 is for a canary that went back.
            raise Failed(*failure.lines, code=2) from None
    return EXIT_CODES[state.status]
