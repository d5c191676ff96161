"""The policy files that a command line names."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from control.policy.reading import Document


def read_files(sources: Iterable[str]) -> "list[Document]":
    """Every document of every FILE, `-` and DIR. Raises PolicyErrors with the problems of them all."""
    from control.policy.errors import PolicyErrors, Problem
    from control.policy.reading import read_source

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
