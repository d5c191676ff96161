import gzip
import json
import time
import zlib
from email.utils import formatdate
from random import Random
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.answer_conditions import json_value
from control.policy.model import Policy
from control.policy.retrying import (
    CompiledRetry,
    Outcome,
    RetryBudget,
    compile_retry,
    has_idempotency_key,
    may_resend,
    pause,
    retry_after,
    why_retry,
)

GOOD = Outcome(200)


def retry(value: Any) -> CompiledRetry:
    policy = Policy.model_validate({"service": "s", "retry": value})
    assert policy.retry is not None
    return compile_retry(policy.retry)


def answer(body: bytes, **fields: str) -> Outcome:
    return Outcome(
        200,
        fields=tuple((name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()),
        body=body,
    )


def error(name: str) -> Outcome:
    return Outcome(None, error=name)


STATUS_WORDS = {
    "5xx": set(range(500, 600)),
    "gateway-error": {502, 503, 504},
    "retriable-4xx": {409},
    "503": {503},
    "500-504": {500, 501, 502, 503, 504},
    "connect-failure": set(),
    "reset": set(),
    "timeout": set(),
}
ERROR_WORDS = {
    "5xx": {"connect-failure", "reset", "timeout"},
    "gateway-error": {"connect-failure", "reset", "timeout"},
    "connect-failure": {"connect-failure"},
    "reset": {"reset"},
    "timeout": {"timeout"},
}


@pytest.mark.parametrize("word", STATUS_WORDS)
def test_words_statuses_and_ranges(word: str) -> None:
    compiled = retry({"on": [int(word) if word.isdigit() else word]})
    assert {status for status in range(100, 600) if why_retry(compiled, Outcome(status))} == STATUS_WORDS[
        word
    ]
    held = {name for name in ("connect-failure", "reset", "timeout") if why_retry(compiled, error(name))}
    assert held == ERROR_WORDS.get(word, set())
    assert not compiled.needs_body


@pytest.mark.parametrize(
    ("on", "outcome", "reason"),
    [
        (["connect-failure", "5xx", 503], Outcome(503), "5xx"),
        ([503, "5xx"], Outcome(503), "503"),
        (["reset", "500-504"], Outcome(502), "500-504"),
        (["gateway-error"], error("timeout"), "gateway-error"),
        (["5xx", {"body": "failure\n"}], answer(b"failure\n"), 'body "failure\\n"'),
        (
            [{"body": {"json": "error.code", "exact": "busy"}}],
            answer(b'{"error":{"code":"busy"}}'),
            'body error.code "busy"',
        ),
        ([{"header": {"x-retry": {"present": True}}}], answer(b"", x_retry=""), "header x-retry present"),
        ([{"header": {"X-Retry": "yes"}}], answer(b"", X_Retry="yes"), 'header x-retry "yes"'),
        ([{"body": {"not": {"prefix": "{"}}}], answer(b"<html>"), 'body not prefix "{"'),
    ],
)
def test_the_first_condition_that_holds_is_named_as_written(
    on: list[Any], outcome: Outcome, reason: str
) -> None:
    assert why_retry(retry({"on": on}), outcome) == reason
    assert why_retry(retry({"on": on}), GOOD if "body" not in str(on) else answer(b"{ok")) is None


def test_without_on_connection_failures_and_gateway_errors_are_retried() -> None:
    compiled = retry(3)
    assert compiled.attempts == 3
    assert [
        why_retry(compiled, outcome) for outcome in (error("connect-failure"), error("reset"), Outcome(502))
    ] == [
        "connect-failure",
        "reset",
        "gateway-error",
    ]
    # gateway-error counts what the proxy would answer with 504 itself.
    assert why_retry(compiled, error("timeout")) == "gateway-error"
    assert why_retry(compiled, Outcome(500)) is None


@pytest.mark.parametrize(
    ("matcher", "body", "holds"),
    [
        ("failure\n", b"failure\n", True),
        ("failure\n", b"failure", False),
        ("", b"", True),
        ({"prefix": "fail"}, b"failure", True),
        ({"suffix": "ure"}, b"failure", True),
        ({"contains": "ilu"}, b"failure", True),
        ({"regex": "fail.*"}, b"failure", True),
        ({"regex": "fail"}, b"failure", False),
        ({"present": True}, b"x", True),
        ({"present": True}, b"", False),
        ({"present": False}, b"", True),
        ({"present": False}, b"x", False),
        ({"not": {"present": True}}, b"", True),
        ({"not": "success"}, b"failure", True),
        ({"not": "success"}, b"success", False),
        ({"contains": "\ufffd"}, b"\xff", True),
        ({"json": "a.b.0.c", "exact": "x"}, b'{"a":{"b":[{"c":"x"}]}}', True),
        ({"json": "a.b.1.c", "exact": "x"}, b'{"a":{"b":[{"c":"x"}]}}', False),
        ({"json": "a", "exact": "1.50"}, b'{"a":1.50}', True),
        ({"json": "a", "exact": "1.5"}, b'{"a":1.50}', False),
        ({"json": "a", "exact": "true"}, b'{"a":true}', True),
        ({"json": "a", "exact": "True"}, b'{"a":true}', False),
        ({"json": "a", "exact": "null"}, b'{"a":null}', True),
        ({"json": "a", "exact": "-7"}, b'{"a":-7}', True),
        ({"json": "a", "exact": "1E3"}, b'{"a":1E3}', True),
        ({"json": "a", "present": True}, b'{"a":null}', True),
        ({"json": "a", "present": False}, b'{"b":1}', True),
        ({"json": "a", "present": False}, b"no json", True),
        ({"json": "a", "not": "ok"}, b"{}", True),
        ({"json": "a", "exact": '{"b":[1,2.5]}'}, b'{"a": {"b": [1, 2.5]}}', True),
        ({"json": "0", "exact": "x"}, b'["x"]', True),
        ({"json": "0", "exact": "x"}, b'{"0":"x"}', True),
        ({"json": "a.b", "exact": "x"}, b'{"a":"x"}', False),
        ({"json": "a", "regex": "."}, b'{"a":"\\ud800"}', True),
        ({"json": "a", "exact": "x"}, b"[" * 100_000, False),
        ({"json": "a", "exact": "x"}, b'{"a":' + b"9" * 5000 + b"}", False),
        ({"json": "a", "present": True}, b'{"a":NaN}', False),
    ],
)
def test_body_conditions(matcher: Any, body: bytes, holds: bool) -> None:
    compiled = retry({"on": {"body": matcher}})
    assert compiled.needs_body
    assert (why_retry(compiled, answer(body)) is not None) is holds


def test_no_body_condition_holds_without_a_body_or_an_answer() -> None:
    compiled = retry({"on": [{"body": {"not": "x"}}, {"header": {"x": {"present": False}}}]})
    assert why_retry(compiled, error("reset")) is None
    assert why_retry(retry({"on": {"body": {"not": "x"}}}), Outcome(200, body=None)) is None


def test_all_headers_of_a_condition_must_hold() -> None:
    compiled = retry({"on": {"header": {"a": "1", "b": {"present": False}}}})
    assert why_retry(compiled, answer(b"", a="1")) == 'header a "1" and header b absent'
    assert why_retry(compiled, answer(b"", a="1", b="2")) is None
    assert why_retry(compiled, GOOD) is None


def test_a_packed_body_is_judged_by_its_content() -> None:
    compiled = retry({"on": {"body": "failure\n"}, "max_body": "100B"})
    assert why_retry(compiled, answer(gzip.compress(b"failure\n", mtime=0), content_encoding="gzip"))
    assert why_retry(compiled, answer(zlib.compress(b"failure\n"), content_encoding="deflate"))
    assert why_retry(compiled, answer(b"failure\n", content_encoding="identity"))


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"no gzip", "gzip"),
        (gzip.compress(b"failure\n", mtime=0)[:-3], "gzip"),
        (gzip.compress(b"x" * 101, mtime=0), "gzip"),
        (b"failure\n", "br"),
    ],
)
def test_a_body_that_cannot_be_unpacked_within_max_body_is_not_judged(body: bytes, coding: str) -> None:
    compiled = retry({"on": {"body": {"not": "success"}}, "max_body": "100B"})
    assert why_retry(compiled, answer(body, content_encoding=coding)) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet="ab"), inner),
        max_leaves=8,
    ),
    st.lists(st.sampled_from(["a", "b", "0", "1", ""]), max_size=3),
)
def test_json_values_as_a_plain_walk_finds_them(value: Any, path: list[str]) -> None:
    found: Any = value
    for name in path:
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            found = None
            break
    else:
        found = (
            found if isinstance(found, str) else json.dumps(found, separators=(",", ":"), ensure_ascii=False)
        )
    assert json_value(json.dumps(value).encode(), path) == found


@pytest.mark.parametrize(
    ("value", "method", "key", "outcome", "may"),
    [
        *[(2, method, False, None, True) for method in ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")],
        *[(2, method, False, "reset", False) for method in ("POST", "PATCH", "CONNECT", "get", "PURGE")],
        (2, "POST", False, "connect-failure", True),
        (2, "POST", True, None, True),
        ({"methods": ["POST"]}, "POST", False, None, True),
        ({"methods": "post"}, "POST", False, None, True),
        ({"methods": ["POST"]}, "GET", False, None, False),
        ({"methods": ["POST"]}, "GET", False, "connect-failure", True),
        ({"methods": ["POST"]}, "PATCH", True, "timeout", True),
    ],
)
def test_what_may_be_sent_again(value: Any, method: str, key: bool, outcome: str | None, may: bool) -> None:
    assert may_resend(retry(value), method, key, outcome) is may


def test_idempotency_keys() -> None:
    assert has_idempotency_key(((b"Idempotency-Key", b"1"),))
    assert has_idempotency_key(((b"Accept", b"*/*"), (b"X-IDEMPOTENCY-KEY", b"1")))
    assert not has_idempotency_key(((b"Idempotency", b"1"),))


@given(st.integers(1, 100), st.integers())
def test_pauses_stay_below_their_bound(tries: int, seed: int) -> None:
    compiled = retry({"backoff": {"base": "10ms", "max": "70ms"}})
    assert 0 <= pause(compiled, tries, Random(seed)) < min(0.07, 0.01 * 2 ** (tries - 1))


def test_pauses_have_full_jitter_and_double_until_the_bound() -> None:
    random = Random(1)
    compiled = retry({"backoff": {"base": "100ms", "max": "1s"}})
    for tries, bound in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (50, 1.0)):
        pauses = [pause(compiled, tries, random) for _ in range(2000)]
        # The mean of a uniform distribution, within 3 sigma: bound / sqrt(12) / sqrt(2000).
        assert abs(mean(pauses) - bound / 2) < 3 * bound / 12**0.5 / 2000**0.5
        assert max(pauses) > 0.95 * bound
    assert pause(retry({"backoff": {"base": 0, "max": 0}}), 3, random) == 0


NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        ("300", 300.0),
        ("301", None),
        ("9" * 500, None),
        ("-1", None),
        ("1e2", None),
        ("1_0", None),
        ("\u0661", None),
        ("soon", None),
        ("", None),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        ("Sun Nov  6 08:49:47 1994", 10.0),
        ("Sun, 06 Nov 1994 08:49:47 -0000", 10.0),
        ("Sun, 06 Nov 1994 09:49:47 +0100", 10.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("Sun, 06 Nov 1994 09:49:47 GMT", None),
        ("Sun, 99 Nov 1994 99:49:47 GMT", None),
        ("Sun, 06 Nov 99999999 08:49:47 GMT", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(((b"Server", b"x"), (b"Retry-After", value.encode())), NOW) == seconds


def test_a_date_without_a_zone_is_gmt_wherever_the_proxy_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert retry_after(((b"retry-after", b"Sun Nov  6 08:49:47 1994"),), NOW) == 10
    time.tzset()


def test_retry_after_absent_and_as_the_library_writes_dates() -> None:
    assert retry_after(((b"Server", b"x"),), NOW) is None
    assert retry_after(((b"retry-after", formatdate(NOW + 7, usegmt=True).encode()),), NOW) == 7


@given(st.binary(max_size=40))
def test_retry_after_never_fails(value: bytes) -> None:
    seconds = retry_after(((b"retry-after", value),), NOW)
    assert seconds is None or 0 <= seconds <= 300


@pytest.mark.parametrize(
    ("requests", "retries", "allowed"),
    [
        (0, 0, True),
        (0, 2, True),
        (0, 3, False),
        (15, 2, True),
        (15, 3, False),
        (100, 19, True),
        (100, 20, False),
        (16, 3, True),
    ],
)
def test_the_budget_is_a_share_of_the_running_requests_and_never_less_than_its_minimum(
    requests: int, retries: int, allowed: bool
) -> None:
    assert RetryBudget(percent=20, min_concurrent=3).try_acquire(requests, retries) is allowed


def test_compiled_values() -> None:
    compiled = retry(
        {
            "attempts": 5,
            "per_try_timeout": "2s",
            "backoff": {"base": "1s", "max": "2s"},
            "budget": {"percent": 50},
            "other_endpoint": False,
            "retry_after": False,
            "max_body": "1KiB",
        }
    )
    assert (compiled.attempts, compiled.per_try_timeout, compiled.backoff_base, compiled.backoff_max) == (
        5,
        2.0,
        1.0,
        2.0,
    )
    assert compiled.budget == RetryBudget(50.0, 3)
    assert (compiled.other_endpoint, compiled.retry_after, compiled.max_body) == (False, False, 1024)
    plain = retry(2)
    assert (plain.per_try_timeout, plain.budget, plain.other_endpoint, plain.retry_after) == (
        None,
        None,
        True,
        True,
    )
    assert plain.max_body == 65536
