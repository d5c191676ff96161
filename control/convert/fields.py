"""Reading a foreign document so that nothing in it is passed over in silence.

Whoever converts a part takes its fields one by one; what nobody took is reported when the part is done.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from control.policy.errors import Problem
from control.policy.places import Path, field_text, shown

T = TypeVar("T")

UNKNOWN = "no counterpart here"


class Skip(Exception):
    """The part that is being converted is left out as a whole."""


@dataclass
class Report:
    """What is said about the documents: what was left out, and what was taken for granted."""

    lost: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Origin:
    """The document that a part stands in: file, line, `Kind/name`."""

    report: Report
    file: str
    line: int
    title: str


def whole_match(match: "Fields", convert: Callable[["Fields"], T]) -> T:
    """What `convert` makes of a match. Raises Skip if anything of it was lost.

    Without one of its conditions it would take requests that were meant for the next route.
    """
    before = len(match.origin.report.lost)
    found = convert(match)
    if match.wrong or len(match.origin.report.lost) > before:
        raise match.skip((), "so the match is left out")
    return found


class Fields:
    """A mapping of a foreign document. `path` is where it stands in the document."""

    def __init__(self, data: Any, origin: Origin, path: Path = ()) -> None:
        self.origin = origin
        self.path = path
        self._data: dict[str, Any] = {}
        self._lines: dict[str, int] = getattr(data, "lines", {}) if isinstance(data, dict) else {}
        self._line = getattr(data, "line", origin.line)
        self._taken: set[str] = set()
        if isinstance(data, dict):
            # A field without a value says as little as one that is not there.
            self._data = {name: value for name, value in data.items() if value is not None}
        self.wrong = not isinstance(data, dict) and data is not None
        """It is none, as was reported."""
        if self.wrong:
            self.lose((), f"a mapping is expected here, got {shown(data)}")

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def __bool__(self) -> bool:
        return bool(self._data)

    def names(self) -> list[str]:
        return list(self._data)

    def take(self, *names: str) -> None:
        """These fields are dealt with, or say nothing that matters here."""
        self._taken.update(names)

    def raw(self, name: str) -> Any:
        """The value as it stands there; None: it is not there."""
        self._taken.add(name)
        return self._data.get(name)

    def text(self, name: str) -> str | None:
        value: str | None = self._typed(name, str, "text")
        return value

    def number(self, name: str) -> float | None:
        value = self.raw(name)
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            return value
        self.lose((name,), f"a number is expected here, got {shown(value)}")
        return None

    def whole(self, name: str) -> int | None:
        value = self.number(name)
        if value is None or isinstance(value, int):
            return value
        self.lose((name,), f"a whole number is expected here, got {shown(value)}")
        return None

    def truth(self, name: str) -> bool | None:
        value: bool | None = self._typed(name, bool, "true or false")
        return value

    def _typed(self, name: str, kind: type, phrase: str) -> Any:
        value = self.raw(name)
        if value is None or isinstance(value, kind):
            return value
        self.lose((name,), f"{phrase} is expected here, got {shown(value)}")
        return None

    def part(self, name: str) -> "Fields":
        """A mapping in this one; an empty one if it is not there."""
        self._taken.add(name)
        return self._inner(self._data.get(name), (name,))

    def parts(self, name: str) -> "list[Fields]":
        """A list of mappings in this one."""
        return [self._inner(each, (name, index)) for index, each in enumerate(self._list(name))]

    def matches(self, name: str) -> "list[Fields] | None":
        """As parts; None, where what stands there is none, and nothing can be said to match."""
        found = self.parts(name)
        return None if name in self._data and not isinstance(self._data[name], list) else found

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        values = self._list(name)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                self.lose((name, index), f"text is expected here, got {shown(value)}")
        return [value for value in values if isinstance(value, str)]

    def wholes(self, name: str) -> list[int]:
        """A list of whole numbers."""
        values = self._list(name)
        for index, value in enumerate(values):
            if type(value) is not int:
                self.lose((name, index), f"a whole number is expected here, got {shown(value)}")
        return [value for value in values if type(value) is int]

    def parsed(self, name: str, parse: Callable[[str], Any]) -> Any:
        """What `parse` makes of a text; None, and a report, where it raises ValueError."""
        text = self.text(name)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.lose((name,), str(error))
            return None

    def _list(self, name: str) -> list[Any]:
        value = self.raw(name)
        if value is None or isinstance(value, list):
            return value or []
        self.lose((name,), f"a list is expected here, got {shown(value)}")
        return []

    def _inner(self, data: Any, step: Path) -> "Fields":
        inner = Fields(data, self.origin, (*self.path, *step))
        if not isinstance(data, dict):
            inner._line = self._line_of(step)
        return inner

    def _line_of(self, step: Path) -> int:
        line = self._lines.get(step[0], self._line) if step and isinstance(step[0], str) else self._line
        value = self._data.get(step[0]) if step and isinstance(step[0], str) else None
        lines = getattr(value, "lines", None)
        if len(step) > 1 and isinstance(step[1], int) and isinstance(lines, list) and step[1] < len(lines):
            return int(lines[step[1]])
        return line

    def lose(self, step: Path = (), why: str = UNKNOWN) -> None:
        """What stands at a place below this part is left out."""
        self.origin.report.lost.append(self._problem(step, why))

    def skip(self, step: Path, why: str) -> Skip:
        """As lose, with all that is around it: to be raised."""
        self.lose(step, why)
        return Skip()

    def note(self, step: Path, text: str) -> None:
        self.origin.report.notes.append(self._problem(step, text))

    def _problem(self, step: Path, text: str) -> Problem:
        place = field_text((*self.path, *step))
        return Problem(self.origin.file, self._line_of(step), self.origin.title, place, text)

    def unsaid(self, names: tuple[str, ...], why: str) -> None:
        """These fields are left out, if they are there, for this reason."""
        for name in names:
            if name in self._data:
                self._taken.add(name)
                self.lose((name,), why)

    def done(self) -> None:
        """Report every field that nobody took."""
        for name in self._left():
            self._taken.add(name)
            self.lose((name,))

    def _left(self) -> Iterator[str]:
        return (name for name in self._data if name not in self._taken)
