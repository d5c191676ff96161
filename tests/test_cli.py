"""The command as a whole: exit codes, options before and after, Redis away, pipes, Ctrl-C, start-up."""

import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from control.cli import app, main
from control.commands import output
from tests.cli import MITMESH, ROOT, Mitmesh, mitmesh_fixture  # noqa: F401
from tests.conftest import StartValkey

COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]
NEED_REDIS = {
    "apply": ["-f", "-"],
    "diff": ["-f", "-"],
    "get": [],
    "delete": ["reviews"],
    "history": [],
    "rollback": ["1"],
    "status": [],
    "watch": [],
    "explain": ["GET", "http://reviews/"],
}


def test_all_commands_are_there() -> None:
    words = "apply validate convert diff get delete history rollback canary status top watch explain schema proxy token demo version"
    assert words.split() == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: mitmesh {command}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Usage: mitmesh"),
        (["aply"], "No such command 'aply'"),
        (["apply"], "Missing option '--file'"),
        (["apply", "-f"], "requires an argument"),
        (["apply", "--frce", "-f", "-"], "No such option: --frce"),
        (["apply", "-f", "-", "--wait", "5"], "--wait 5: write a duration with its unit"),
        (["rollback", "-f"], "No such option: -f"),
        (["rollback", "first"], "REVISION"),
        (["rollback", "--", "-1"], "REVISION"),
        (["get", "-o", "xml"], "--output"),
        (["delete"], "Missing argument"),
        (["history", "-n", "0"], "--limit"),
        (["--mesh", "a b", "get"], "--mesh: use letters"),
        (["get", "--mesh", "{x}"], "--mesh: use letters"),
    ],
)
def test_usage_errors(mitmesh: Mitmesh, arguments: list[str], said: str) -> None:
    ran = mitmesh(*arguments)
    assert (ran.code, said in ran.out + ran.err) == (2, True), ran
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", NEED_REDIS)
@pytest.mark.parametrize("where", ["before", "after", "environment"])
def test_redis_away(
    command: str,
    where: str,
    mitmesh: Mitmesh,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "redis://user:hush@127.0.0.1:1/0"
    arguments = [command, *NEED_REDIS[command]]
    if where == "before":
        arguments = ["--redis", url, *arguments]
    elif where == "after":
        # What is said later counts.
        arguments = ["--redis", "redis://127.0.0.1:2/0", *arguments, "--redis", url]
    else:
        monkeypatch.setenv("MITMESH_REDIS", url)
    ran = mitmesh(*arguments, stdin="{service: reviews, retry: 2}")
    # As of diff(1), 1 says that there are differences.
    assert (ran.code, ran.out) == (2 if command == "diff" else 1, "")
    assert ran.err.count("\n") == 1
    assert "hush" not in ran.err
    assert "127.0.0.1:1/0" in ran.err
    assert "--redis" in ran.err


@pytest.mark.parametrize("url", ["127.0.0.1:6379", "http://127.0.0.1:6379", "redis://127.0.0.1:x/0"])
def test_bad_url(mitmesh: Mitmesh, url: str) -> None:
    ran = mitmesh("get", "--redis", url)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith("error: cannot use the Redis URL")


def test_mesh_before_and_after_and_by_environment(
    mitmesh: Mitmesh,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = "{service: reviews, retry: 2}"
    assert mitmesh("--mesh", "one", "apply", "-f", "-", stdin=document).code == 0
    assert mitmesh("apply", "-f", "-", "--mesh", "two", stdin=document).code == 0
    monkeypatch.setenv("MITMESH_NAME", "three")
    assert mitmesh("apply", "-f", "-", stdin=document).code == 0
    monkeypatch.setenv("MITMESH_NAME", "")
    found = {mesh: mitmesh("get", "reviews", "--mesh", mesh).code for mesh in ("one", "two", "three", "mesh")}
    assert found == {"one": 0, "two": 0, "three": 0, "mesh": 1}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1]
    assert re.fullmatch(r"mitmesh \S+ \(Python 3\.\d+\.\d+\S*, mitmproxy \d+\.\d+\.\d+\S*\)", lines[0])
    assert main(["version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        lines[0] == f"mitmesh {found['mitmesh']} (Python {found['python']}, mitmproxy {found['mitmproxy']})"
    )


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    from control.policy.schema import json_schema

    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


@pytest.mark.parametrize("arguments", [["version"], ["--version"], ["--help"], []])
def test_start_up_imports_nothing_slow(arguments: list[str]) -> None:
    code = (
        "import sys; from control.cli import main; main(sys.argv[1:]);"
        "print(sorted({'redis', 'pydantic', 'mitmproxy', 'rich', 'yaml', 'asyncio', 're2'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "[]"


def process(*arguments: str, redis: str, **options: object) -> "subprocess.Popen[str]":
    """The command as a process of its own."""
    environment = {**os.environ, "MITMESH_REDIS": redis}
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [*MITMESH, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_closed_pipe_is_quiet(mitmesh: Mitmesh, redis_url: str, tmp_path: Path) -> None:
    many = "\n---\n".join(f"{{service: s{number}, retry: 2}}" for number in range(50))
    assert mitmesh("apply", "-f", "-", stdin=many).code == 0
    for arguments in (["get"], ["get", "-o", "json"], ["history"], ["--help"]):
        child = process(*arguments, redis=redis_url)
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()  # long before it has anything to say
        assert child.stderr.read() == ""
        assert child.wait(10) == 1
        child.stderr.close()


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        ("version >/dev/full", 1, "error: [Errno 28] No space left on device\n"),
        ("schema >/dev/full", 1, "error: [Errno 28] No space left on device\n"),
        ("version >&-", 0, ""),
        ("validate -f - <&-", 2, "error: -f -: there is no standard input\n"),
    ],
)
def test_no_place_to_write_or_read(redirected: str, code: int, said: str) -> None:
    command = f"{shlex.join(MITMESH)} {redirected}"
    ran = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (code, said)


def test_ctrl_c_is_quiet(redis_url: str) -> None:
    child = process("watch", redis=redis_url)
    assert child.stderr is not None
    assert child.stderr.readline().startswith("watching redis://")
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=10)
    assert (child.returncode, out, err) == (130, "", "")


def on_pty(arguments: list[str], redis: str, **environment: str) -> str:
    """What the command prints to a terminal."""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [*MITMESH, *arguments],
        cwd=ROOT,
        env={**os.environ, "MITMESH_REDIS": redis, "TERM": "xterm-256color", **environment},
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not part:
            break
        shown += part
    child.wait(10)
    os.close(leader)
    return shown.decode()


def test_colour_on_a_terminal_only(mitmesh: Mitmesh, redis_url: str) -> None:
    assert (
        mitmesh("apply", "-f", "-", "-m", "[bold]why[/bold]\x1b[31m", stdin="{service: a, retry: 2}").code
        == 0
    )
    piped = mitmesh("history").out
    assert "\x1b" not in piped
    shown = on_pty(["history"], redis_url)
    assert "\x1b[" in shown
    assert "[bold]why[/bold]\\x1b[31m" in shown
    assert "─" in shown
    assert "\x1b[3" not in on_pty(["delete", "b"], redis_url, NO_COLOR="1")
    assert "\x1b[31merror: no document for service b" in on_pty(["delete", "b"], redis_url)
    assert "\x1b" not in on_pty(["delete", "b"], redis_url, TERM="dumb")


def test_a_narrow_terminal_cuts_no_name_short(mitmesh: Mitmesh, redis_url: str) -> None:
    name = "a-service-with-quite-a-long-name-as-some-have"
    said = f"{{service: {name}, retry: 2}}"
    assert mitmesh("apply", "-f", "-", "-m", "word " * 12, stdin=said).code == 0
    shown = on_pty(["history"], redis_url, COLUMNS="40")
    assert name in shown
    assert shown.count("word") == 12


def test_output_that_the_terminal_cannot_show(mitmesh: Mitmesh, redis_url: str) -> None:
    assert mitmesh("apply", "-f", "-", stdin="{service: a, respond: {body: 'é☃'}}").code == 0
    child = process("get", redis=redis_url)
    assert "é☃" in child.communicate(timeout=10)[0]
    environment = {**os.environ, "MITMESH_REDIS": redis_url, "PYTHONIOENCODING": "latin-1"}
    ran = subprocess.run([*MITMESH, "get"], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (ran.returncode, "é\\u2603" in ran.stdout.decode("latin-1"), ran.stderr) == (0, True, b"")


def test_redis_with_nonsense(start_valkey: StartValkey, mitmesh: Mitmesh) -> None:
    server = start_valkey()
    server.command("SET", "{mesh}:revision", "nonsense")
    ran = mitmesh("status", "--redis", server.url)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "{mesh}:revision" in ran.err


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0.0s"),
        (0.04, "0.0s"),
        (9.96, "10.0s"),
        (12.9, "12s"),
        (119, "119s"),
        (120, "2m"),
        (7300, "2h"),
        (400_000, "4d"),
    ],
)
def test_ago(seconds: float, said: str) -> None:
    assert output.ago(seconds) == said


def test_times() -> None:
    assert output.timestamp(1700000000.25) == "2023-11-14T22:13:20.250Z"
    assert re.fullmatch(r"2023-11-1[45] \d\d:\d\d:20", output.local_time(1700000000.25))


def test_demo_says_which_port_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--proxy-port", str(port)]) == 1
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        assert str(port) in captured.err
        assert "--proxy-port" in captured.err
    assert main(["demo", "--requests", "0"]) == 2
