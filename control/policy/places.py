"""Where in a document something is, and how it is shown: as its author wrote it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from control.policy.errors import one_line

Path = tuple[str | int, ...]

_MOST_SHOWN = 60
_SIMPLE = re.compile(r"[\w./*:-]{1,60}")


@dataclass(frozen=True)
class Place:
    """A place in data as it was read: its path, its line if that is known, and what stands there."""

    path: Path
    line: int | None
    value: Any


def find(root: Any, loc: Path) -> Place:
    """The place in `root` that a place in the long form of a policy means.

    Steps that only the long form has are left out: in `retry: 999` the attempts
    are at `retry`, and the address of `endpoints: [a]` is at `endpoints[0]`.
    """
    node, path, line, key = root, list[str | int](), getattr(root, "line", None), None
    for number, step in enumerate(loc):
        if _has(node, step):
            line = node.lines[step] if hasattr(node, "lines") else None
            node, key = node[step], step
            path.append(step)
        elif step == "[key]" and key is not None:
            node = key  # the name is what is wrong, not the value under it
        else:
            key = None
            if isinstance(node, dict) and isinstance(step, str) and number == len(loc) - 1:
                path.append(step)  # what should be there and is not
    return Place(tuple(path), line, node)


def _has(node: Any, step: str | int) -> bool:
    if isinstance(node, dict):
        return step in node
    return isinstance(node, list) and isinstance(step, int) and step < len(node)


def field_text(path: Path) -> str:
    """`("routes", 2, "retry", "attempts")` -> `routes[2].retry.attempts`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if _SIMPLE.fullmatch(step) else _quoted(step)
            text += f".{name}" if text else name
    return text


def shown(value: Any) -> str:
    """A value on one line, at most 60 characters long."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > _MOST_SHOWN:
            break
    return _cut(one_line(text))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


def _quoted(text: str) -> str:
    return _cut(json.dumps(text[: _MOST_SHOWN + 1], ensure_ascii=False))


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for number, (key, each) in enumerate(value.items()):
            yield (", " if number else "") + (key if _SIMPLE.fullmatch(key) else _quoted(key)) + ": "
            yield from _pieces(each)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for number, each in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(each)
        yield "]"
    elif isinstance(value, str):
        yield json.dumps(value[: _MOST_SHOWN + 1], ensure_ascii=False)
    elif value is None or isinstance(value, bool):
        yield json.dumps(value)
    else:
        yield repr(value)
