"""The commands around certificates: ca init, cert issue."""

import subprocess
from pathlib import Path

import pytest

from control.identity.identity import Identity
from tests.cli import Mitmesh, mitmesh_fixture  # noqa: F401


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data/mitmesh/ca/mesh"


def test_an_authority_and_a_certificate(mitmesh: Mitmesh, tmp_path: Path, home: Path) -> None:
    ran = mitmesh("ca", "init")
    assert ran.code == 0
    assert ran.out.startswith(f"authority of mesh mesh in {home}\nroot ")
    web = tmp_path / "web"
    ran = mitmesh("cert", "issue", "web", "--out", str(web))
    assert (ran.code, ran.out) == (
        0,
        f"spiffe://mesh/service/web: cert.pem, key.pem and bundle.pem in {web}\n",
    )
    assert Identity.read(web).service == "web"
    command = ["openssl", "verify", "-x509_strict", "-CAfile", web / "bundle.pem", web / "cert.pem"]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_a_folder_and_a_mesh_of_ones_own(mitmesh: Mitmesh, tmp_path: Path) -> None:
    folder = str(tmp_path / "ca")
    assert mitmesh("--mesh", "staging", "ca", "init", "--dir", folder).code == 0
    ran = mitmesh("cert", "issue", "web", "--out", str(tmp_path / "w"), "--dir", folder, "--mesh", "staging")
    assert ran.out.startswith("spiffe://staging/service/web:")
    ran = mitmesh("cert", "issue", "web", "--out", str(tmp_path / "w"), "--dir", folder)
    assert (ran.code, ran.err) == (
        1,
        f"error: the authority in {folder} is of mesh staging, not mesh: name --mesh or --dir\n",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["cert", "issue", "web", "--out", "."], 1, "make one with `mitmesh ca init`, or name its --dir"),
        (["cert", "issue", "a/b", "--out", "."], 2, "'a/b' in mesh 'mesh' is no name"),
        (["cert", "issue", "web"], 2, "Missing option '--out'"),
        (["cert", "issue", "web", "--out", ".", "--lifetime", "5"], 2, "--lifetime 5: write a duration"),
        (["cert", "issue", "web", "--out", ".", "--lifetime", "1ms"], 2, "--lifetime 1ms: at least 1s"),
        (["ca"], 2, "Usage: mitmesh ca"),
    ],
)
def test_what_is_refused(mitmesh: Mitmesh, arguments: list[str], code: int, said: str) -> None:
    ran = mitmesh(*arguments)
    assert ran.code == code
    assert said in ran.out + ran.err
    assert "Traceback" not in ran.err


def test_twice_is_refused(mitmesh: Mitmesh, home: Path) -> None:
    assert mitmesh("ca", "init").code == 0
    ran = mitmesh("ca", "init")
    assert (ran.code, ran.err) == (
        1,
        f"error: there is an authority in {home} already; name another --dir\n",
    )
