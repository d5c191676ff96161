"""What is sound and can never work is told, where it stands and with a remedy; what may be meant is not."""

import io
from pathlib import Path

import pytest

from control.policy.doubts import doubts
from control.policy.reading import read_bytes, read_source
from tests.test_reference import EXAMPLES


def told(text: str, service: str = "web") -> list[str]:
    documents = read_bytes(f"service: '{service}'\n{text}".encode(), "test.yaml")
    return [str(problem) for problem in doubts(documents)]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "routes:\n- {name: api, match: {path: {prefix: /api}}}\n- match: {path: /api/x}",
            ("test.yaml:4: web: routes[1]: routes[0] (api) takes every request that this one matches:"
            " move this one before it, or take it out"),
        ),
        ("routes:\n- timeout: 1s\n- {for: 1h}", "test.yaml:4: web: routes[1]: routes[0] takes every request"),
        (
            "timeout: 2s\nretry: {per_try_timeout: 5s}",
            ("test.yaml:3: web: retry.per_try_timeout: a try may take 5s, but all of them together only 2s:"
            " make per_try_timeout shorter than timeout"),
        ),
        (
            "retry: {per_try_timeout: 5s}\nroutes:\n- timeout: 2s",
            "test.yaml:4: web: routes[0].timeout: a try may take 5s, but all of them together only 2s",
        ),
        (
            "timeout: 2s\nroutes:\n- retry: {per_try_timeout: 3s}",
            "test.yaml:4: web: routes[0].retry.per_try_timeout: a try may take 3s",
        ),
        (
            "retry: {per_try_timeout: 1s, hedge: {after: 2s}}",
            "test.yaml:2: web: retry.hedge.after: no try lasts 2s, since per_try_timeout is 1s: make hedge.after shorter",
        ),
        (
            "retry: {hedge: {after: 2s}}\nroutes:\n- timeout: 2s",
            "test.yaml:4: web: routes[0].timeout: no try lasts 2s, since timeout is 2s",
        ),
        ("timeout: 1s\nconnect_timeout: 2s", "test.yaml:3: web: connect_timeout: never ends anything, since timeout is 1s"),
        (
            "endpoints: [a:80]\nroutes:\n- {redirect: {scheme: https}, to: default, retry: 3}",
            "test.yaml:4: web: routes[0].redirect: answers every request, so to, retry do nothing beside it",
        ),
        ("respond: {}\nrewrite: {path: /x}", "test.yaml:2: web: respond: answers every request, so rewrite does nothing"),
        (
            "cors: {allow_origins: 'https://a.example', allow_credentials: true, allow_headers: ['*']}",
            "test.yaml:2: web: cors.allow_headers: with allow_credentials browsers take * for a name",
        ),
        ("retry: {attempts: 1, on: [5xx]}", "test.yaml:2: web: retry.attempts: one try is no retry, so on does nothing"),
        (
            "to: {a: 1, b: 1}\nsticky: {cookie: my cookie}",
            "test.yaml:3: web: sticky.cookie: no cookie can have this name, so nobody keeps a version: write letters",
        ),
        ("routes:\n- sticky: {cookie: a;b}", "test.yaml:3: web: routes[0].sticky.cookie: no cookie can have this name"),
        ("sticky: {cookie: __Host-a}", "test.yaml:2: web: sticky.cookie: browsers refuse a cookie of this name"),
        ("cors: {allow_origins: [shop.example]}", "test.yaml:2: web: cors.allow_origins[0]: no browser sends the origin shop.example"),
        ("cors: {allow_origins: 'https://a.example/'}", "test.yaml:2: web: cors.allow_origins: no browser sends"),
        ("cors: {allow_origins: '*', allow_credentials: true}", "test.yaml:2: web: cors.allow_origins: every website may"),
    ],
)  # fmt: skip
def test_a_doubt(text: str, warning: str) -> None:
    (found,) = told(text)
    assert found.startswith(warning)


@pytest.mark.parametrize("fault", ["{abort: 503}", "{delay: 1s, percent: 100}", "{abort: hang, every: 1}"])
def test_a_fault_that_hits_everything_for_ever(fault: str) -> None:
    (found,) = told(f"faults:\n- {{abort: 500, percent: 1}}\n- {fault}", "*")
    assert found.startswith("test.yaml:4: *: faults[1]: hits every request of the whole mesh, for ever")
    assert told(f"faults: [{fault}]") == []


@pytest.mark.parametrize(
    "fault",
    [
        "{abort: 503, percent: 99}",
        "{abort: 503, for: 10m}",
        "{abort: 503, first: 5}",
        "{abort: 503, every: 2}",
        "{abort: 503, match: {path: /x}}",
        "{allow_header: true}",
    ],
)
def test_a_fault_of_the_mesh_that_has_an_end_or_a_share(fault: str) -> None:
    assert told(f"faults: [{fault}]", "*") == []


@pytest.mark.parametrize(
    "text",
    [
        "routes: [{match: {path: /api/x}}, {match: {path: {prefix: /api}}}]",
        "routes: [{for: 1h}, {match: {path: /x}}]",
        "routes: [{match: {percent: 99}}, {match: {path: /x}}]",
        "to: {a: 1, b: 1}\nsticky: {cookie: mesh-canary}",
        "retry: 1",
        "retry: {attempts: 1, per_try_timeout: 1s}",
        "timeout: 2s\nretry: {per_try_timeout: 2s}",
        "timeout: 2s\nretry: {per_try_timeout: 2s, hedge: {after: 1s}}",
        "timeout: 0\nretry: {per_try_timeout: 5s}",
        "retry: {per_try_timeout: 5s}",
        "timeout: 2s\nretry: {per_try_timeout: 1s}\nroutes: [{match: {path: /x}}]",
        "respond: {}\nretry: 2\nroutes: [{match: {path: /x}, timeout: 1s}]",
        "cors: {allow_origins: ['https://a.example', 'http://localhost:3000', 'null', '*', 'chrome-extension://abc']}",
        "cors: {allow_origins: {suffix: .example}, allow_credentials: true}",
    ],
)
def test_what_may_be_meant_is_not_doubted(text: str) -> None:
    assert told(text) == []


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_documentations_examples_are_beyond_doubt(example: str) -> None:
    assert doubts(read_bytes(example.encode(), "docs/policy.md")) == []


def test_the_defaults_of_the_mesh_count_too() -> None:
    star = read_bytes(b"service: '*'\ntimeout: 1s", "star.yaml")
    web = read_bytes(
        b"service: web\nretry: {per_try_timeout: 2s}\nroutes: [{match: {path: /x}, timeout: 3s}]", "f"
    )
    expected = ["f:2: web: retry.per_try_timeout: a try may take 2s, but all of them together only 1s"]
    for found in (doubts([*web, *star]), doubts(web, star[0].policy)):
        assert [str(problem).rpartition(":")[0] for problem in found] == expected
    assert doubts(web) == []
    assert doubts(star) == []


def test_the_examples_are_beyond_doubt() -> None:
    assert doubts(read_source(str(Path(__file__).parent.parent / "examples"), io.BytesIO())) == []
