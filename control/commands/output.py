"""What the commands print: results to stdout, remarks to stderr, colour and tables on a terminal only."""

import datetime
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from control.policy.errors import one_line

_LEAST_LAST_COLUMN = 20
_COLOURS = {"plain": "", "red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1"}


def on_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """The text in that colour where `stream` shows one. NO_COLOR (no-color.org) turns it off."""
    if not on_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def say(text: str, colour: str | None = None) -> None:
    """One line of the result. Stored text in it can neither break the line nor steer the terminal."""
    text = one_line(text)
    print(coloured(text, colour, sys.stdout) if colour else text, flush=True)


def remark(text: str, colour: str | None = None) -> None:
    """One line for the person, beside the result."""
    text = one_line(text)
    print(coloured(text, colour, sys.stderr) if colour else text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    remark(f"warning: {text}", "yellow")


def say_json(data: Any, indent: int | None = 2) -> None:
    print(json.dumps(data, indent=indent, ensure_ascii=False), flush=True)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under headings; the last column takes what room is left. Piped: columns aligned by spaces."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    if on_terminal(sys.stdout):
        _terminal_table(headings, rows)
        return
    lines = [list(headings), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _terminal_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings[:-1]:
        shown.add_column(heading, no_wrap=True)
    shown.add_column(headings[-1], overflow="fold")
    for row in rows:
        # Text, not str: square brackets in a name or message are no markup.
        shown.add_row(*(Text(cell) for cell in row))
    console = Console(file=sys.stdout, highlight=False)
    # On a narrow terminal its own line breaks are better than names cut short: those are there to be copied.
    fixed = sum(max(len(row[column]) for row in [headings, *rows]) + 2 for column in range(len(headings) - 1))
    console.width = max(console.width, fixed + _LEAST_LAST_COLUMN)
    console.print(shown)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, for programs."""
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_time(seconds: float) -> str:
    """Date and time of day where the reader is."""
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(seconds: float) -> str:
    """A length of time as people say it: `0.4s`, `12s`, `5m`, `3h`, `2d`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def counted(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
