"""The policy files that a command line names, foreign documents of other meshes among them."""

import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from control.commands.failure import usage
from control.commands.output import remark

if TYPE_CHECKING:
    from control.policy.reading import Document, Foreign


def read_files(sources: Collection[str]) -> "list[Document]":
    """Every document of every FILE, `-` and DIR. Raises PolicyErrors with the problems of them all.

    Foreign documents are converted; what is lost of them is a problem.
    """
    from control.policy.errors import PolicyErrors, Problem

    documents, foreign = read_all(sources)
    if not foreign:
        return documents
    from control.convert.converting import convert

    converted = convert(foreign)
    if lost := converted.report.lost:
        files = " ".join(f"-f {source}" for source in sources)
        remedy = (
            f"not applied as it is: mitmesh convert {files} --lossy shows it without what has no counterpart"
        )
        raise PolicyErrors([*lost, Problem("", None, "", "", remedy)])
    for note in converted.notes:
        remark(f"note: {note}")
    return [*documents, *converted.documents]


def read_all(sources: Collection[str]) -> "tuple[list[Document], Foreign]":
    """Our documents of every FILE, `-` and DIR, and the foreign ones. Raises PolicyErrors with the problems of ours."""
    from control.policy.errors import PolicyErrors, Problem
    from control.policy.reading import read_source

    if "-" in sources and sys.stdin is None:
        raise usage("-f -: there is no standard input")

    documents: list[Document] = []
    foreign: Foreign = []
    problems: list[Problem] = []
    for source in sources:
        try:
            documents += read_source(source, sys.stdin.buffer, foreign)
        except PolicyErrors as errors:
            problems += errors.problems
    if problems:
        raise PolicyErrors(problems)
    return documents, foreign
