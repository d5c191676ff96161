"""Every example is valid, alone and together with all the others, and does what it is there to show."""

import io
from pathlib import Path

import pytest

from control.policy.checking import check
from control.policy.model import Policy
from control.policy.reading import normalize, parse_stored, read_source, to_yaml

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))


def read(path: Path) -> list[Policy]:
    documents = read_source(str(path), io.BytesIO())
    assert check(documents) == []
    return [document.policy for document in documents]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_is_one_small_valid_document_that_starts_with_its_idea(path):
    (policy,) = read(path)
    text = path.read_text()
    assert text.startswith("# ")
    assert len(text.splitlines()) <= 30
    assert parse_stored(policy.service, normalize(policy)) == policy


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_get_would_print_of_an_example_reads_back_to_it(path, tmp_path):
    policies = read(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(policies))
    assert read(copy) == policies


def test_the_whole_folder_can_be_applied_at_once():
    assert len(read(EXAMPLES)) == len(FILES) >= 8


def test_the_article_speaks_of_its_server_by_every_name_and_tries_ten_times():
    (policy,) = read(EXAMPLES / "article.yaml")
    assert policy.service == "server"
    assert set(policy.hosts) == {"127.0.0.1:3001", "localhost:3001"}
    assert policy.retry is not None
    assert policy.retry.attempts == 10
