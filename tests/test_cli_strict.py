"""Warnings of `apply` and `validate`, and --strict."""

import json

import pytest

from tests.cli import mitmesh_fixture  # noqa: F401

DOUBTFUL = "service: web\nroutes:\n- {name: all, match: {path: {prefix: /a}}}\n- match: {path: /a/b}\n"
WARNING = "stdin:4: web: routes[1]: routes[0] (all) takes every request that this one matches: move this one before it, or take it out"


@pytest.mark.parametrize("command", ["apply", "validate"])
def test_a_doubt_is_a_line_on_stderr_and_no_reason_to_refuse(mitmesh, command):
    ran = mitmesh(command, "-f", "-", stdin=DOUBTFUL)
    assert (ran.code, ran.err) == (0, f"warning: {WARNING}\n")
    assert "web" in ran.out


@pytest.mark.parametrize("command", [("apply",), ("apply", "--dry-run"), ("validate",)])
def test_strict_refuses_and_writes_nothing(mitmesh, command):
    ran = mitmesh(*command, "--strict", "-f", "-", stdin=f"service: good\n---\n{DOUBTFUL}")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"{WARNING.replace(':4:', ':6:')}\n"
    assert json.loads(mitmesh("get", "--json").out) == []


def test_strict_has_nothing_against_what_is_beyond_doubt(mitmesh):
    assert mitmesh("apply", "--strict", "-f", "-", stdin="{service: web, retry: 2}").code == 0
    # What others wrote is not judged.
    assert mitmesh("apply", "-f", "-", stdin=DOUBTFUL).code == 0
    ran = mitmesh("apply", "--strict", "-f", "-", stdin="{service: other, retry: 2}")
    assert (ran.code, ran.err) == (0, "")


def test_validate_tells_programs_of_both(mitmesh):
    ran = mitmesh("validate", "--json", "-f", "-", stdin=DOUBTFUL)
    said = json.loads(ran.out)
    assert (ran.code, said["valid"], said["problems"], ran.err) == (0, True, [], f"warning: {WARNING}\n")
    (warning,) = said["warnings"]
    assert (warning["line"], warning["field"]) == (4, "routes[1]")
    ran = mitmesh("validate", "--json", "--strict", "-f", "-", stdin=DOUBTFUL)
    said = json.loads(ran.out)
    assert (ran.code, said["valid"], "warnings" in said, ran.err) == (1, False, False, "")
    assert [problem["field"] for problem in said["problems"]] == ["routes[1]"]
