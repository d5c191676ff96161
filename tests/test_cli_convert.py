"""mitmesh convert, and the commands that take foreign documents as they are."""

import json
import re
from pathlib import Path

import pytest

from tests.cli import ROOT, Mitmesh, mitmesh_fixture  # noqa: F401
from tests.test_convert_gateway import SIMPLE
from tests.test_convert_istio import BOOKS, TO, acting

OURS = "service: ours\nretry: 2\n"
LOSSY = acting(f"{{{TO}, retries: {{attempts: 1, retryRemoteLocalities: true}}}}")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("simple.yaml").write_text(SIMPLE)
    Path("books.yaml").write_text(f"{OURS}---\n{BOOKS}")
    Path("lossy.yaml").write_text(LOSSY)
    Path("none.yaml").write_text("{apiVersion: v1, kind: Service, metadata: {name: x}}")
    return tmp_path


def test_what_is_converted_can_be_applied(mitmesh: Mitmesh, files: Path) -> None:
    ran = mitmesh("convert", "-f", "simple.yaml", "-f", "books.yaml")
    assert ran.code == 0
    assert ran.err.splitlines() == [
        f"note: books.yaml:{line}: VirtualService/reviews: spec.http[{index}].route[0].destination.subset: "
        f"{version} of reviews is taken to be at reviews-{version}:9080"
        for index, (line, version) in enumerate([(12, "v2"), (14, "v3"), (16, "v1")])
    ]
    again = mitmesh("apply", "-f", "-", stdin=ran.out)
    assert (again.code, again.err) == (0, "")
    assert again.out == "ours: created\nreviews: created\nshop.example: created\nrevision 1\n"
    directly = mitmesh("apply", "-f", ".", "--dry-run")
    assert directly.code == 1  # lossy.yaml is among them
    directly = mitmesh("apply", "-f", "simple.yaml", "-f", "books.yaml")
    assert (
        directly.out
        == "ours: unchanged\nreviews: unchanged\nshop.example: unchanged\nnothing to do, revision 1\n"
    )
    assert directly.err == ran.err


def test_what_is_lost_is_said_and_refused(mitmesh: Mitmesh, files: Path) -> None:
    lost = "lossy.yaml:8: VirtualService/reviews: spec.http[0].retries.retryRemoteLocalities: no counterpart here"
    ran = mitmesh("convert", "-f", "lossy.yaml")
    assert ran.code == 1
    assert ran.err.splitlines() == [
        f"left out: {lost}",
        "error: something was left out: see above; --lossy accepts that",
    ]
    assert ran.out.startswith(f"# left out: {lost}\nservice: reviews\n")
    accepted = mitmesh("convert", "-f", "lossy.yaml", "--lossy")
    assert (accepted.code, accepted.out) == (0, ran.out)
    assert accepted.err == f"left out: {lost}\n"
    assert mitmesh("apply", "-f", "-", stdin=accepted.out).code == 0
    for command in (
        ["apply"],
        ["apply", "--dry-run"],
        ["validate"],
        ["diff"],
        ["explain", "GET", "http://reviews/"],
    ):
        refused = mitmesh(*command, "-f", "lossy.yaml")
        assert refused.code == (2 if command[0] == "diff" else 1)
        assert refused.err.splitlines() == [
            lost,
            "not applied as it is: mitmesh convert -f lossy.yaml --lossy shows it without what has no counterpart",
        ]


def test_commands_that_read_take_them_too(mitmesh: Mitmesh, files: Path) -> None:
    assert mitmesh("validate", "-f", "simple.yaml").out == "valid: 1 document (shop.example)\n"
    assert "+service: shop.example" in mitmesh("diff", "-f", "simple.yaml").out
    asked = mitmesh("explain", "GET", "http://shop.example/cart/total", "-f", "simple.yaml", "--json")
    assert json.loads(asked.out)["to"][0]["endpoints"] == ["sums.money:9000"]


def test_the_port_that_is_not_said(mitmesh: Mitmesh, files: Path) -> None:
    text = BOOKS.replace(", port: {number: 9080}", "")
    ran = mitmesh("convert", "-f", "-", "--port", "9080", stdin=text)
    assert (
        "note: stdin:9: VirtualService/reviews: spec.http[0].route[0].destination: no port is said: 9080 is taken"
        in ran.err
    )
    assert "reviews-v2:9080" in ran.out
    assert mitmesh("convert", "-f", "simple.yaml", "--port", "0").code == 2


def test_nothing_to_convert_and_files_that_are_none(mitmesh: Mitmesh, files: Path) -> None:
    ran = mitmesh("convert", "-f", "none.yaml")
    assert (ran.code, ran.out, ran.err) == (
        0,
        "",
        "note: none.yaml:1: Service/x: core: no counterpart here\n",
    )
    assert mitmesh("convert", "-f", "missing.yaml").code == 1
    broken = mitmesh("convert", "-f", "-", stdin="{apiVersion: v1, kind: [")
    assert broken.code == 1
    assert "not YAML" in broken.err


def test_two_that_claim_one_host(mitmesh: Mitmesh, files: Path) -> None:
    text = acting(f"{{{TO}}}")
    ran = mitmesh("convert", "-f", "-", stdin=f"{text}\n---\n{text}")
    assert ran.code == 1
    assert "claim reviews: leave the host to one of them" in ran.err


def test_the_page_shows_what_comes_out(mitmesh: Mitmesh) -> None:
    page = Path(ROOT, "docs/convert.md").read_text()
    theirs, ours = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    ran = mitmesh("convert", "-f", "-", stdin=theirs)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == ours
