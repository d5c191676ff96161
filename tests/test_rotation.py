"""control/identity/rotation.py: which step comes next, whom it waits for, and that nobody is ever cut off."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.identity.rotation import SETTLE, Shown, Step, all_shown, next_step

A_OLD, A_READY, A_NEW = Shown("a", 1, "old"), Shown("a", 2, "old"), Shown("a", 3, "new")
B_OLD, B_READY, B_NEW = Shown("b", 1, "old"), Shown("b", 2, "old"), Shown("b", 3, "new")


@pytest.mark.parametrize(
    ("rotating", "newest_signs", "serial", "signing", "age", "shown", "step", "behind"),
    [
        (False, True, 1, "old", 1e9, [A_OLD], Step.NONE, []),
        (True, False, 2, "old", 4.9, [A_READY], Step.SPREAD, []),
        (True, False, 2, "old", 5.0, [A_READY], Step.SIGN, []),
        (True, False, 2, "old", 5.0, [], Step.SIGN, []),
        (True, False, 2, "old", 99.0, [B_OLD, A_OLD, A_READY], Step.SPREAD, ["a", "b"]),
        (True, False, 2, "old", 100.0, [B_OLD], Step.SIGN, ["b"]),
        (True, True, 3, "new", 99.0, [A_NEW], Step.RENEW, []),
        (True, True, 3, "new", 100.0, [A_NEW, B_NEW], Step.DROP, []),
        (True, True, 3, "new", 1e9, [A_NEW, B_READY], Step.RENEW, ["b"]),
    ],
)
def test_steps(rotating, newest_signs, serial, signing, age, shown, step, behind):
    assert next_step(rotating, newest_signs, serial, signing, age, 100.0, shown) == (step, behind)


@given(
    lifetime=st.floats(0.1, 1e5),
    age=st.floats(0, 1e6),
    bundles=st.lists(st.integers(0, 4)),
    roots=st.lists(st.sampled_from(["old", "new", ""])),
)
def test_nothing_is_dropped_that_somebody_shows(lifetime, age, bundles, roots):
    shown = [
        Shown(str(n), bundle, root) for n, (bundle, root) in enumerate(zip(bundles, roots, strict=False))
    ]
    step, _ = next_step(True, True, 3, "new", age, lifetime, shown)
    if step is Step.DROP:
        assert all(each.root == "new" for each in shown)
        assert age >= lifetime
    step, _ = next_step(True, False, 3, "old", age, lifetime, shown)
    if step is Step.SIGN:
        assert age >= SETTLE
        assert age >= lifetime or all(each.bundle >= 3 for each in shown)


def test_who_shows_nothing_is_not_waited_for():
    said = {"id": "spiffe://mesh/service/a", "bundle": 2, "root": "old"}
    reports = [
        ("a", json.dumps(said)),
        ("b", ""),
        ("c", "[]"),
        ("d", json.dumps({**said, "id": ""})),
        ("e", "{"),
    ]
    assert all_shown(reports) == [A_READY]
