"""proxy: the command that it becomes, and one such proxy for real."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

import pytest

from control.cli import main
from control.commands.failure import Failed
from control.commands.proxy import addon_file
from tests.cli import MITMESH, ROOT, Mitmesh, mitmesh_fixture  # noqa: F401
from tests.conftest import die_with_parent, free_port

LEAN = f"{ROOT}/addons/lean_proxy.py"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main([*arguments, "--print"]) == 0
    return shlex.split(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("--outbound 15001", "--mode regular@15001"),
        (
            "--inbound 15006:127.0.0.1:8000",
            "--mode reverse:http://127.0.0.1:8000@15006 --set mesh_inbound=15006",
        ),
        (
            "--inbound 1:[::1]:2 --inbound 3:app:4",
            "--mode reverse:http://[::1]:2@1 --mode reverse:http://app:4@3 --set mesh_inbound=1 --set mesh_inbound=3",
        ),
        (
            "--service web --node one --cache c.json --access-log - --outbound 1 --redis redis://h:1/0 --mesh m",
            (
                "--mode regular@1 --set mesh_redis=redis://h:1/0 --set mesh_name=m --set mesh_service=web"
                " --set mesh_node=one --set mesh_cache=c.json --set mesh_access_log=-"
            ),
        ),
        ("--outbound 1 --access-log=", "--mode regular@1 --set mesh_access_log="),
        (
            "--mode socks5@5 --outbound 1 --listen-host 127.0.0.1 -p 7 -s a.py --scripts b.py --set http2=false",
            "--mode regular@1 --mode socks5@5 --listen-host 127.0.0.1 --listen-port 7 -s a.py -s b.py --set http2=false",
        ),
        ("--outbound 1 --workers 2", "--workers 2 --mode regular@1"),
        ("--outbound 1 --drain 1.5s", "--mode regular@1 --set mesh_drain=1.5s"),
        ("--outbound 1 --metrics-port 15090", "--mode regular@1 --set mesh_metrics_port=15090"),
        ("--outbound 1 --set mesh_inbound=1", "--mode regular@1 --set mesh_inbound=1"),
        ("--outbound 1 -- -k --ignore-hosts x", "--mode regular@1 -k --ignore-hosts x"),
    ],
)
def test_command(arguments: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["proxy", "--print", *shlex.split(arguments)]) == 0
    found = shlex.split(capsys.readouterr().out)
    assert found[:3] == [sys.executable, "-P", LEAN]
    quiet = found.index("termlog_verbosity=warn")
    assert found[quiet - 1] == "--set"
    assert found[3 : quiet - 1] + found[quiet + 1 :] == shlex.split(command)


def test_verbosity_is_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "proxy", "--outbound", "1", "--set", "termlog_verbosity=debug")
    assert "termlog_verbosity=warn" not in found


def test_redis_of_the_environment_stays_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it may hold a password that `ps` must not show."""
    monkeypatch.setenv("MITMESH_REDIS", "redis://:hush@h:1/0")
    assert "hush" not in " ".join(printed(capsys, "proxy", "--outbound", "1"))
    assert "mesh_redis=redis://b" in printed(capsys, "--redis", "redis://b", "proxy", "--outbound", "1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "--outbound PORT"),
        ("--service web", "--outbound PORT"),
        ("--outbound http", "--outbound: write a port"),
        ("--outbound 70000", "--outbound: write a port"),
        ("--inbound 15006", "--inbound: write PORT:HOST:PORT"),
        ("--inbound 15006:8000", "--inbound: write PORT:HOST:PORT"),
        ("--inbound 15006:ho/st:8000", "--inbound: write PORT:HOST:PORT"),
        ("--inbound x:host:8000", "--inbound: write a port"),
        ("--inbound 1:host:0", "--inbound: write a port"),
        ("--outbound 1 --service a --set mesh_service=b", "--set mesh_service"),
        ("--outbound 1 --workers 0", "--workers"),
        ("--outbound 1 --drain soon", "--drain: "),
        ("--outbound 1 --drain 5", "--drain: "),
        ("--outbound 1 --metrics-port x", "--metrics-port: write a port"),
        ("--outbound 1 --mesh {x}", "--mesh"),
    ],
)
def test_usage(arguments: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["proxy", "--print", *shlex.split(arguments)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, said in captured.err) == ("", True), captured


def test_a_python_that_is_gone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert main(["proxy", "--outbound", "1"]) == 1
    said = "error: /no/such/python cannot be run: No such file or directory\n"
    assert capsys.readouterr().err == said


def test_addons_missing() -> None:
    assert addon_file("mesh.py") == Path(ROOT, "addons/mesh.py")
    with pytest.raises(Failed, match="is missing"):
        addon_file("no_such.py")


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "6")
        self.end_headers()
        self.wfile.write(b"hello\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hello() -> Iterator[int]:
    """The port of a server that says hello."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


class Lines(threading.Thread):
    """The lines of a pipe as they come."""

    def __init__(self, pipe: IO[str]) -> None:
        super().__init__(daemon=True)
        self.pipe = pipe
        self.seen: list[str] = []
        self.arrived = threading.Condition()
        self.start()

    def run(self) -> None:
        for line in self.pipe:
            with self.arrived:
                self.seen.append(line)
                self.arrived.notify_all()

    def wait_for(self, part: str) -> str:
        with self.arrived:
            assert self.arrived.wait_for(lambda: any(part in line for line in self.seen), 30), self.seen
            return next(line for line in self.seen if part in line)


ADDON = """
import logging
from control.policy.errors import PolicyErrors

class Mine:
    def running(self):
        logging.getLogger("mine").info("mine is quiet")
        logging.getLogger("mine").warning("mine warns")

    def request(self, flow):
        flow.request.headers["x-mine"] = "1"

    def response(self, flow):
        flow.response.headers["x-mine"] = "1"

addons = [Mine()]
"""


def test_for_real(mitmesh: Mitmesh, redis_url: str, hello: int, tmp_path: Path) -> None:
    """Policy from Redis in force, the log on stdout, a warning on stderr, a normal end."""
    assert mitmesh("apply", "-f", "-", stdin=f"{{service: back, endpoints: ['127.0.0.1:{hello}']}}").code == 0
    script = tmp_path / "mine.py"
    script.write_text(ADDON)
    outbound, inbound = free_port(), free_port()
    child = subprocess.Popen(
        [
            *(*MITMESH, "proxy", "--service", "web", "--node", "mine", "--listen-host", "127.0.0.1"),
            *("--outbound", str(outbound), "--inbound", f"{inbound}:127.0.0.1:{hello}"),
            *("--access-log", "-", "-s", str(script), "--set", f"confdir={tmp_path}"),
        ],
        cwd=ROOT,
        env={**os.environ, "MITMESH_REDIS": redis_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - system calls alone, no Python lock is taken
    )
    assert child.stdout is not None
    assert child.stderr is not None
    out, err = Lines(child.stdout), Lines(child.stderr)
    try:
        err.wait_for("mine warns")
        nodes = []
        while not nodes or not nodes[0]["current"]:
            assert child.poll() is None, err.seen
            nodes = json.loads(mitmesh("status", "--json").out)["nodes"]
        assert (nodes[0]["node"], nodes[0]["service"]) == ("mine", "web")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"127.0.0.1:{outbound}"}))
        with opener.open("http://back/", timeout=20) as answer:
            assert (answer.status, answer.read(), answer.headers["x-mine"]) == (200, b"hello\n", "1")
        line = json.loads(out.wait_for('"back"'))
        assert (line["node"], line["status"]) == ("mine", 200)
        waited = mitmesh("apply", "-f", "-", "--wait", "20s", stdin="{service: back, respond: {status: 418}}")
        assert (waited.code, "in force at 1 live node" in waited.out) == (0, True), waited
        with pytest.raises(urllib.error.HTTPError, match="418"):
            opener.open("http://back/", timeout=20)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{inbound}/", timeout=20) as answer:
            assert answer.read() == b"hello\n"
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
        out.join()
        err.join()
        assert not [line for line in err.seen if "mine is quiet" in line]
        assert all(line.startswith("{") for line in out.seen), out.seen
        assert json.loads(mitmesh("status", "--json").out)["nodes"] == []
    finally:
        child.kill()
        child.wait()
