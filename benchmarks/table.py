"""Numbers as text: columns aligned, names to the left, values to the right."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from benchmarks.rounds import Row

HEAD = (
    *("", "requests/s", "ratio", "p50 ms", "p99 ms", "ratio"),
    *("CPU s/1,000", "user", "kernel", "ratio", "cores", "peak MB", ""),
)


def number(value: float | None, digits: int = 0, scale: float = 1.0) -> str:
    return "-" if value is None else f"{value * scale:,.{digits}f}"


def cells(row: Row, base: Row | None) -> list[str]:
    """The row's columns after its name."""
    if not row.samples:
        return ["-"] * 11 + [row.trouble]
    return [
        number(row.median("rate")),
        number(row.ratio("rate", base), 2),
        number(row.median("p50"), 2, 1e3),
        number(row.median("p99"), 2, 1e3),
        number(row.ratio("p99", base), 2),
        number(row.median("cpu"), 4),
        number(row.median("user"), 4),
        number(row.median("kernel"), 4),
        number(row.ratio("cpu", base), 2),
        number(row.median("cores"), 2),
        number(row.median("peak"), 0, 1e-6),
        row.trouble,
    ]


def grouped(rows: Iterable[Row], base: str) -> str:
    """Rows under a line for each load; ratios to the target `base` under the same load."""
    lines = []
    for (shape, connections), found in groupby(rows, key=lambda row: (row.shape.name, row.connections)):
        group = list(found)
        first = next((row for row in group if row.target.key == base and row.samples), None)
        lines.append([f"{shape}, {connections} connection{'s' * (connections > 1)}"])
        lines += [["  " + row.target.shown, *cells(row, first)] for row in group]
    return aligned([list(HEAD), *lines])


def listed(rows: Sequence[Row], base: Row | None) -> str:
    """Rows one below the other, with ratios to one of them."""
    return aligned([list(HEAD), *([row.target.shown, *cells(row, base)] for row in rows)])


def aligned(
    lines: Sequence[Sequence[str]], left: Callable[[int], bool] = lambda index: index in (0, 12)
) -> str:
    """Columns as wide as their widest cell; a line with one cell alone widens nothing."""
    widths: dict[int, int] = {}
    for line in lines:
        if len(line) > 1:
            for index, cell in enumerate(line):
                widths[index] = max(widths.get(index, 0), len(cell))
    shown = []
    for line in lines:
        parts = [
            cell.ljust(widths.get(index, 0)) if left(index) else cell.rjust(widths[index])
            for index, cell in enumerate(line)
        ]
        shown.append("  ".join(parts).rstrip())
    return "\n".join(shown)
