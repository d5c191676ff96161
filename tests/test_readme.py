"""README.md: every command in it is run, every policy read, every table held against the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mitmproxy.test import taddons

from addons import answers
from addons.chain import chain
from control.policy.checking import check
from control.policy.reading import read_bytes
from tests.conftest import die_with_parent, free_port

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# What differs from run to run: numbers, times, who and where, and the article's server's mood.
VARYING = [
    (r"\b(success|failure)\b", "ANSWER"),
    (r"\S+@\S+", "AUTHOR"),
    (r"[\w.-]+-\d+-[0-9a-f]{6}", "NODE"),
    (r"\b(checkout|\d+\.\d+\.\d+)\s+-", "VERSION -"),
    (r"\d+(\.\d+)?", "0"),
    (r"[ \t]+", " "),
]


def skeleton(text: str) -> list[str]:
    """The lines without what varies."""
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return [line.strip() for line in text.strip().splitlines()]


def commands(block: str) -> list[tuple[str, str]]:
    """A console session as pairs of command and output."""
    pairs = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        count = 1
        while count < len(lines) and lines[count].startswith("> "):
            count += 1
        command = "\n".join([lines[0], *(line[2:] for line in lines[1:count])])
        pairs.append((command, "\n".join(lines[count:])))
    return pairs


def shim(folder: Path) -> Path:
    """A folder with `mitmesh` and `python` of this checkout and this Python."""
    folder.mkdir()
    for name, words in (("mitmesh", "-m control"), ("python", "")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {words} "$@"\n')
        script.chmod(0o755)
    return folder


def run_bash(script: str, folder: Path, redis_url: str, timeout: float = 90) -> str:
    environment = {
        "PATH": f"{shim(folder / 'bin')}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "MITMESH_REDIS": redis_url,
        "LANG": "C.UTF-8",
    }
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        preexec_fn=die_with_parent,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.timeout(120)
def test_console_sessions(tmp_path: Path, redis_url: str) -> None:
    """All of them in one shell, one after the other, in a folder with nothing but the examples."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    ports = {"3000": str(free_port()), "3001": str(free_port())}
    steps = [pair for kind, block in BLOCKS if kind == "console" for pair in commands(block)]
    assert steps
    lines = ["set -m", f"sed 's/3001/{ports['3001']}/' examples/article.yaml > article.yaml"]
    for number, (command, _) in enumerate(steps):
        for port, free in ports.items():
            command = command.replace(port, free)
        command = command.replace("examples/article.yaml", "article.yaml")
        lines += [f"echo '@@{number}'", command]
        if command.endswith("&"):
            port = ports["3000"] if "proxy" in command else ports["3001"]
            lines.append(
                f"for i in $(seq 300); do (: </dev/tcp/127.0.0.1/{port}) 2>/dev/null && break; sleep 0.1; done"
            )
    lines.append("kill %1 %2; wait; exit 0")
    output = run_bash("\n".join(lines), tmp_path, redis_url)
    seen = dict(re.findall(r"^@@(\d+)\n((?:(?!@@\d).*\n)*)", output, re.MULTILINE))
    for number, (command, expected) in enumerate(steps):
        assert skeleton(seen[str(number)]) == skeleton(expected), command
    assert (tmp_path / "proxy.log").read_text().count("\n") == 2


def test_demo_output_is_as_shown(tmp_path: Path, redis_url: str) -> None:
    shown = next(block for kind, block in BLOCKS if not kind and block.startswith("tries"))
    ports = f"--proxy-port {free_port()} --server-port {free_port()}"
    output = run_bash(f"mitmesh demo --requests 30 {ports} 2>/dev/null || true", tmp_path, redis_url)
    words = [re.sub(r"\b(yes|no)\b", "yes", line) for line in skeleton(output)]
    for line in skeleton(shown):
        assert line in words, output


@pytest.mark.parametrize("command", re.findall(r"`(mitmesh proxy [^`]*)`", README))
def test_proxy_commands_are_taken(command: str, tmp_path: Path, redis_url: str) -> None:
    command = command.replace(" N", " 2")
    if not any(word in command for word in ("--outbound", "--inbound", "--mode")):
        return
    (tmp_path / "mine.py").write_text("")
    assert "lean_proxy.py" in run_bash(f"{command} --print", tmp_path, redis_url)


def test_policies_are_valid() -> None:
    policies = [block for kind, block in BLOCKS if kind == "yaml"]
    assert policies
    for text in policies:
        assert not check(read_bytes(text.encode(), "README.md"))


def table(heading: str) -> dict[str, str]:
    """A table's first column to its second."""
    section = README.partition(f"### {heading}\n")[2].partition("\n#")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return {row[0]: row[1] for row in rows[2:]}


def test_options_are_all_listed() -> None:
    with taddons.context() as context:
        before = set(context.options.keys())
        context.master.addons.add(*chain())
        options = {name: context.options.default(name) for name in set(context.options.keys()) - before}
    listed = {
        name.strip("`"): value.strip("`")
        for name, value in table("Options of the proxy (`--set NAME=VALUE`)").items()
    }
    assert options.keys() <= listed.keys()
    for name, default in options.items():
        if isinstance(default, str) and name not in ("mesh_redis", "mesh_name", "mesh_node"):
            assert listed[name] == default, name


def test_flags_are_those_of_the_code() -> None:
    listed = {flag for cell in table("Flags") for flag in cell.split(", ")}
    documented = {
        flag
        for cell in re.findall(r"^\| ([A-Z_, ]+) \|", answers.__doc__ or "", re.MULTILINE)
        for flag in cell.split(", ")
    }
    assert listed == documented


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target
