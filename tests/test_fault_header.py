import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.facts import RequestFacts
from control.policy.fault_header import read_wish
from control.policy.faulting import Aborted, Effects

GET = RequestFacts("GET", "s", 80, "/", ())


@pytest.mark.parametrize(
    ("text", "percent", "effects"),
    [
        ("delay=2s", 100, Effects(delay=2.0)),
        (" delay = 2s ,percent=2.5", 2.5, Effects(delay=2.0)),
        ("abort=reset", 100, Effects(abort="reset")),
        ("abort=hang,delay=0", 100, Effects(abort="hang", delay=0.0)),
        ("bandwidth=10KiB/s, truncate=100", 100, Effects(bandwidth=10240, truncate=100)),
        ("truncate=1KB, corrupt=0.5, slow_close=1s", 100, Effects(truncate=1000, corrupt=0.5, slow_close=1)),
    ],
)
def test_what_is_asked_for(text, percent, effects):
    wish = read_wish(text)
    assert (wish.percent, wish.effects) == (percent, effects)


@pytest.mark.parametrize(("text", "status"), [("abort=503", 503), ("grpc=NOT_FOUND", 404)])
def test_an_abort(text, status):
    abort = read_wish(text).effects.abort
    assert isinstance(abort, Aborted)
    assert abort.answer(GET).status == status


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "write it as delay=2s, abort=503; known are delay, abort, "),
        ("please", "write it as delay=2s, abort=503; known are "),
        ("delay", "write it as"),
        ("seed=1", "write it as"),
        ("percent=20", "write it as delay=2s, abort=503, got 'percent=20'"),
        ("delay=2s,", "write it as"),
        ("delay=fast", "delay: write a duration"),
        ("delay=2s, delay=3s", "delay is given twice"),
        ("abort=99", "abort: write a status from 200 to 599"),
        ("abort=99, bandwidth=1", "abort: write a status from 200 to 599; bandwidth: write a rate"),
        ("grpc=FINE", "abort: write OK or CANCELLED or"),
        ("grpc=OK, abort=503", "give one of abort and grpc"),
        ("delay=2s, percent=101", "write a percentage as a number from 0 to 100"),
        ("delay=" + "9" * 1000, "at most 500 characters"),
    ],
)
def test_what_cannot_be_read_is_answered_with_the_reason(text, said):
    wish = read_wish(text)
    assert wish.percent == 100
    assert isinstance(wish.effects.abort, Aborted)
    answer = wish.effects.abort.answer(GET)
    assert answer.status == 400
    assert answer.body.decode().startswith(f"x-mesh-fault: {said}")
    assert answer.body.decode().count("\n") == 1


@given(st.text())
def test_no_header_breaks_it(text):
    assert 0 <= read_wish(text).percent <= 100
