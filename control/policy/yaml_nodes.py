"""Plain data that knows the lines it was written on."""

from dataclasses import dataclass, field
from typing import Any

from control.policy.places import Path


class Mapping(dict[str, Any]):
    """A mapping, the line on which it starts and the line of each key; `size` values and `height` levels in all."""

    __slots__ = ("height", "line", "lines", "size")

    def __init__(self, line: int) -> None:
        self.line, self.lines, self.size, self.height = line, dict[str, int](), 1, 1


class Items(list[Any]):
    """A list, the line on which it starts and the line of each item; `size` values and `height` levels in all."""

    __slots__ = ("height", "line", "lines", "size")

    def __init__(self, line: int) -> None:
        self.line, self.lines, self.size, self.height = line, list[int](), 1, 1


class UnusableError(Exception):
    """The document cannot be read on: where, and a sentence that says why."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class Tree:
    """One document: its data, and what was wrong with it so far.

    At `holes` stands None in place of what was refused; of a `broken` one there is at most the beginning.
    """

    root: Any
    line: int
    problems: list[tuple[int, Path, str]] = field(default_factory=list)
    holes: set[Path] = field(default_factory=set)
    broken: bool = False
