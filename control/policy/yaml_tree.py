"""YAML text as plain data that knows its lines.

PyYAML's parser gives events; what is made of them here never makes Python objects
of tags, never lets one key hide another, and cannot be blown up: nesting and
what aliases expand to are bounded, so that time and memory stay in proportion to
the text.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from control.policy.places import Path
from control.policy.yaml_nodes import Items, Mapping, Tree, UnusableError
from control.policy.yaml_scalars import plain_value

MOST_NESTING = 64
MOST_ALIASED = 100_000
_TOO_DEEP = f"nested deeper than {MOST_NESTING} levels: a policy needs a few"
_TEXT_UNIT = 100  # so many characters count as one value more
_HALF = re.compile("[\ud800-\udfff]")


class _Word:
    """States of a mapping that is read, in place of a key."""

    def __init__(self, name: str) -> None:
        self.name = name


_WANTED = _Word("a key comes next")
_DROPPED = _Word("the value that comes next is dropped")
_MERGED = _Word("the value that comes next is merged")


class _Frame:
    __slots__ = ("anchor", "key", "merged", "node")

    def __init__(self, node: Mapping | Items, anchor: str | None) -> None:
        self.node, self.anchor = node, anchor
        self.key: str | _Word | None = _WANTED if isinstance(node, Mapping) else None
        self.merged: list[tuple[Any, int]] = []


class Builder:
    """Takes the events of a YAML text and collects its documents; `first_line` is the number of the text's first line."""

    def __init__(self, first_line: int = 1) -> None:
        self.trees: list[Tree] = []
        self.first_line = first_line
        self._take: dict[type, Callable[[Any], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._mapping_start,
            yaml.MappingEndEvent: self._end,
            yaml.SequenceStartEvent: self._sequence_start,
            yaml.SequenceEndEvent: self._end,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document_start,
            yaml.DocumentEndEvent: self._document_end,
        }
        self._stack: list[_Frame] = []
        self._open: Tree | None = None

    def take(self, events: Iterator[Any]) -> None:
        """Reads all events. Raises UnusableError, or PyYAML's own error, when a document cannot be read on: then ask for `broken`."""
        handlers = self._take
        for event in events:
            if handler := handlers.get(type(event)):
                handler(event)

    def _document_start(self, event: Any) -> None:
        line = event.start_mark.line + self.first_line
        self._open = Tree(None, line)
        self._stack = [_Frame(Items(line), None)]
        self._anchors: dict[str, Any] = {}
        self._aliased = 0

    def _document_end(self, event: Any) -> None:
        tree = self._tree()
        tree.root = next(iter(self._stack[0].node))
        tree.line = getattr(tree.root, "line", tree.line)
        self.trees.append(tree)
        self._open = None

    def _tree(self) -> Tree:
        assert self._open is not None, "events outside a document"
        return self._open

    def broken(self, problem: tuple[int, Path, str]) -> Tree:
        """The document that was open when reading failed, as far as it came."""
        tree = self._open or Tree(None, self.first_line)
        if self._open is not None:
            tree.root = self._stack[1].node if len(self._stack) > 1 else next(iter(self._stack[0].node), None)
        tree.problems.append(problem)
        tree.broken = True
        return tree

    def _path(self) -> Path:
        path: list[str | int] = []
        for frame in self._stack[1:]:
            if isinstance(frame.node, Items):
                path.append(len(frame.node))
            elif isinstance(frame.key, str):
                path.append(frame.key)
            else:
                break  # what is dropped or merged has no place of its own
        return tuple(path)

    def _problem(self, line: int, message: str, *, hole: bool = True) -> None:
        path = self._path()
        self._tree().problems.append((line, path, message))
        if hole:
            self._tree().holes.add(path)

    def _scalar(self, event: Any) -> None:
        line = event.start_mark.line + self.first_line
        value: Any = event.value
        frame = self._stack[-1]
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            self._tagged(event, line, hole=frame.key is not _WANTED)
            value = None if frame.key is not _WANTED else value
        elif event.tag is None and event.implicit[0]:
            value = plain_value(value)
        if not event.value.isascii() and _HALF.search(event.value):
            self._problem(line, r"half a character, as in \ud800: write the whole character")
            value = None
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        if frame.key is _WANTED:
            self._key(frame, event.value, line, merge=value == "<<" and event.implicit[0])
            if not isinstance(value, str):
                text = event.value.replace('"', "'") or "..."
                self._problem(line, f'a key is text: put it in quotes, as "{text}"')
            return
        if (
            value is None
            and event.tag is None
            and event.implicit[0]
            and len(self._stack) > 1
            and frame.key is not _DROPPED
        ):
            self._problem(line, "no value: write one, or take the field out")
        self._put(frame, value, line)

    def _key(self, frame: _Frame, key: str, line: int, *, merge: bool) -> None:
        if merge:
            frame.key = _MERGED
            return
        assert isinstance(frame.node, Mapping)
        if (first := frame.node.lines.get(key)) is not None:
            frame.key = key
            self._problem(line, f"given twice, first on line {first}: keep one", hole=False)
            frame.key = _DROPPED
            return
        frame.key = key
        frame.node.size += len(key) // _TEXT_UNIT
        frame.node.lines[key] = line

    def _put(self, frame: _Frame, value: Any, line: int) -> None:
        node, key = frame.node, frame.key
        node.size += _weight(value)
        if isinstance(value, Mapping | Items):
            node.height = max(node.height, value.height + 1)
        if isinstance(node, Items):
            node.append(value)
            node.lines.append(line)
            return
        frame.key = _WANTED
        if isinstance(key, str):
            node[key] = value
        elif key is _MERGED:
            frame.merged.append((value, line))
        elif key is _WANTED:
            frame.key = _DROPPED
            tree = self._tree()
            tree.problems.append(
                (line, self._path()[:-1], "a key is text, not a list or a mapping: write a word")
            )

    def _mapping_start(self, event: Any) -> None:
        self._start(event, Mapping(event.start_mark.line + self.first_line), "tag:yaml.org,2002:map")

    def _sequence_start(self, event: Any) -> None:
        self._start(event, Items(event.start_mark.line + self.first_line), "tag:yaml.org,2002:seq")

    def _start(self, event: Any, node: Mapping | Items, tag: str) -> None:
        if event.tag not in (None, "!", tag):
            self._tagged(event, node.line)
        if len(self._stack) > MOST_NESTING:
            raise UnusableError(node.line, _TOO_DEEP)
        if event.anchor is not None:
            self._anchors[event.anchor] = self  # not whole yet: an alias of it in itself is refused
        self._stack.append(_Frame(node, event.anchor))

    def _end(self, event: Any) -> None:
        done = self._stack.pop()
        if isinstance(done.node, Mapping):
            for value, line in done.merged:
                self._merge(done.node, value, line)
        if done.anchor is not None:
            self._anchors[done.anchor] = done.node
        self._put(self._stack[-1], done.node, done.node.line)

    def _merge(self, node: Mapping, value: Any, line: int) -> None:
        for source in value if isinstance(value, Items) else [value]:
            if not isinstance(source, Mapping):
                path = (*self._path(), "<<")
                self._tree().problems.append((line, path, "write an alias of a mapping, such as <<: *name"))
                continue
            for key in source.keys() - node.keys():
                node[key], node.lines[key] = source[key], source.lines[key]
            node.height = max(node.height, source.height)

    def _alias(self, event: Any) -> None:
        line, name = event.start_mark.line + self.first_line, event.anchor
        value, frame = self._anchors.get(name, Builder), self._stack[-1]
        if value is Builder or value is self:
            what = "is not defined" if value is Builder else "stands inside what it names"
            self._problem(line, f"the alias *{name} {what}: put it in quotes if it is text")
            value = None
        self._aliased += _weight(value)
        if self._aliased > MOST_ALIASED:
            what = f"aliases stand for more than {MOST_ALIASED} values: write out what is meant"
            raise UnusableError(line, what)
        if isinstance(value, Mapping | Items) and len(self._stack) + value.height > MOST_NESTING:
            raise UnusableError(line, _TOO_DEEP)
        if frame.key is _WANTED and isinstance(value, str):
            self._key(frame, value, line, merge=False)
        else:
            self._put(frame, value, line)

    def _tagged(self, event: Any, line: int, *, hole: bool = True) -> None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        self._problem(line, f"tags are not read: take {tag} out", hole=hole)


def _weight(value: Any) -> int:
    """How much a value counts towards what aliases may stand for."""
    if isinstance(value, Mapping | Items):
        return value.size
    return 1 + len(value) // _TEXT_UNIT if isinstance(value, str) else 1
