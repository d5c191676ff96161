"""From bytes to policies: what is read, what is refused on which line, and that what is written reads back."""

import io
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from control.policy import yaml_text
from control.policy.errors import PolicyErrors, Problem
from control.policy.model import Policy
from control.policy.reading import normalize, parse_stored, read_bytes, read_source, to_yaml
from tests import policy_strategies as policies

NO_INPUT = io.BytesIO()


@pytest.fixture(params=["c", "python"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """PyYAML with and without its part in C."""
    monkeypatch.setattr(yaml_text, "LOADER", yaml.CSafeLoader if request.param == "c" else yaml.SafeLoader)
    return str(request.param)


def errors(text: str | bytes, file: str = "f") -> list[str]:
    """Every problem of a text as it is printed, without the file's name."""
    with pytest.raises(PolicyErrors) as caught:
        read_bytes(text.encode() if isinstance(text, str) else text, file)
    lines = str(caught.value).splitlines()
    assert lines == [str(problem) for problem in caught.value.problems]
    assert all(line.isprintable() for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]


def value(text: str) -> Any:
    """What a word means where any value may stand: told by what is said of it where none may."""
    (line,) = errors(f"service: a\nfaults: {text}")
    return json.loads(line.rpartition(", got ")[2])


BAD_FIELDS = [
    ("retry: {attempts: 999}", "retry.attempts: at most 100, got 999"),
    ("retry: 0", "retry: at least 1, got 0"),
    (
        "retry: true",
        "retry: write a number of tries, or a mapping such as {attempts: 3, on: [connect-failure, 5xx]}, got true",
    ),
    (
        "retry: {on: [5xx, 6xx]}",
        'retry.on[1]: write connect-failure, reset, timeout, 5xx, gateway-error, retriable-4xx, a status, a range such as "500-504", {header: ...} or {body: ...}, got "6xx"',
    ),
    (
        "retry: {on: 504-500}",
        'retry.on: write connect-failure, reset, timeout, 5xx, gateway-error, retriable-4xx, a status, a range such as "500-504", {header: ...} or {body: ...}, got "504-500"',
    ),
    (
        "retry: {max_body: 64k}",
        'retry.max_body: write a size with its unit, such as 100B, 64KiB or 1MB, got "64k"',
    ),
    (
        "retry: {on: [{body: {regex: '('}}]}",
        'retry.on[0].body.regex: not an RE2 regular expression: missing ): (, got "("',
    ),
    ("timeout: 5", "timeout: write a duration with its unit, such as 25ms, 1.5s, 2m or 1h, got 5"),
    ("timeout: on", 'timeout: write a duration with its unit, such as 25ms, 1.5s, 2m or 1h, got "on"'),
    ("timeuot: 5s", "timeuot: unknown field: did you mean timeout?"),
    (
        "faults: [{percent: 101, abort: 503}]",
        "faults[0].percent: write a percentage as a number from 0 to 100, got 101",
    ),
    ("faults: [{abort: 99}]", "faults[0].abort: write a status from 200 to 599, got 99"),
    (
        "faults: [{abort: crash}]",
        'faults[0].abort: write a status, a mapping such as {status: 503, body: sorry} or {grpc: UNAVAILABLE}, reset or hang, got "crash"',
    ),
    (
        "faults: [{abort: {body: x}}]",
        'faults[0].abort: give exactly one of status, grpc, got {body: "x"}',
    ),
    (
        "faults: [{abort: {status: 503, headers: {a b: c}}}]",
        'faults[0].abort.headers."a b": write a header name, such as x-user, got "a b"',
    ),
    (
        "faults: [{}]",
        "faults[0]: does nothing: give it one of delay, abort, bandwidth, truncate, corrupt, slow_close, got {}",
    ),
    (
        "retry: {hedge: {after: 1s, max: 1}}",
        "retry.hedge.max: at least 2, got 1",
    ),
    (
        "retry: {attempts: 2, hedge: {after: 1s, max: 3}}",
        'retry: hedge.max 3 is more than attempts 2, the tries in all: raise attempts, got {attempts: 2, hedge: {after: "1s", max: 3}}',
    ),
    (
        "faults: [{delay: 5}]",
        "faults[0].delay: write a duration such as 2s, {uniform: [1s, 3s]} or {normal: {mean: 2s, stddev: 500ms}}, got 5",
    ),
    (
        "faults: [{delay: {uniform: [3s, 1s]}}]",
        'faults[0].delay: uniform: write the shorter duration first, got {uniform: ["3s", "1s"]}',
    ),
    (
        "faults: [{delay: {normal: {mean: 1s}}}]",
        "faults[0].delay.normal.stddev: missing: write a duration, such as 25ms, 1.5s, 2m or 1h",
    ),
    (
        "faults: [{bandwidth: 10KiB}]",
        'faults[0].bandwidth: write a rate above 0 with its unit, such as 100B/s, 10KiB/s or 1MB/s, got "10KiB"',
    ),
    (
        "faults: [{truncate: -1}]",
        "faults[0].truncate: write a number of bytes, such as 100 or 64KiB, got -1",
    ),
    (
        "faults: [{corrupt: 0}]",
        "faults[0].corrupt: write a percentage above 0; leave it out for none, got 0",
    ),
    (
        "faults: [{allow_header: true, delay: 1s}]",
        "faults[0].allow_header: the header says what this fault does: take delay out, or write it as a fault of its own",
    ),
    (
        "faults: [{delay: 1s, scope: all}]",
        'faults[0].scope: write attempt or request, got "all"',
    ),
    ("endpoints: [a]", 'endpoints[0]: write an address as host:port, such as 10.0.0.1:8080, got "a"'),
    (
        "endpoints: [{address: a:1, weight: -1}]",
        "endpoints[0].weight: write a weight as a number from 0 to 1000000000, got -1",
    ),
    (
        "endpoints: {v1: [{address: a:1, weight: 0}]}",
        'endpoints.v1: weights need a positive sum: give at least one endpoint a weight above 0, got [{address: "a:1", weight: 0}]',
    ),
    (
        "endpoints: {v 1: [a:1]}",
        "endpoints.\"v 1\": write a name of letters, digits, '.', '_' and '-', such as reviews or v2, got \"v 1\"",
    ),
    (
        "endpoints: {v1: a:1}",
        'endpoints.v1: write a list of addresses, such as [10.0.0.1:8080], or auto, got "a:1"',
    ),
    ("endpoints: []", "endpoints: write a list of addresses, such as [10.0.0.1:8080], or auto, got []"),
    (
        "endpoints: {}",
        "endpoints: write at least one version; without endpoints the address that the caller named is dialled, got {}",
    ),
    (
        "to: {v1: -1}\nendpoints: {v1: [a:1]}",
        "to.v1: write a weight as a number from 0 to 1000000000, got -1",
    ),
    (
        "to: {v1: 0}\nendpoints: {v1: [a:1]}",
        "to: weights need a positive sum: give at least one version a weight above 0, got {v1: 0}",
    ),
    ("to: {}", "to: weights need a positive sum: give at least one version a weight above 0, got {}"),
    ("to: a/b/c", 'to: write a version, such as v2, or other-service/version, got "a/b/c"'),
    (
        "to: {Other/v1: 1, other/v1: 1}",
        "to: Other/v1 and other/v1 are the same, since case does not matter: keep one, got {Other/v1: 1, other/v1: 1}",
    ),
    ("hosts: a.example", 'hosts: write a list of hosts, such as [reviews.example], got "a.example"'),
    (
        "hosts: ['http://a']",
        'hosts[0]: write a host or host:port alone, without http:// and without a path, got "http://a"',
    ),
    ("routes: [{match: {path: x}}]", 'routes[0].match.path: a path starts with /, got "x"'),
    (
        "routes: [{match: [{path: {regex: 'a)'}}]}]",
        'routes[0].match[0].path.regex: not an RE2 regular expression: unexpected ): a), got "a)"',
    ),
    (
        "routes: [{match: {headers: {x: {}}}}]",
        "routes[0].match.headers.x: give exactly one of exact, prefix, suffix, contains, regex, present, not, got {}",
    ),
    ("routes: [{match: {method: []}}]", "routes[0].match.method: write at least one, got []"),
    (
        "routes: [{name: a}, {name: a}]",
        "routes[1].name: a is the name of routes[0] already: give each its own",
    ),
    (
        "routes: [{name: ''}]",
        'routes[0].name: write a name of 1 to 100 characters, without line breaks or control characters, got ""',
    ),
    (
        "access_log: yes",
        'access_log: write on, off or a mapping such as {sample: 10, only: errors}, got "yes"',
    ),
    (
        "access_log: true",
        "access_log: write on, off or a mapping such as {sample: 10, only: errors}, got true",
    ),
    (
        "request_headers: {set: {x: 1}}",
        "request_headers.set.x: write a header value in quotes, without line breaks or control characters, got 1",
    ),
    (
        "request_headers: {set: {X: a, x: b}}",
        'request_headers.set: X and x are the same, since case does not matter: keep one, got {X: "a", x: "b"}',
    ),
    (
        "response_headers: {add: {content-length: '1'}}",
        'response_headers.add: content-length belongs to the connection, and the proxy writes it: take it out, got {content-length: "1"}',
    ),
    ("unknown_hosts: refuse", 'unknown_hosts: stands only in the document of service "*": move it there'),
    ("timeout:", "timeout: no value: write one, or take the field out"),
    ("hosts: [a, ~]", "hosts[1]: no value: write one, or take the field out"),
    (
        "timeout: !!python/object/apply:os.system [ls]",
        "timeout: tags are not read: take !!python/object/apply:os.system out",
    ),
    ("timeout: !!int 5", "timeout: tags are not read: take !!int out"),
    ("timeout: *x", "timeout: the alias *x is not defined: put it in quotes if it is text"),
    (
        "faults: &x [*x]",
        "faults[0]: the alias *x stands inside what it names: put it in quotes if it is text",
    ),
    ("<<: 5", '"<<": write an alias of a mapping, such as <<: *name'),
    ("? [a]\n: b", "a key is text, not a list or a mapping: write a word"),
    ("5: a", '5: a key is text: put it in quotes, as "5"'),
    ("true: a", 'true: a key is text: put it in quotes, as "true"'),
    ("~: a", '"~": a key is text: put it in quotes, as "~"'),
]


@pytest.mark.parametrize(("field", "expected"), BAD_FIELDS, ids=[field for field, _ in BAD_FIELDS])
def test_a_bad_field_is_one_line_with_its_place_and_a_remedy(
    field: str, expected: str, either_parser: str
) -> None:
    assert errors(f"service: a\n{field}") == [f"2: a: {expected}"]


BAD_TEXTS = [
    ("", '1: nothing in it: write a document that starts with `service: NAME`'),
    ("# nothing\n\n# yet\n", '1: nothing in it: write a document that starts with `service: NAME`'),
    ("---\n---\n...\n", '1: nothing in it: write a document that starts with `service: NAME`'),
    ("[]", "1: document 1: a document is a mapping that starts with `service: NAME`, got []"),
    ("\nhello", '2: document 1: a document is a mapping that starts with `service: NAME`, got "hello"'),
    ("timeout: 1s", "1: document 1: service: missing: write the service's name, such as `service: reviews`"),
    ("service: a\nhosts:\n\t- b", "3: a: not YAML: a tab cannot indent: use spaces"),
    ("service: a\nhosts: [a, b\ntimeout: 1s\n", "3: a: not YAML: the bracket or brace of line 2 is not closed, or a comma is missing: check the indentation, quotes and brackets around here"),
    ('service: "a\nretry: 1\n', "3: document 1: not YAML: the quote of line 1 is not closed: close it"),
    ("service: *", '1: document 1: not YAML: text that starts with * or & needs quotes, as "*"'),
    ("hosts: [*.example]", '1: document 1: not YAML: text that starts with * or & needs quotes, as "*"'),
    ("service: @a", "1: document 1: not YAML: text cannot start with @: put it in quotes"),
    ("service: a: b", "1: a: not YAML: a ': ' where none can stand: check the indentation, or put the text in quotes"),
    ("service: a\nhosts\ntimeout: 1s", "3: a: not YAML: the line 2 has no ': ': write name: value"),
    ("service: a\nretry:\n    attempts: 3\n  on: 5xx\n", "4: a: not YAML: does not fit what began on line 1: check the indentation, quotes and brackets around here"),
    (r'service: "\d"', r"1: document 1: not YAML: not an escape in double quotes: write \\ for a backslash, or use single quotes"),
    ("service: a\n# \x00", '2: the character U+0000 cannot stand in YAML: take it out, or write "\\u0000"'),
    ("service: a # \u2028retry: 1", '1: the character U+2028 cannot stand in YAML: take it out, or write "\\u2028"'),
    ("service: a\nretry: 1\nretry: 2\n", "3: a: retry: given twice, first on line 2: keep one"),
    ('{"service": "a", "retry": {"attempts": 1,\n "attempts": 2}}', "2: a: retry.attempts: given twice, first on line 1: keep one"),
    ("service: a\nfaults: " + "[" * 100000, "2: a: nested deeper than 64 levels: a policy needs a few"),
    ("service: a\nfaults: " + "{a: " * 100, "2: a: nested deeper than 64 levels: a policy needs a few"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), BAD_TEXTS, ids=[repr(text[:30]) for text, _ in BAD_TEXTS])
def test_a_bad_text_is_one_line_with_its_place_and_a_remedy(
    text: str, expected: str, either_parser: str
) -> None:
    assert errors(text) == [expected]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"service: a\ntimeout: \xff1s", "2: not UTF-8: byte 0xff at offset 20: save the file as UTF-8"),
        ("service: a".encode("utf-16"), "1: not UTF-8: byte 0xff at offset 0: save the file as UTF-8"),
        (b"#" * (16 * 2**20 + 1), " larger than 16MiB: split it into several files"),
    ],
)
def test_bytes_that_are_no_text(data: bytes, expected: str) -> None:
    assert errors(data) == [expected]


def test_a_byte_order_mark_and_any_line_ends_are_taken() -> None:
    for text in ("\ufeffservice: a\nretry: 2\n", "service: a\r\nretry: 2\r\n", "service: a\rretry: 2\r"):
        (document,) = read_bytes(text.encode(), "f")
        assert document.policy == Policy.model_validate({"service": "a", "retry": 2})
    assert errors("service: a\r\n\r\nretry: 200\r\n") == ["3: a: retry: at most 100, got 200"]


MANY = """\
service: a
retry: 200
timeout: 5
---
service: b
hosts: [
---
service: c
routes:
- {name: x, to: v9}
- {name: x, retry: {atempts: 3}}
hosts: [b.example]
endpoints: {v1: [c:1]}
---
service: c
---
service: d
hosts: [c, B.Example, d.example, D.example]
"""


def test_every_error_of_every_document_is_told_at_once(either_parser: str) -> None:
    assert errors(MANY) == [
        "2: a: retry: at most 100, got 200",
        "3: a: timeout: write a duration with its unit, such as 25ms, 1.5s, 2m or 1h, got 5",
        "7: b: not YAML: the bracket or brace of line 7 is not closed, or a comma is missing: check the indentation, quotes and brackets around here",
        "10: c: routes[0].to: c has no version v9: known are v1",
        "11: c: routes[1].retry.atempts: unknown field: did you mean attempts?",
        "11: c: routes[1].name: x is the name of routes[0] already: give each its own",
        "15: c: service: c has a document on line 8 already: make one document of the two",
        "18: d: hosts[0]: both d and c (on line 8) claim c: leave the host to one of them",
        "18: d: hosts[1]: both d and c (on line 8) claim b.example: leave the host to one of them",
        "18: d: hosts[3]: d.example is listed twice: take one out",
    ]


def test_of_a_field_given_twice_the_first_is_judged(either_parser: str) -> None:
    assert errors("service: a\nretry: 200\nretry: [1]\n") == [
        "2: a: retry: at most 100, got 200",
        "3: a: retry: given twice, first on line 2: keep one",
    ]


def test_a_missing_space_is_named() -> None:
    (line,) = errors("service: a\nretry: {attempts:{a: 1}}")
    assert (
        line == "2: a: not YAML: a ':' that is followed by no space: put one there, or put the text in quotes"
    )


def test_problems_of_one_document_do_not_hide_behind_a_broken_one() -> None:
    text = "service: a\nretry: [\n---\nservice: b\nretry: 0\n---\nservice: *\n---\nservice: d\nretry: 0\n"
    assert [line.split(": ")[:2] for line in errors(text)] == [
        ["3", "a"],
        ["5", "b"],
        ["7", "document 3"],
        ["10", "d"],
    ]


def test_too_many_problems_are_counted() -> None:
    lines = errors("---\n".join(f"service: s{n}\nretry: 0\n" for n in range(150)))
    assert len(lines) == 101
    assert lines[99].startswith("299: s99: retry: at least 1")
    assert lines[100] == " and 50 more problems: mend these first"
    (*_, last) = errors("service: a\nroutes:\n" + "- {retry: 0}\n" * 1500)
    assert last == " and at least 900 more problems: mend these first"


def test_what_is_shown_is_short_and_on_one_line() -> None:
    (line,) = errors(f'service: a\ntimeout: "{"x" * 1000}\\n\\e[31m"')
    assert line.endswith("got " + '"' + "x" * 56 + "...")
    (line,) = errors('service: a\ntimeout: "\\e[31m\\u2028\\n\\x85"')
    assert line.endswith(r'got "\u001b[31m\u2028\n\x85"')
    (line,) = errors('service: a\n"x\\ny\\e[0m": 1')
    assert line.startswith(r'2: a: "x\ny\u001b[0m": unknown field')
    assert str(Problem("a\nb", 1, "", "", "c\x1bd")) == r"a\nb:1: c\x1bd"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((word, word) for word in ("on", "off", "yes", "no", "y", "n", "On", "YES", "12:30:00", "0777", "1_000", "0x1f", "0o17")),
        *((word, word) for word in ("2020-01-01", "2020-01-01T00:00:00Z", ".inf", "-.INF", ".nan", "1e999", "8080:80")),
        *((word, word) for word in ("10.0.0.1:8080", "+", ".", "=", "0b1", "tRue", "9" * 200)),
        ("true", True), ("True", True), ("FALSE", False), ("false", False),
        ("0", 0), ("-17", -17), ("+5", 5), ("1.5", 1.5), ("1e3", 1000.0), ("-1.5E-3", -0.0015), (".5", 0.5), ("5.", 5.0),
        ("'1'", "1"), ('"true"', "true"), ("!!str 1", "1"), ("! 1", "1"), ("|-\n 1", "1"),
    ],
)  # fmt: skip
def test_words_are_read_by_yaml_1_2(text: str, expected: Any, either_parser: str) -> None:
    found = value(text) if len(text) < 60 else expected
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("field", ["timeout", "hosts", "to", "retry", "endpoints", "access_log", "faults"])
@pytest.mark.parametrize("text", ["~", "null", "Null", ""])
def test_nothing_is_no_value(field: str, text: str) -> None:
    assert errors(f"service: a\n{field}: {text}") == [
        f"2: a: {field}: no value: write one, or take the field out"
    ]


def test_aliases_and_merges() -> None:
    text = """\
service: a
retry: &r {attempts: 3, on: &o [5xx]}
routes:
- {name: x, retry: *r}
- {name: y, retry: {<<: *r, attempts: 5}}
- {name: z, retry: {<<: [{attempts: 7}, *r], on: *o}}
"""
    (document,) = read_bytes(text.encode(), "f")
    retries = [route.retry.document() for route in document.policy.routes if route.retry]
    assert retries == [{"attempts": n, "on": ["5xx"]} for n in (3, 5, 7)]
    assert errors(text.replace("3", "300")) == [
        "2: a: retry.attempts: at most 100, got 300",
        "2: a: routes[0].retry.attempts: at most 100, got 300",
    ]


def laughs(depth: int, width: int, leaf: str = "lol") -> str:
    lines = [f"service: a\nb0: &b0 [{leaf}]"]
    lines += [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * width)}]" for n in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(10, 10),
        laughs(50, 2),
        laughs(2, 5000, "x" * 100_000),
        "service: &s " + "a" * 250 + "\nhosts: [" + "*s, " * 50_000 + "]",
        "service: a\nb0: &b0 {x: 1}\n" + "\n".join(f"b{n}: &b{n} {{a: *b{n - 1}, b: *b{n - 1}}}" for n in range(1, 40)),
        "service: a\nb0: &b0 {x: 1}\n" + "\n".join(f"b{n}: &b{n} {{<<: *b{n - 1}, k{n}: *b{n - 1}}}" for n in range(1, 40)),
    ],
)  # fmt: skip
def test_an_alias_bomb_is_refused_at_once(text: str) -> None:
    start = time.process_time()
    (line, *_) = [line for line in errors(text) if "unknown field" not in line]
    assert "aliases stand for more than 100000 values: write out what is meant" in line
    assert time.process_time() - start < 5


def test_aliases_cannot_nest_deeper_than_brackets() -> None:
    text = "service: a\nb0: &b0 [1]\n" + "\n".join(f"b{n}: &b{n} [*b{n - 1}]" for n in range(1, 100))
    assert any("nested deeper than 64 levels" in line for line in errors(text))


def test_an_alias_bomb_takes_little_memory() -> None:
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from control.policy.reading import read_bytes\n"
        "from control.policy.errors import PolicyErrors\n"
        "try: read_bytes(sys.stdin.buffer.read(), 'f')\n"
        "except PolicyErrors as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=laughs(30, 30).encode(),
        capture_output=True,
        timeout=50,
        check=True,
    )
    assert b"aliases stand for more than" in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1 << 20


SERVICE = f"""\
# {"what this service is for, and who answers for it; " * 10}
service: svc%d
hosts: [svc%d.example]
endpoints:
  v1: [10.0.0.1:8080, {{address: 10.0.0.2:8080, weight: 2}}]
  v2: [10.0.0.9:8080]
routes:
  - name: testers
    match: {{path: {{prefix: /api}}, headers: {{x-group: qa}}}}
    to: v2
  - name: canary
    to: {{v1: 90, v2: 10}}
    retry: {{attempts: 3, on: [connect-failure, 5xx, {{body: "failure\\n"}}]}}
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_file_of_10_mb_is_read() -> None:
    data = "---\n".join(SERVICE % (n, n) for n in range(12_000)).encode()
    assert len(data) > 10_000_000
    start = time.process_time()
    documents = read_bytes(data, "f")
    assert time.process_time() - start < 60
    assert len(documents) == 12_000
    assert documents[-1].line == 11_999 * 14 + 2


def test_a_document_knows_its_line() -> None:
    text = "# first\n\nservice: a\n---\n# second\nservice: b\n--- {service: c}\n---\n\n"
    documents = read_bytes(text.encode(), "x.yaml")
    assert [(each.policy.service, each.file, each.line) for each in documents] == [
        ("a", "x.yaml", 3),
        ("b", "x.yaml", 6),
        ("c", "x.yaml", 7),
    ]


@given(policies.documents, st.sampled_from([None, 2, "\t"]), st.booleans())
def test_json_is_read(document: dict[str, Any], indent: Any, ascii_only: bool) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    # YAML takes fewer characters raw than JSON does, and more of them for line breaks.
    assume(not re.search("[\x7f-\x9f\u2028\u2029\ufeff\uffff]", text))
    (read,) = read_bytes(text.encode(), "f.json")
    assert read.policy == Policy.model_validate(document)


@given(st.lists(policies.documents, min_size=1, max_size=3))
def test_yaml_reads_back(documents: list[dict[str, Any]]) -> None:
    written = [Policy.model_validate(document) for document in documents]
    text = to_yaml(written)
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        before, yaml_text.LOADER = yaml_text.LOADER, loader
        try:
            read = [document.policy for document in read_back(text)]
        finally:
            yaml_text.LOADER = before
        assert [normalize(policy) for policy in read] == [normalize(policy) for policy in written]


def read_back(text: str) -> list[Any]:
    return read_bytes(text.encode(), "f")


def test_yaml_is_pleasant_to_read() -> None:
    data = {
        "retry": 3,
        "to": {"v1": 90, "v2": 10},
        "service": "a",
        "timeout": "5s",
        "routes": [{"to": "v1", "name": "on"}],
    }
    data |= {
        "respond": {"body": "two\nlines\n"},
        "hosts": ["a.example"],
        "endpoints": {"v1": ["a:1"], "v2": ["b:1"]},
    }
    assert (
        to_yaml([Policy.model_validate(data)]).replace("'a:1'", "a:1").replace("'b:1'", "b:1")
        == """\
service: a
hosts: [a.example]
endpoints:
  v1:
  - {address: a:1}
  v2:
  - {address: b:1}
routes:
- name: 'on'
  to: {v1: 1}
to: {v1: 90, v2: 10}
timeout: 5s
retry: {attempts: 3}
respond:
  body: |
    two
    lines
"""
    )


@settings(max_examples=300)
@given(
    st.binary(max_size=200)
    | st.text(st.sampled_from("ab:- \n[]{}&*#\"'|>!%@`,?~<=\t0.\\"), max_size=60).map(str.encode)
)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        before, yaml_text.LOADER = yaml_text.LOADER, loader
        try:
            read_bytes(data, "f")
            problems: tuple[Problem, ...] = ()
        except PolicyErrors as error:
            problems = error.problems
            assert problems
        finally:
            yaml_text.LOADER = before
        assert all(str(problem).isprintable() for problem in problems)


# What stands in Redis


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "redis: a: not the JSON of a policy: Expecting value: line 1 column 1 (char 0): apply the service's policy again, or delete it"),
        ("{", "redis: a: not the JSON of a policy: Expecting property name enclosed in double quotes"),
        ("[]", "redis: a: a policy is a mapping, got []"),
        ("5", "redis: a: a policy is a mapping, got 5"),
        ("{}", "redis: a: service: missing"),
        ('{"service":"b"}', "redis: a: service: b's document is stored under this name"),
        ('{"service":"a","service":"a"}', 'redis: a: not the JSON of a policy: "service" is given twice'),
        ('{"service":"a","timeout":null}', 'redis: a: not the JSON of a policy: "timeout" has no value'),
        ('{"service":"a","hosts":[null]}', "redis: a: hosts[0]: write a host"),
        ('{"service":"a","to":{"v1":NaN}}', "redis: a: not the JSON of a policy: NaN is no number of a policy"),
        ('{"service":"a","to":{"v1":1e999}}', "redis: a: to.v1: write a weight as a number from 0 to 1000000000, got inf"),
        ('{"service":"a","respond":{"body":"\\ud800"}}', "redis: a: half a character"),
        ('{"service":"a","retry":{"attempts":999}}', "redis: a: retry.attempts: at most 100, got 999"),
        ('{"service":"a","faults":' + "[" * 100_000, "redis: a: nested too deep"),
        ('{"service":"a","routes":[{"match":{"headers":{"x":' + '{"not":' * 300 + '"a"' + "}" * 300 + "}}}]}", "redis: a: "),
        ('{"service":"a","to":{"v1":' + "9" * 5000 + "}}", "redis: a: "),
    ],
    ids=range(16),
)  # fmt: skip
def test_nonsense_in_redis_is_refused(text: str, expected: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        parse_stored("a", text)
    assert str(caught.value).splitlines()[0].startswith(expected)


@given(st.text(max_size=50))
def test_any_stored_text_is_read_or_refused(text: str) -> None:
    try:
        parse_stored("a", text)
    except PolicyErrors as error:
        assert error.problems  # noqa: PT017


# Files, directories, standard input


def test_a_directory_is_read_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "sub/d.yaml", ".hidden.yaml", ".git/e.yaml", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        service = path.name.strip(".").partition(".")[0]
        path.write_text(f'{{"service": "{service}"}}')
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = read_source(str(tmp_path), NO_INPUT)
    assert [each.policy.service for each in found] == ["a", "b", "c", "d"]
    assert found[3].file == str(tmp_path / "sub" / "d.yaml")


def test_the_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("service: a\nretry: 0\n")
    (tmp_path / "b.yaml").write_bytes(b"\xff")
    (tmp_path / "c.yaml").write_text("")
    (tmp_path / "d.yaml").write_text("service: a\n")
    with pytest.raises(PolicyErrors) as caught:
        read_source(str(tmp_path), NO_INPUT)
    lines = [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]
    assert [line[:17] for line in lines] == [
        "a.yaml:2: a: retr",
        "b.yaml:1: not UTF",
        "c.yaml:1: nothing",
        "d.yaml:1: a: serv",
    ]
    assert f"a has a document in {tmp_path}/a.yaml:1 already" in lines[3]


def test_standard_input_and_pipes_are_read() -> None:
    (document,) = read_source("-", io.BytesIO(b"service: a"))
    assert (document.policy.service, document.file) == ("a", "stdin")
    reader, writer = os.pipe()
    with open(writer, "wb") as pipe:
        pipe.write(b"service: b")
    try:
        assert read_source(f"/dev/fd/{reader}", NO_INPUT)[0].policy.service == "b"
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing.yaml", "no such file: name a file, a directory, or - for standard input"),
        ("", "no *.yaml, *.yml or *.json file in this directory: name another directory, or a file"),
        ("file.txt/x", "cannot be read (Not a directory): check the path and its permissions"),
        ("x" * 300, "cannot be read (File name too long): check the path and its permissions"),
        ("x\x00", "cannot be read (embedded null byte): check the path and its permissions"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "file.txt").write_text("service: a")
    with pytest.raises(PolicyErrors) as caught:
        read_source(str(tmp_path / name), NO_INPUT)
    (problem,) = caught.value.problems
    assert problem == Problem(str(tmp_path / name), None, "", "", expected)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch(mode=0o000)
    (tmp_path / "sub").mkdir(mode=0o000)
    with pytest.raises(PolicyErrors) as caught:
        read_source(str(tmp_path), NO_INPUT)
    assert [problem.message for problem in caught.value.problems] == [
        "cannot be read (Permission denied): check the path and its permissions"
    ] * 2
