"""The file that outlives the proxy: whole or not there, of one mesh, and never believed when it is something else."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.policy_cache import read_cache, write_cache

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.integers(0, 10**12), st.dictionaries(TEXTS, TEXTS, max_size=5))
def test_what_is_written_is_read(tmp_path_factory, revision, documents):
    path = tmp_path_factory.mktemp("cache") / "policy.json"
    write_cache(path, "mesh", revision, documents)
    assert read_cache(path, "mesh") == (revision, documents, "", {})


def test_it_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "policy.json"
    for revision in (1, 2):
        write_cache(path, "mesh", revision, {"web": str(revision)})
    assert read_cache(path, "mesh") == (2, {"web": "2"}, "", {})
    assert os.listdir(tmp_path) == ["policy.json"]


def test_others_cannot_read_it(tmp_path):
    path = tmp_path / "policy.json"
    write_cache(path, "mesh", 1, {})
    assert path.stat().st_mode & 0o077 == 0


def test_a_write_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "policy.json"
    write_cache(path, "mesh", 1, {})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_cache(path, "mesh", 2, {})
    assert read_cache(path, "mesh") == (1, {}, "", {})
    assert os.listdir(tmp_path) == ["policy.json"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting"),
        (b"[]", "not a policy cache"),
        (b"null", "not a policy cache"),
        (b"{}", "not a policy cache"),
        (b'{"mesh": "mesh", "revision": 1}', "not a policy cache"),
        (b'{"mesh": "mesh", "revision": 1, "documents": [1]}', "not a policy cache"),
        (b'{"mesh": "mesh", "revision": null, "documents": {}}', "not a policy cache"),
        (b'{"mesh": "mesh", "revision": "x", "documents": {}}', "invalid literal"),
        (b'{"mesh": "other", "revision": 1, "documents": {}}', "it is of mesh 'other', not 'mesh'"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[" * 100_000, "RecursionError"),
    ],
)
def test_anything_else_is_a_value_error(tmp_path, data, said):
    path = tmp_path / "policy.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said):
        read_cache(path, "mesh")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_cache(tmp_path / "none", "mesh")
    with pytest.raises(FileNotFoundError):
        write_cache(tmp_path / "no folder" / "none", "mesh", 1, {})


def test_it_is_plain_json(tmp_path):
    path = Path(tmp_path / "policy.json")
    write_cache(path, "mesh", 1, {"web": "{}"})
    assert json.loads(path.read_text()) == {"mesh": "mesh", "revision": 1, "documents": {"web": "{}"}}
