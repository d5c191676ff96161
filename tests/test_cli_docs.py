"""docs/cli.md: every command and option is in it and no other, and its walk goes as it says."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from control.cli import app
from tests.cli import ROOT, Mitmesh, mitmesh_fixture  # noqa: F401

TEXT = Path(ROOT, "docs/cli.md").read_text()


def leaves(group: Any, before: str = "") -> dict[str, Any]:
    """Every command that does something by its words, such as `apply` and `ca init`."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= leaves(command, f"{before}{name} ") if inner else {f"{before}{name}": command}
    return found


LEAVES = leaves(get_command(app))
COMMANDS = list(LEAVES)
EVERYWHERE = {"--redis", "--mesh"}


def sections() -> dict[str, str]:
    """Command -> its part of the page."""
    parts = re.split(r"^### mitmesh (\w+(?: \w+)?)$", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def options(command: str) -> set[str]:
    """Every option name of a command, such as --file and -f."""
    return {
        name for param in LEAVES[command].params if param.param_type_name == "option" for name in param.opts
    }


def test_every_command() -> None:
    assert sorted(sections()) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option(command: str) -> None:
    rows = re.findall(r"^\| (`-.*?) \|", sections()[command], flags=re.MULTILINE)
    told = {word for row in rows for word in re.findall(r"`(-[-\w]+)", row)}
    assert told == options(command) - EVERYWHERE


def walk() -> list[tuple[str, str]]:
    """Each command line of the walk with what it prints."""
    block = re.search(r"```console\n(.*?)```", TEXT, flags=re.DOTALL)
    assert block is not None
    parts = re.split(r"^\$ (.*)\n", block[1], flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def matches(expected: str, printed: str) -> bool:
    """`...` stands for anything, as in doctest; how many blanks there are does not matter."""
    pattern = r"\s+".join(".*" if word == "..." else re.escape(word) for word in expected.split())
    return re.fullmatch(pattern, " ".join(printed.split()), flags=re.DOTALL) is not None


def test_the_walk(mitmesh: Mitmesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = re.search(r"`reviews.yaml`:\n\n```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    assert policy is not None
    monkeypatch.chdir(tmp_path)
    Path("reviews.yaml").write_text(policy[1])
    assert len(walk()) == 10
    for line, expected in walk():
        said, bar, command = line.rpartition(" | ")
        stdin = shlex.split(said)[1] if bar else ""
        ran = mitmesh(*shlex.split(command)[1:], stdin=stdin)
        assert matches(expected, ran.out + ran.err), (line, ran)
