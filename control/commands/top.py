"""mitmesh top: requests per second, success and latency of every service and version, as all proxies tell it."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control.commands.options import Json, Mesh, Redis, target_of
from control.commands.output import counted, on_terminal, remark, say, say_json, table, timestamp, warn
from control.policy.errors import one_line
from control.traffic import Total, Windows

if TYPE_CHECKING:
    from rich.console import RenderableType

    from control.store import Store

EVERY = 1.0
"""Seconds between looks; a proxy reports as often."""
HEADINGS = ("SERVICE", "VERSION", "SIDE", "REQ/S", "SUCCESS", "P50", "P95", "P99", "INJECTED")

Show = Callable[["View"], None]


class View:
    """What there is to show at one moment."""

    def __init__(self, mesh: str, nodes: int, windows: Windows, service: str | None) -> None:
        self.time = time.time()
        self.mesh = mesh
        self.nodes = nodes
        self.seconds = windows.seconds
        self.more = windows.more
        self.trouble = ""
        """Why this is not of now: Redis cannot be read."""
        self.totals = [row for row in windows.totals() if service is None or row.service == service.lower()]

    def title(self) -> str:
        line = f"mesh {self.mesh}: {counted(self.nodes, 'live node')}"
        if self.nodes:
            line += f", the last {self.seconds:.0f} s"
        if self.more:
            line += f", {self.more} more rows of quieter services are not told"
        return line

    def rows(self) -> list[tuple[str, ...]]:
        return [_row(total) for total in self.totals]

    def data(self) -> dict[str, Any]:
        return {
            "time": timestamp(self.time),
            "mesh": self.mesh,
            "nodes": self.nodes,
            "seconds": round(self.seconds, 3),
            "rows": [_data(total) for total in self.totals],
            "more": self.more,
        }


def top(
    context: typer.Context,
    service: Annotated[str | None, typer.Argument(metavar="[SERVICE]", help="only this one")] = None,
    once: Annotated[bool, typer.Option("--once", help="show it once, and end")] = False,
    over: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="over how long (10s; with --once 1s, what the proxies told last)"),
    ] = None,
    as_json: Json = False,
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Show the traffic of the mesh, live: requests per second, success, latency.

    A row is a version of a service, seen outbound (by its callers' proxies) or
    inbound (by the proxy in front of it); the rows of all live proxies are
    added up. Piped, each row is a line of text every second; with --json, each
    second is a line of JSON.
    """
    target = target_of(context, redis, mesh)
    seconds = _seconds(over, 1.0 if once else 10.0)
    windows = Windows(seconds)

    async def look(store: "Store") -> View:
        nodes = await store.nodes()
        windows.take({node.id: node.traffic for node in nodes})
        return View(target.mesh, len(nodes), windows, service)

    async def look_once(store: "Store") -> None:
        import asyncio

        view = await look(store)
        for _ in range(round(seconds) - 1):
            await asyncio.sleep(EVERY)
            view = await look(store)
        if as_json:
            say_json(view.data())
            return
        say(view.title())
        if view.totals:
            table(HEADINGS, view.rows())

    async def follow(store: "Store") -> None:
        import asyncio

        from control.store import StoreError

        view = await look(store)
        drawn = on_terminal(sys.stdout) and not as_json
        with _shown(drawn, as_json) as show:
            while True:
                if not view.trouble or drawn:
                    show(view)
                await asyncio.sleep(EVERY)
                try:
                    new = await look(store)
                except StoreError as error:
                    if not view.trouble and not drawn:
                        warn(f"{error}; trying again")
                    view.trouble = str(error)
                else:
                    if view.trouble and not drawn:
                        remark("connected again")
                    view = new

    target.run(look_once if once else follow)


def _seconds(text: str | None, default: float) -> float:
    from control.commands.failure import usage
    from control.policy.units import parse_duration

    if text is None:
        return default
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise usage(f"--over {text}: {error}") from None
    if not 1 <= seconds <= 3600:
        raise usage(f"--over {text}: write a time from 1s to 1h")
    return seconds


@contextlib.contextmanager
def _shown(drawn: bool, as_json: bool) -> Iterator[Show]:
    """How each second's view is shown: in place on a terminal, else line by line."""
    if as_json:
        yield lambda view: say_json(view.data(), indent=None)
    elif not drawn:
        remark("  ".join(("TIME", *HEADINGS)))
        yield _print
    else:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=sys.stdout, highlight=False)
        with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
            yield lambda view: live.update(_drawn(view), refresh=True)


def _print(view: View) -> None:
    when = time.strftime("%H:%M:%S", time.localtime(view.time))
    for row in view.rows():
        say("  ".join((when, *row)))


def _drawn(view: View) -> "RenderableType":
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS[:3]:
        shown.add_column(heading, overflow="ellipsis", no_wrap=True)
    for heading in HEADINGS[3:]:
        shown.add_column(heading, justify="right", no_wrap=True)
    for row, total in zip(view.rows(), view.totals, strict=True):
        style = "red" if total.success < 0.95 else "yellow" if total.success < 0.999 else ""
        cells = [
            Text(cell, style if heading == "SUCCESS" else "")
            for heading, cell in zip(HEADINGS, row, strict=True)
        ]
        shown.add_row(*cells)
    above = [Text(view.title())]
    if view.trouble:
        above.append(Text(f"{view.trouble}; trying again", "red"))
    return Group(*above, shown if view.totals else Text("no requests"))


def _row(total: Total) -> tuple[str, ...]:
    return (
        *(one_line(name) for name in (total.service, total.version, total.side)),
        f"{total.rate:.1f}",
        _percent(total.success),
        *(_length(milliseconds) for milliseconds in (total.p50, total.p95, total.p99)),
        _percent(total.injected / total.requests) if total.injected else "-",
    )


def _percent(share: float) -> str:
    """Never rounded up to 100 %: that is the one number that says that nothing failed."""
    return "100%" if share == 1 else f"{min(share * 100, 99.99):.2f}%"


def _length(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f}s"
    return f"{milliseconds:.{2 if milliseconds < 1 else 1 if milliseconds < 100 else 0}f}ms"


def _data(total: Total) -> dict[str, Any]:
    rounded = {
        name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(total).items()
    }
    return {**rounded, "success": round(total.success, 6)}
