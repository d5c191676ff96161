"""From bytes to policies and back: files and standard input, the stored form, and what `mitmesh get` prints."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from control.policy import claims, sources
from control.policy.errors import PolicyErrors, Problem
from control.policy.model import Policy, Route
from control.policy.parts import MOST_ERRORS, Part, names_of
from control.policy.places import Path, field_text, shown
from control.policy.stored import normalize, parse_stored
from control.policy.validating import validated
from control.policy.values import service_name
from control.policy.yaml_nodes import Mapping, Tree
from control.policy.yaml_text import trees
from control.policy.yaml_writing import dump

__all__ = ["Document", "Foreign", "normalize", "parse_stored", "read_bytes", "read_source", "to_yaml"]

MOST_PROBLEMS = 100


@dataclass(frozen=True)
class Document:
    """One policy and where it was read: the file and the line on which the document starts."""

    policy: Policy
    file: str
    line: int
    data: Any = field(default=None, compare=False, repr=False)
    """What the policy was made of, with its lines, to name places in it; None if that is not at hand."""


Foreign = list[tuple[Tree, str]]
"""Documents of another kind than ours, each with the file that it stands in."""


def is_foreign(root: Any) -> bool:
    """Whether a document is one of Kubernetes' kind, and none of ours."""
    return isinstance(root, Mapping) and "apiVersion" in root and "kind" in root and "service" not in root


class _Reading:
    """What has been read so far of one or more files: sound documents, problems, and every mapping for what is wrong between them."""

    def __init__(self, aside: Foreign | None = None) -> None:
        self.aside = aside
        self.documents: list[Document] = []
        self.problems: list[Problem] = []
        self.mappings: list[tuple[Tree, str]] = []

    def text(self, text: str, file: str) -> None:
        found, strange = trees(text)
        self.problems += [Problem(file, line, "", "", message) for line, message in strange]
        said = False
        for number, tree in enumerate(found, start=1):
            if tree.root is None and not tree.problems:
                continue  # nothing between two --- is no document
            said = True
            if self.aside is not None and not tree.broken and is_foreign(tree.root):
                self.aside.append((tree, file))
            else:
                self._tree(tree, file, number)
        if not said and not strange:
            message = "nothing in it: write a document that starts with `service: NAME`"
            self.problems.append(Problem(file, 1, "", "", message))

    def _tree(self, tree: Tree, file: str, number: int) -> None:
        root, name = tree.root, f"document {number}"
        problems: list[tuple[int, Path, str]] = list(tree.problems)
        policy = None
        if not isinstance(root, Mapping):
            if not tree.problems:
                problems.append((tree.line, (), f"a document is {Policy.written}, got {shown(root)}"))
        else:
            name = claims.sound(service_name, root.get("service")) or name
            self.mappings.append((tree, file))
            if not tree.broken:
                policy, more = validated(root, tree.holes)
                problems += [(line or tree.line, path, message) for line, path, message in more]
        if problems:
            self.problems += [
                Problem(file, line, name, field_text(path), text) for line, path, text in problems
            ]
        elif policy is not None:
            self.documents.append(Document(policy, file, tree.line, root))

    def done(self) -> list[Document]:
        """The documents; PolicyErrors if anything is wrong, with what is wrong between documents too."""
        if not self.problems:
            return self.documents
        claimed = (
            claims.of_data(tree.root, file, tree.line, whole=not tree.broken) for tree, file in self.mappings
        )
        self.problems += claims.conflicts([each for each in claimed if each], [], complete=False)
        by_file: dict[str, list[Problem]] = {}
        for problem in self.problems:
            by_file.setdefault(problem.file, []).append(problem)
        raise PolicyErrors(problem for file in by_file.values() for problem in _first_of(file))


def read_bytes(data: bytes, file: str) -> list[Document]:
    """The documents of YAML or JSON text in UTF-8. Raises PolicyErrors with every problem in it."""
    reading = _Reading()
    _read(reading, data, file)
    return reading.done()


def read_source(source: str, stdin: BinaryIO, aside: Foreign | None = None) -> list[Document]:
    """The documents of a file, of `-` (standard input) or of every YAML and JSON file below a directory.

    aside: takes the foreign documents, which are no policies where it is None. Raises PolicyErrors with the
    problems of all files.
    """
    reading = _Reading(aside)
    for file, data in sources.contents(source, stdin):
        if isinstance(data, bytes):
            _read(reading, data, file)
        else:
            reading.problems.append(Problem(file, None, "", "", data))
    return reading.done()


def _read(reading: _Reading, data: bytes, file: str) -> None:
    try:
        text = sources.text_of(data)
    except sources.NotTextError as error:
        reading.problems.append(Problem(file, error.line, "", "", str(error)))
    else:
        reading.text(text, file)


def _first_of(problems: list[Problem]) -> list[Problem]:
    """The problems of one file by line, and instead of too many of them how many more there are."""
    ordered = sorted(dict.fromkeys(problems), key=lambda problem: problem.line or 0)
    if len(ordered) > MOST_PROBLEMS:
        cut = Counter(problem.document for problem in ordered).most_common(1)[0][1] >= MOST_ERRORS
        least = "at least " if cut else ""
        more = f"and {least}{len(ordered) - MOST_PROBLEMS} more problems: mend these first"
        ordered[MOST_PROBLEMS:] = [Problem(ordered[0].file, None, "", "", more)]
    return ordered


def to_yaml(policies: Iterable[Policy]) -> str:
    """The policies as YAML documents, in the order given; reads back to the same policies."""
    return dump(_in_order(policy) for policy in policies)


def _in_order(policy: Policy) -> dict[str, Any]:
    data = _by_field(policy.document(), Policy)
    if "routes" in data:
        data["routes"] = [_by_field(route, Route) for route in data["routes"]]
    return data


def _by_field(data: dict[str, Any], part: type[Part]) -> dict[str, Any]:
    return {name: data[name] for name in names_of(part) if name in data}
