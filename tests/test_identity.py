"""control/identity/identity.py and private_files.py: an identity in a folder, and folders that are none."""

import os
import re

import pytest

from control.identity.authority import Authority
from control.identity.identity import Identity


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("ca") / "ca", "mesh")


def test_written_and_read_again(authority, tmp_path):
    identity = authority.issue("web", 60.0)
    identity.write(tmp_path / "web")
    read = Identity.read(tmp_path / "web", generation=identity.generation)
    assert read == identity
    assert read.spiffe_id == "spiffe://mesh/service/web"
    assert read.service == "web"
    assert read.not_after - read.not_before == 90
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "web").iterdir()}
    assert modes == {"cert.pem": 0o644, "key.pem": 0o600, "bundle.pem": 0o644}


def test_the_key_is_in_no_repr(authority):
    assert "PRIVATE" not in repr(authority.issue("web"))


def test_a_key_that_everybody_can_read_is_refused(authority, tmp_path):
    authority.issue("web").write(tmp_path)
    os.chmod(tmp_path / "key.pem", 0o644)
    with pytest.raises(ValueError, match=r"key\.pem is open to others \(mode 0644\): chmod 0640"):
        Identity.read(tmp_path)
    os.chmod(tmp_path / "key.pem", 0o640)
    assert Identity.read(tmp_path).service == "web"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder, other: (folder / "cert.pem").write_bytes(b"x"), "cert.pem: no certificates in PEM"),
        (
            lambda folder, other: (folder / "bundle.pem").write_bytes(b""),
            "bundle.pem: no certificates in PEM",
        ),
        (lambda folder, other: (folder / "key.pem").write_bytes(b"x"), "key.pem: not a private key of P-256"),
        (
            lambda folder, other: (folder / "key.pem").write_bytes(other.key),
            "key.pem does not belong to cert.pem",
        ),
        (
            lambda folder, other: (folder / "bundle.pem").write_bytes(other.bundle),
            "cert.pem under bundle.pem: the certificate is signed by none of the trusted roots",
        ),
        (
            lambda folder, other: (folder / "cert.pem").write_bytes((folder / "bundle.pem").read_bytes()),
            "key.pem does not belong to cert.pem",
        ),
    ],
)
def test_what_does_not_fit_together(authority, tmp_path, spoil, reason):
    other = Authority.create(tmp_path / "other", "mesh").issue("web")
    authority.issue("web").write(tmp_path / "web")
    spoil(tmp_path / "web", other)
    with pytest.raises(ValueError, match="^" + re.escape(reason)):
        Identity.read(tmp_path / "web")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        Identity.read(tmp_path)
