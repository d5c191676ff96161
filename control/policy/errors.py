"""What is wrong with a policy, said so that a person can put it right: one line for each problem."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it is, and what to do about it.

    `file` is a path, `stdin` or `redis`; `line` counts from 1; `document` is the
    service's name, or `document 2` where that is not known; `field` is a place
    such as `routes[2].retry.attempts`. Parts that are not known are None or "".
    """

    file: str
    line: int | None
    document: str
    field: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        parts = (place, self.document, self.field, self.message)
        return one_line(": ".join(part for part in parts if part))


class PolicyErrors(Exception):
    """Every problem of what was read; as text one line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def one_line(text: str) -> str:
    """The text with everything that is not printable escaped: nothing in a policy can break or colour a line."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in text
    )
