"""docker-compose.yml without Docker: it is well formed, and every service's own command works as a process here.

How a container is played on this machine: a service's name becomes 127.0.0.1, each of its ports a free one, the
image's programs (`python`, `mitmesh`, `valkey-server`) those of this environment, and a mounted folder its source.
Command, environment, health check and policy are otherwise taken as they are written.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from control.demo.client import Answer, ProxyConnection
from control.demo.processes import Child, Processes
from tests.conftest import VALKEY, Valkey, free_port

ROOT = Path(__file__).parent.parent
FILE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = [name for name in SERVICES if name != "valkey"]
COMPOSE = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
PROGRAMS = {
    "python": [sys.executable],
    "mitmesh": [sys.executable, "-m", "control"],
    "valkey-server": [VALKEY],
}


def compose_works() -> bool:
    return (
        bool(shutil.which(COMPOSE[0]))
        and subprocess.run([*COMPOSE, "version"], capture_output=True).returncode == 0
    )


class Machine:
    """This machine in the place of all the containers."""

    def __init__(self, folder: Path) -> None:
        self.ports = {port: str(free_port()) for port in ("3000", "3001", "6379")}
        self.policy = folder / "policy"
        self.policy.mkdir()
        for example in (ROOT / "examples").glob("*.yaml"):
            (self.policy / example.name).write_text(self.local(example.read_text()))
        self.processes = Processes(folder)

    def local(self, text: str) -> str:
        """What a container would see, in terms of this machine."""
        text = re.sub(rf"\b({'|'.join(SERVICES)})(?=:\d)", "127.0.0.1", text).replace("0.0.0.0", "127.0.0.1")
        text = re.sub(r"(?<![\d.])(3000|3001|6379)(?!\d)", lambda found: self.ports[found[1]], text)
        return text.replace("/policy/", f"{self.policy}/")

    def command(self, words: list[str]) -> list[str]:
        return [*PROGRAMS[words[0]], *(self.local(word) for word in words[1:])]

    def environment(self, name: str) -> dict[str, str]:
        said = SERVICES[name].get("environment", {})
        return {"PYTHONPATH": str(ROOT)} | {key: self.local(value) for key, value in said.items()}

    def start(self, name: str) -> Child:
        return self.processes.start(name, self.command(SERVICES[name]["command"]), self.environment(name))

    def healthy(self, name: str) -> None:
        """Returns once the service's own health check says so."""
        kind, *check = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD"
        deadline = time.monotonic() + 30
        while subprocess.run(self.command(check), capture_output=True, timeout=10).returncode != 0:
            self.processes.check()
            assert time.monotonic() < deadline, name

    async def curl(self, proxy: str, url: str) -> Answer:
        """What `curl -x proxy url` gets."""
        host, _, port = self.local(proxy).rpartition(":")
        connection = ProxyConnection(host, int(port))
        try:
            return await connection.get(self.local(url))
        finally:
            connection.close()


@pytest.fixture
def machine(tmp_path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    with machine.processes:
        yield machine


async def test_the_article_by_the_services_own_commands(machine):
    valkey = machine.start("valkey")
    await valkey.listening("127.0.0.1", int(machine.ports["6379"]))
    machine.start("server")
    machine.healthy("server")
    machine.start("proxy")
    machine.healthy("proxy")
    control = machine.start("control")
    assert control.process.wait(30) == 0, control.log.read_text()

    answers = [await machine.curl("proxy:3000", "http://server:3001/") for _ in range(30)]
    assert {answer.body for answer in answers} <= {b"success\n", b"failure\n"}
    # One of ten would succeed without the policy; with it, about two of three, after some tries.
    assert sum(answer.body == b"success\n" for answer in answers) >= 9
    assert any(int(answer.fields["x-mesh-attempts"]) > 2 for answer in answers)

    again = machine.start("control")
    assert again.process.wait(30) == 0, again.log.read_text()
    for name in ("proxy", "server", "valkey"):
        (child,) = (each for each in machine.processes.children if each.name == name)
        child.stop()
        assert child.process.returncode in (0, -15), child.log.read_text()


def test_the_policy_is_there_again_after_a_restart_of_valkey(machine):
    for _ in range(2):
        valkey = machine.start("valkey")
        server = Valkey(machine.processes.folder / "client", port=int(machine.ports["6379"]))
        deadline = time.monotonic() + 10
        while "Ready to accept" not in valkey.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        found = server.command("INCR", "starts")
        valkey.stop()
    assert found == b":2\r\n"


@pytest.mark.skipif(not compose_works(), reason="docker-compose is not installed")
def test_compose_accepts_the_file():
    done = subprocess.run(
        [*COMPOSE, "-f", "docker-compose.yml", "config", "--quiet"],
        cwd=ROOT, capture_output=True, text=True, timeout=50, env={**os.environ, "COMPOSE_PROJECT_NAME": "mitmesh"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_ports_are_the_articles_and_open_on_this_machine_alone():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"server": ["127.0.0.1:3001:3001"], "proxy": ["127.0.0.1:3000:3000"]}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_restarted_and_watched(name):
    service = SERVICES[name]
    if name == "control":  # it ends when it is done
        assert service["restart"] == "on-failure"
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"
    for needed in service.get("depends_on", {}):
        assert service["depends_on"][needed] == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[needed]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_runs_as_root_or_on_an_image_that_changes(name):
    service = SERVICES[name]
    if name in OURS:
        assert service["build"] == "."
        assert re.search(r"^USER mitmesh$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    else:
        assert service["user"] not in ("root", "0")
        assert re.search(r":\d+\.\d+\.\d+", service["image"])


def test_the_image_is_built_from_what_is_committed_with_the_committed_versions():
    dockerfile = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE)
        for word in line.split()[:-1]
    }
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    installs = re.findall(r"pip install .*", dockerfile)
    assert installs
    assert all("--constraint" in install for install in installs)
