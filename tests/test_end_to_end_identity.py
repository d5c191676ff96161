"""Certificates with real processes: `mitmesh ca serve`, proxies that join and renew, refusals, a root that is replaced."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.identity import x509 as certificates
from control.identity.authority import Authority
from control.identity.enrolment import Enrolment
from control.identity.requests import make_request
from control.identity.tokens import Token, read_token
from control.store import Store
from tests.cli import MITMESH, ROOT
from tests.conftest import StartValkey, Valkey, die_with_parent
from tests.mesh_process import Mesh, Proxy, eventually, running

pytestmark = pytest.mark.timeout(180)


class CA:
    """`mitmesh ca serve` as a process, and commands beside it."""

    def __init__(self, folder: Path, redis: str, lifetime: str = "1h") -> None:
        self.dir = folder / "ca"
        self.redis = redis
        self.log = folder / "ca.log"
        self.lifetime = lifetime
        self.process: subprocess.Popen[bytes] | None = None
        self.run("ca", "init", "--dir", str(self.dir))

    def run(self, *arguments: str, code: int = 0) -> str:
        environment = {**os.environ, "MITMESH_REDIS": self.redis}
        ran = subprocess.run(
            [*MITMESH, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == code, ran
        return ran.stdout + ran.stderr

    def token(self, service: str, *options: str) -> str:
        return self.run("token", service, "--dir", str(self.dir), *options).strip()

    def status(self) -> dict:
        return json.loads(self.run("ca", "status", "--json"))

    def start(self) -> "CA":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *MITMESH,
                    "--redis",
                    self.redis,
                    "ca",
                    "serve",
                    "--dir",
                    str(self.dir),
                    "--lifetime",
                    self.lifetime,
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)
            self.process = None


@pytest.fixture
def valkey(start_valkey: StartValkey) -> Valkey:
    return start_valkey()


@pytest.fixture
def ca(tmp_path: Path, valkey: Valkey) -> Iterator[CA]:
    authority = CA(tmp_path, valkey.url)
    yield authority
    authority.stop()


def proxy(
    tmp_path: Path, redis: str, name: str, token: str = "", node: str | None = None, **arguments
) -> Proxy:
    options = {"mesh_service": name, **arguments.pop("options", {})}
    environment = {"MITMESH_TOKEN": token} if token else {}
    return Proxy(
        tmp_path / name,
        redis,
        lean=True,
        node=node or name,
        options=options,
        environment=environment,
        **arguments,
    )


def identity(mesh: Mesh, node: str) -> dict:
    """What the node tells of its identity; empty while it tells none."""
    report = mesh.nodes().get(node)
    said = json.loads(report.extra.get("identity") or "{}") if report else {}
    return said if said.get("id") else {}


def test_a_proxy_joins_and_renews(tmp_path: Path, valkey: Valkey, ca: CA) -> None:
    ca.lifetime = "6s"
    ca.start()
    mesh = Mesh(valkey.url)
    web = proxy(tmp_path, valkey.url, "web", ca.token("web"))
    with running(web):
        first = eventually(lambda: identity(mesh, "web"))
        assert first["id"] == "spiffe://mesh/service/web"
        assert first["error"] == ""
        seen = {first["not_after"]}

        def renewed() -> bool:
            seen.add(identity(mesh, "web")["not_after"])
            return len(seen) >= 4

        eventually(renewed, within=60, every=0.2)
        shown = ca.status()
        assert shown["nodes"][0]["certificate"]["id"] == "spiffe://mesh/service/web"
        assert shown["authority"]["issued"] >= 4
    assert "by token" in ca.log.read_text()
    assert "by certificate" in ca.log.read_text()
    assert valkey.command("KEYS", "*").find(b"PRIVATE") == -1


def test_two_workers_have_a_certificate_each(tmp_path: Path, valkey: Valkey, ca: CA) -> None:
    ca.start()
    token = tmp_path / "token"
    token.write_text(ca.token("web", "--uses", "2") + "\n")
    token.chmod(0o600)
    mesh = Mesh(valkey.url)
    web = proxy(tmp_path, valkey.url, "web", options={"mesh_token": str(token)})
    at = web.command.index(str(Path(ROOT, "addons/lean_proxy.py"))) + 1
    web.command[at:at] = ["--workers", "2"]
    with running(web):
        for node in ("web-1", "web-2"):
            eventually(lambda node=node: identity(mesh, node))
    assert ca.log.read_text().count("by token") == 2


def test_a_certificate_survives_the_authority_and_is_warned_of(
    tmp_path: Path, valkey: Valkey, ca: CA
) -> None:
    ca.lifetime = "20s"
    ca.start()
    mesh = Mesh(valkey.url)
    web = proxy(tmp_path, valkey.url, "web", ca.token("web"))
    with running(web):
        eventually(lambda: identity(mesh, "web"))
        ca.stop()
        eventually(lambda: "ends at" in web.console(), within=60)
        assert "the certificate of web ends at" in web.console()
        assert "is `mitmesh ca serve` running?" in web.console()
        said = ca.status()["nodes"][0]["certificate"]
        assert said["ending"]
        eventually(lambda: "the certificate of web has ended" in web.console(), within=60)


def ask(redis: str, token: Token, service: str, request_key=None) -> dict:
    """A request as a proxy puts it into Redis; the answer."""

    async def run() -> dict:
        store = Store(redis)
        request_id = os.urandom(16).hex()
        name = f"spiffe://mesh/service/{service}"
        text = make_request(
            request_key or certificates.new_key(), name, "mesh", "stranger", request_id, token
        )
        await store.ask_certificate(text)
        end = time.monotonic() + 20
        while (answer := await store.certificate_answer(request_id)) is None:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        await store.close()
        return json.loads(answer)

    return asyncio.run(run())


def test_refusals_are_told_everywhere(tmp_path: Path, valkey: Valkey, ca: CA) -> None:
    ca.start()
    once = read_token(ca.token("web"))
    assert "certificate" in ask(valkey.url, once, "web")
    short = read_token(ca.token("web", "--ttl", "1ms"))
    bank = read_token(ca.token("bank"))
    altered = Token(**{**vars(once), "claims": bank.claims})
    mine = Authority.open(ca.dir, "mesh").issue("web", 60.0)
    refused = {
        "its token was used once already, as often as it may be": (once, "web"),
        "its token has expired": (short, "web"),
        "it wants 'spiffe://mesh/service/bank', but its token is of web": (
            read_token(ca.token("web")),
            "bank",
        ),
        "its token was not made by this authority, or was altered": (altered, "bank"),
        "it wants 'spiffe://mesh/service/bank', but its certificate is of web": (mine, "bank"),
    }
    for reason, (shown, service) in refused.items():
        assert ask(valkey.url, shown, service) == {"refused": reason}
        assert reason in ca.log.read_text()
    shown = ca.status()
    assert {each["reason"] for each in shown["refusals"]} == set(refused)
    assert {each["node"] for each in shown["refusals"]} == {"stranger"}
    text = ca.run("ca", "status")
    assert all(reason in text for reason in refused)
    assert "5 certificate requests were refused" in ca.run("status")


def test_a_refused_proxy_says_so_and_serves_on(tmp_path: Path, valkey: Valkey, ca: CA) -> None:
    ca.start()
    used = ca.token("web")
    assert "certificate" in ask(valkey.url, read_token(used), "web")
    mesh = Mesh(valkey.url)
    web = proxy(tmp_path, valkey.url, "web", used)
    with running(web):
        eventually(lambda: "its token was used once already" in web.console())
        report = eventually(lambda: mesh.nodes().get("web"))
        said = eventually(lambda: json.loads(mesh.nodes()["web"].extra["identity"])["error"])
        assert "refused: its token was used once already" in said
        assert report.revision == 0
        assert "none yet" in ca.run("status")


def test_the_root_is_replaced(tmp_path: Path, valkey: Valkey, ca: CA) -> None:
    ca.lifetime = "12s"
    ca.start()
    mesh = Mesh(valkey.url)
    web = proxy(tmp_path, valkey.url, "web", ca.token("web"))
    by_hand = tmp_path / "by-hand"
    ca.run("cert", "issue", "files", "--out", str(by_hand), "--dir", str(ca.dir))
    files = proxy(tmp_path, valkey.url, "files", options={"mesh_identity": str(by_hand)})
    with running(web, files):
        old = eventually(lambda: identity(mesh, "web"))["root"]
        ca.run("ca", "rotate", "--dir", str(ca.dir))
        assert "a rotation is under way" in ca.run("ca", "rotate", "--dir", str(ca.dir), code=1)
        bundle = identity(mesh, "web")["bundle"]
        new = eventually(lambda: (identity(mesh, "web")["root"] != old) and identity(mesh, "web"), within=60)
        assert new["bundle"] > bundle
        # The one with files by hand trusts the new root, too, and still shows a certificate of the old one.
        assert (
            eventually(
                lambda: identity(mesh, "files")["bundle"] == new["bundle"] and identity(mesh, "files")
            )["root"]
            == old
        )
        refused = ca.run("ca", "rotate", "--finish", "--dir", str(ca.dir), code=1)
        assert "error: node files: has not followed yet" in refused
        ca.run("cert", "issue", "files", "--out", str(by_hand), "--dir", str(ca.dir))
        eventually(lambda: identity(mesh, "files")["root"] == new["root"])
        eventually(lambda: "the rotation is complete" in ca.log.read_text(), within=60)
        eventually(lambda: identity(mesh, "web")["bundle"] > new["bundle"])
        eventually(lambda: identity(mesh, "files")["bundle"] > new["bundle"])
        assert identity(mesh, "web")["root"] == identity(mesh, "files")["root"] == new["root"]
        assert not (ca.dir / "root-1.key").exists()


def test_a_forged_bundle_is_not_taken_and_put_right(tmp_path: Path, valkey: Valkey, ca: CA) -> None:
    stranger = Authority.create(tmp_path / "stranger", "mesh")
    mesh = Mesh(valkey.url)
    ca.start()
    web = proxy(tmp_path, valkey.url, "web", ca.token("web"))
    with running(web):
        root = eventually(lambda: identity(mesh, "web"))["root"]
        ca.stop()
        mesh.use(lambda store: store.set_bundle(stranger.statement()))
        eventually(lambda: "is signed by no root that is trusted here" in web.console())
        assert eventually(lambda: identity(mesh, "web")["error"])
        assert identity(mesh, "web")["root"] == root
        ca.start()
        eventually(lambda: identity(mesh, "web")["error"] == "")


def test_enrolment_needs_the_trusted_root(tmp_path: Path, valkey: Valkey, ca: CA) -> None:
    """A CA that stands in Redis in the place of ours gets no proxy of ours."""
    stranger = Authority.create(tmp_path / "stranger", "mesh")
    token = read_token(ca.token("web"))

    async def join() -> str:
        store = Store(valkey.url)
        await store.set_bundle(stranger.statement())
        enrolment = Enrolment("mesh", "web", "n", lambda: token)
        assert not await enrolment.step(store)
        waiting = await store.certificate_requests()
        await store.close()
        assert waiting == []
        return enrolment.error

    assert "is signed by no root that is trusted here" in asyncio.run(join())
