"""A YAML or JSON text as the trees of its documents, and PyYAML's complaints in words that help."""

import json
import re
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import yaml

from control.policy.yaml_nodes import Tree, UnusableError
from control.policy.yaml_tree import Builder

# The parser written in C is some twenty times as fast; PyYAML's wheels have it on every usual platform.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Also what some readers take for the end of a line and others do not: U+0085, U+2028, U+2029.
_NOT_IN_YAML = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_MOST_CONTROL = 1000
_SURROGATES = re.compile(
    r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})", re.ASCII
)
_DOCUMENT = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)


def trees(text: str) -> tuple[list[Tree], list[tuple[int, str]]]:
    """Every document of the text, and lines with what is wrong with the text itself.

    Broken documents are included, and those that a `---` starts after one.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    strange = list(_strange_characters(text))
    if strange:
        text = _NOT_IN_YAML.sub("\ufffd", text)
    found, broken = _parsed(_surrogates_joined(text), 1)
    if broken is not None:
        found += _documents_after(text, broken)
    return found, strange


def _parsed(text: str, first_line: int) -> tuple[list[Tree], Tree | None]:
    """The documents of a text, and the last of them again if it cannot be read on."""
    builder = Builder(first_line)
    try:
        builder.take(yaml.parse(text, Loader=LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = first_line if mark is None else mark.line + first_line
        message = _in_words(error, text, first_line)
    except UnusableError as error:
        line, message = error.line, str(error)
    else:
        return builder.trees, None
    broken = builder.broken((line, (), message))
    return [*builder.trees, broken], broken


def _documents_after(text: str, broken: Tree) -> Iterator[Tree]:
    """The documents that start at or after the line on which another one broke, each read by itself."""
    error_line = broken.problems[-1][0]
    starts = [found.start() for found in _DOCUMENT.finditer(text)]
    line, last = 1, 0
    for start, end in pairwise([*starts, len(text)]):
        line += text.count("\n", last, start)
        last = start
        if line >= error_line and line > broken.line:
            yield from _parsed(text[start:end], line)[0]


def _strange_characters(text: str) -> Iterator[tuple[int, str]]:
    line, last = 1, 0
    for found in islice(_NOT_IN_YAML.finditer(text), _MOST_CONTROL):
        line += text.count("\n", last, found.start())
        last = found.start()
        name = f"U+{ord(found[0]):04X}"
        yield (
            line,
            f'the character {name} cannot stand in YAML: take it out, or write "\\u{ord(found[0]):04x}"',
        )


def _surrogates_joined(text: str) -> str:
    """JSON writes a character beyond U+FFFF as two escapes, which YAML does not know."""
    if not text.lstrip().startswith(("{", "[")) or not _SURROGATES.search(text):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _SURROGATES.sub(lambda found: found[1] + json.loads(f'"\\u{found[2]}\\u{found[3]}"'), text)


_CHECK = "check the indentation, quotes and brackets around here"


def _in_words(error: yaml.MarkedYAMLError, text: str, first_line: int) -> str:
    """What PyYAML found, and what most often puts it right. Its own words differ between its two parsers."""
    context, problem = error.context or "", (error.problem or "").lower()
    opened = "" if error.context_mark is None else f" of line {error.context_mark.line + first_line}"
    mark = error.problem_mark
    char = text[mark.index : mark.index + 1] if mark else ""
    if "tab character" in problem or ("cannot start any token" in problem and char == "\t"):
        said = "a tab cannot indent: use spaces"
    elif "cannot start any token" in problem:
        said = f"text cannot start with {char}: put it in quotes"
    elif "quoted scalar" in context and "end of stream" in problem:
        said = f"the quote{opened} is not closed: close it"
    elif "escape" in problem:
        said = r"not an escape in double quotes: write \\ for a backslash, or use single quotes"
    elif "alias" in context or "anchor" in context:
        said = 'text that starts with * or & needs quotes, as "*"'
    elif "flow" in context:
        said = f"the bracket or brace{opened} is not closed, or a comma is missing: {_CHECK}"
    elif problem == "found unexpected ':'":
        said = "a ':' that is followed by no space: put one there, or put the text in quotes"
    elif "mapping values" in problem:
        said = "a ': ' where none can stand: check the indentation, or put the text in quotes"
    elif "simple key" in context:
        said = f"the line{opened.removeprefix(' of line')} has no ': ': write name: value"
    elif "block" in context and "scalar" not in context and "node content" not in problem:
        said = f"does not fit what began{opened.replace(' of', ' on')}: {_CHECK}"
    else:
        said = f"{error.problem}: {_CHECK}"
    return f"not YAML: {said}"
