"""The users of docs/security.md with real processes: authority, proxy and operator, each with its rights alone."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.identity.tokens import read_token
from tests.cli import MITMESH, ROOT
from tests.conftest import StartValkey, Valkey, free_port
from tests.mesh_process import Mesh, eventually, get, running
from tests.test_end_to_end_identity import CA, ask, identity, proxy
from tests.test_rights import USERS

pytestmark = pytest.mark.timeout(120)


def url(server: Valkey, user: str) -> str:
    return f"redis://{user}:SECRET@{server.address}/0"


@pytest.fixture
def server(start_valkey: StartValkey) -> Valkey:
    started = start_valkey()
    for user, rights in USERS.items():
        started.command("ACL", "SETUSER", user, "reset", *rights)
    started.command("ACL", "SETUSER", "watcher", "on", ">SECRET", "allkeys", "allchannels", "+@all")
    started.command("ACL", "SETUSER", "default", "off")
    return started


@pytest.fixture
def ca(tmp_path: Path, server: Valkey) -> Iterator[CA]:
    authority = CA(tmp_path, url(server, "ca"), "8s")
    yield authority.start()
    authority.stop()


def operate(server: Valkey, *arguments: str, stdin: str = "") -> str:
    environment = {**os.environ, "MITMESH_REDIS": url(server, "operator")}
    ran = subprocess.run(
        [*MITMESH, *arguments],
        cwd=ROOT,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran
    return ran.stdout


def test_a_mesh_of_users_with_their_rights_alone(tmp_path: Path, server: Valkey, ca: CA) -> None:
    mesh = Mesh(url(server, "watcher"))
    web = proxy(tmp_path, url(server, "web"), "web", ca.token("web"), node="web-1")
    inbound = free_port()
    web.command += [
        "--mode",
        f"reverse:http://127.0.0.1:{free_port()}@{inbound}",
        "--set",
        f"mesh_inbound={inbound}",
    ]
    with running(web):
        first = eventually(lambda: identity(mesh, "web-1"))
        policy = "{service: front, rate_limit: {requests: 100, per: 1s, scope: mesh}, respond: {status: 200, body: hi}}"
        operate(server, "apply", "-f", "-", "--wait", "20s", stdin=policy)
        assert get(web.port, "http://front/").text == "hi"
        eventually(lambda: identity(mesh, "web-1")["not_after"] > first["not_after"], within=40)
        # Another service's name is not given by it, though it may ask.
        refused = ask(url(server, "web"), read_token(ca.token("web")), "bank")
        assert "its token is of web" in refused["refused"]
        shown = json.loads(operate(server, "ca", "status", "--json"))
        assert shown["nodes"][0]["node"] == "web-1"
        assert "its token is of web" in shown["refusals"][0]["reason"]
        assert "web-1" in operate(server, "status")
        assert "hi" in operate(server, "get")
        ca.run("ca", "rotate", "--dir", str(ca.dir))
        eventually(lambda: identity(mesh, "web-1")["root"] != first["root"], within=60)
        assert "may not" not in web.console() + ca.log.read_text()
    assert mesh.nodes() == {}
