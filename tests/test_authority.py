"""control/identity/authority.py: the folder with the keys of a mesh, and who may read it."""

import os
import re
from pathlib import Path

import pytest

from control.identity.authority import Authority
from control.identity.folders import AuthorityError, default_folder
from control.identity.identity import Identity


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "mesh")


def modes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}


def test_what_is_secret_is_for_the_owner_alone(authority: Authority) -> None:
    assert authority.folder.stat().st_mode & 0o777 == 0o700
    assert modes(authority.folder) == {
        "authority.json": 0o600,
        "lock": 0o600,
        "root-1.key": 0o600,
        "root-1.pem": 0o644,
        "tokens.key": 0o600,
    }


def test_what_it_issues_is_an_identity(authority: Authority) -> None:
    identity = Authority.open(authority.folder, "mesh").issue("Web", 60.0)
    assert identity.spiffe_id == "spiffe://mesh/service/web"
    assert identity.bundle == authority.bundle().pem == (authority.folder / "root-1.pem").read_bytes()
    assert isinstance(identity, Identity)


@pytest.mark.parametrize("name", ["root-1.key", "tokens.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_secrets_that_others_can_read_are_not_used(authority: Authority, name: str, mode: int) -> None:
    os.chmod(authority.folder / name, mode)
    with pytest.raises(
        AuthorityError, match=re.escape(f"{name} is open to others (mode {mode:04o}): chmod 0600")
    ):
        Authority.open(authority.folder, "mesh")


def test_a_second_one_in_the_same_place_is_refused(authority: Authority) -> None:
    before = (authority.folder / "root-1.key").read_bytes()
    with pytest.raises(AuthorityError, match=r"there is an authority in .* already; name another --dir"):
        Authority.create(authority.folder, "mesh")
    assert (authority.folder / "root-1.key").read_bytes() == before


def test_folders_that_are_none(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match=r"there is no authority in .*: make one with `mitmesh ca init`"):
        Authority.open(tmp_path / "nowhere", "mesh")
    with pytest.raises(AuthorityError, match="is of mesh mesh, not staging: name --mesh or --dir"):
        Authority.open(authority.folder, "staging")
    (authority.folder / "authority.json").write_text("{}")
    with pytest.raises(AuthorityError, match=r"authority\.json is spoiled: put it back from a backup"):
        Authority.open(authority.folder, "mesh")
    (tmp_path / "file").write_text("")
    with pytest.raises(AuthorityError, match=r"file/ca: Not a directory"):
        Authority.create(tmp_path / "file/ca", "mesh")


def test_where_it_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_folder("staging") == Path("/data/mitmesh/ca/staging")
    # The specification has it that relative paths are ignored.
    for unset in ("", "data"):
        monkeypatch.setenv("XDG_DATA_HOME", unset)
        assert default_folder("mesh") == Path("/home/ann/.local/share/mitmesh/ca/mesh")
