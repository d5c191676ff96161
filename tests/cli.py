"""Running the command `mitmesh` in this process, as its users do: arguments in, exit code, stdout and stderr out."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from control.cli import main

MITMESH = [sys.executable, "-m", "control"]
"""The command as a process of its own; to be started in the folder ROOT."""
ROOT = __file__.rpartition("/tests/")[0]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Mitmesh = Callable[..., Ran]


@pytest.fixture(name="mitmesh")
def mitmesh_fixture(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Mitmesh:
    """mitmesh("get", "reviews", stdin="...") against an empty Redis."""
    monkeypatch.setenv("MITMESH_REDIS", redis_url)
    monkeypatch.delenv("MITMESH_NAME", raising=False)

    def run(*arguments: str, stdin: str | bytes = "") -> Ran:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


def node(node_id: str, revision: int = 0, error: str = "", **said: Any) -> Any:
    """A proxy's report."""
    from control.store import NodeReport

    return NodeReport(**{"id": node_id, "service": "web", "revision": revision, "error": error, **said})
