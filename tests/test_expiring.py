"""What holds for a while: when it ends, and what an apply does to its clock."""

import pytest

from control.policy.expiring import (
    NEVER_BEGUN,
    end_of,
    end_text,
    expired_text,
    in_force,
    next_end,
    stamped,
    timed,
)
from control.policy.reading import normalize, parse_stored, read_bytes, to_yaml

NOW = 1_000_000.0
ROUTES = """
service: web
routes:
- {name: a, timeout: 1s, for: 10s, faults: [{abort: 503, for: 5s}, {abort: 504}]}
- {match: {path: /b}, timeout: 2s, for: 1m}
- {timeout: 3s}
faults: [{delay: 1s}, {delay: 2s, for: 20s}]
"""


def policy(text: str):
    (document,) = read_bytes(text.encode(), "test.yaml")
    return document.policy


def ends(made) -> dict[str, float]:
    return {place: end_of(part) for place, part in timed(made)}


def test_it_counts_from_the_apply():
    made = stamped(policy(ROUTES), None, NOW)
    assert ends(made) == {
        "faults[1]": NOW + 20,
        "a": NOW + 10,
        "a: faults[0]": NOW + 5,
        "routes[1]": NOW + 60,
    }
    assert next_end(made, NOW) == NOW + 5
    assert next_end(made, NOW + 5) == NOW + 10
    assert next_end(made, NOW + 60) is None
    assert parse_stored("web", normalize(made)) == made


@pytest.mark.parametrize(("after", "holds"), [(0, True), (4.9, True), (5, False), (1e9, False)])
def test_it_holds_until_then(after, holds):
    made = stamped(policy("service: web\nfaults: [{delay: 1s, for: 5s}]"), None, NOW)
    assert in_force(made.faults[0], NOW + after) is holds
    assert in_force(policy("service: web\nfaults: [{delay: 1s}]").faults[0], NOW + after)


def test_without_a_beginning_it_never_begins():
    fault = policy("service: web\nfaults: [{delay: 1s, for: 5s}]").faults[0]
    assert end_of(fault) == NEVER_BEGUN
    assert not in_force(fault, 0.0)
    assert end_text(fault) is None
    assert expired_text(fault) == "has never begun: write it with `mitmesh apply`"


def test_an_unchanged_document_goes_on_and_what_get_prints_too():
    stored = stamped(policy(ROUTES), None, NOW)
    assert stamped(policy(ROUTES), stored, NOW + 3) == stored
    assert stamped(policy(ROUTES), stored, NOW + 1000) == stored
    assert stamped(policy(to_yaml([stored])), stored, NOW + 3) == stored
    assert stamped(policy(to_yaml([stored])), None, NOW + 3) == stored


def test_what_is_changed_begins_anew_and_the_rest_goes_on():
    stored = stamped(policy(ROUTES), None, NOW)
    changed = stamped(policy(ROUTES.replace("abort: 503", "abort: 500")), stored, NOW + 3)
    assert ends(changed) == {
        "faults[1]": NOW + 20,
        "a": NOW + 13,  # the route has other words, too
        "a: faults[0]": NOW + 8,
        "routes[1]": NOW + 60,
    }
    longer = stamped(policy(ROUTES.replace("for: 20s", "for: 30s")), stored, NOW + 3)
    assert ends(longer)["faults[1]"] == NOW + 33


def test_other_places_are_the_same_words():
    stored = stamped(policy("service: web\nfaults: [{delay: 1s, for: 5s}]"), None, NOW)
    moved = policy("service: web\nfaults: [{abort: 503}, {delay: 1s, for: 5s}, {delay: 1s, for: 5s}]")
    assert ends(stamped(moved, stored, NOW + 1)) == {"faults[1]": NOW + 5, "faults[2]": NOW + 6}


def test_renewing_starts_all_of_it_again():
    stored = stamped(policy(ROUTES), None, NOW)
    renewed = stamped(policy(ROUTES), stored, NOW + 100, renew=True)
    assert ends(renewed) == {place: end + 100 for place, end in ends(stored).items()}
    assert stamped(policy(to_yaml([stored])), stored, NOW + 100, renew=True) == renewed


def test_a_document_without_it_is_the_very_same():
    made = policy("service: web\nroutes: [{timeout: 1s}]\nfaults: [{delay: 1s}]")
    assert stamped(made, None, NOW) is made


def test_when_it_ended_is_told():
    made = stamped(policy("service: web\nfaults: [{delay: 1s, for: 5s}]"), None, NOW)
    assert end_text(made.faults[0]) == "1970-01-12T13:46:45Z"
    assert expired_text(made.faults[0]) == "expired 1970-01-12T13:46:45Z"
