"""docs/policy.md: its tables are the language's own, its examples are read, its errors are those that come."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from control.policy import model
from control.policy.checking import check
from control.policy.errors import PolicyErrors
from control.policy.parts import Part, names_of
from control.policy.reading import read_bytes
from control.policy.reference import DOCUMENT, with_tables

TEXT = DOCUMENT.read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
EXAMPLES = [block for kind, block in BLOCKS if kind == "yaml"]


def test_the_tables_are_what_the_language_says() -> None:
    assert with_tables(TEXT) == TEXT, "run: python -m control.policy.reference"


def test_the_tables_are_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "policy.md"
    path.write_text("# x\n<!-- fields of Backoff -->\nold\n<!-- end -->\nrest\n")
    subprocess.run(
        [sys.executable, "-m", "control.policy.reference", path], check=True, cwd=DOCUMENT.parents[1]
    )
    lines = path.read_text().splitlines()
    assert lines[1] == "<!-- fields of Backoff -->"
    assert (
        lines[4]
        == "| `base` | a duration, such as 25ms, 1.5s, 2m or 1h | `25ms` | the most before the second try |"
    )
    assert lines[-2:] == ["<!-- end -->", "rest"]


def test_every_part_and_every_field_has_its_row() -> None:
    parts = [part for part in vars(model).values() if isinstance(part, type) and issubclass(part, Part)]
    described = set(re.findall(r"<!-- fields of (\w+) -->", TEXT))
    assert described == {part.__name__ for part in parts} - {"Part", "Destination"}
    for part in parts:
        for name in names_of(part):
            assert f"\n| `{name}` | " in TEXT


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_are_sound(example: str) -> None:
    documents = read_bytes(example.encode(), "docs/policy.md")
    assert documents
    assert check(documents) == []


BROKEN = """\
service: reviews
endpoints: {v1: [10.0.0.1:8080], v2: [10.0.0.9:8080]}
retry:
  attempts: 999
routes:
  - match: {path: /a}
    to: v3
  - match: {path: /b}
    macth: {path: /c}
"""


def test_the_errors_are_those_that_come() -> None:
    with pytest.raises(PolicyErrors) as caught:
        read_bytes(BROKEN.encode(), "reviews.yaml")
    (console,) = [block for kind, block in BLOCKS if kind == "console"]
    assert console.splitlines()[1:] == str(caught.value).splitlines()
