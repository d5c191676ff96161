"""The policy files that a command line names."""

import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from control.commands.failure import usage

if TYPE_CHECKING:
    from control.policy.reading import Document


def read_files(sources: Collection[str]) -> "list[Document]":
    """Every document of every FILE, `-` and DIR. Raises PolicyErrors with the problems of them all."""
    from control.policy.errors import PolicyErrors, Problem
    from control.policy.reading import read_source

    if "-" in sources and sys.stdin is None:
        raise usage("-f -: there is no standard input")

    documents: list[Document] = []
    problems: list[Problem] = []
    for source in sources:
        try:
            documents += read_source(source, sys.stdin.buffer)
        except PolicyErrors as errors:
            problems += errors.problems
    if problems:
        raise PolicyErrors(problems)
    return documents
