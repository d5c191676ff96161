from random import Random
from typing import Any

import pytest

from control.policy.answers import FixedAnswer, compile_access_log, compile_answer
from control.policy.model import Policy


def policy(**fields: Any) -> Policy:
    return Policy.model_validate({"service": "s", **fields})


def test_respond() -> None:
    respond = policy(respond={"status": 503, "headers": {"Retry-After": "5"}, "body": "closed"}).respond
    assert respond is not None
    assert compile_answer(respond) == FixedAnswer(503, ((b"retry-after", b"5"),), b"closed")


@pytest.mark.parametrize("value", ["on", {"sample": 100}])
def test_all_is_logged(value: Any) -> None:
    access_log = policy(access_log=value).access_log
    assert access_log is not None
    assert compile_access_log(access_log) is None


@pytest.mark.parametrize(
    ("value", "status", "share"),
    [
        ("off", 500, 0.0),
        ({"sample": 25}, 200, 0.25),
        ({"sample": 25}, None, 0.25),
        ({"only": "errors"}, 200, 0.0),
        ({"only": "errors"}, 399, 0.0),
        ({"only": "errors"}, 400, 1.0),
        ({"only": "errors"}, None, 1.0),
        ({"sample": 50, "only": "errors"}, 503, 0.5),
    ],
)
def test_share_that_is_logged(value: Any, status: int | None, share: float) -> None:
    access_log = policy(access_log=value).access_log
    assert access_log is not None
    compiled = compile_access_log(access_log)
    assert compiled is not None
    random, n = Random(5), 4000
    logged = sum(compiled.wants(status, random) for _ in range(n))
    assert abs(logged - n * share) <= 3 * (n * share * (1 - share)) ** 0.5
