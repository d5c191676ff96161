"""`sticky` of documents and routes: what is compiled, and what apply writes down."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.commands.planning import plan
from control.policy.errors import PolicyErrors
from control.policy.facts import RequestFacts
from control.policy.model import Policy
from control.policy.reading import Document, normalize, read_bytes, to_yaml
from control.policy.snapshot import build
from control.policy.sticking import allotted

USERS = [f"u{number}" for number in range(400)]


def policy(**said: Any) -> Policy:
    endpoints = {name: ["a:1"] for name in ("v1", "v2", "v3", "v4")}
    return Policy.model_validate(
        {"service": "web", "endpoints": endpoints, "sticky": {"header": "x-user"}, **said}
    )


def request(path: str = "/", **headers: str) -> RequestFacts:
    fields = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    return RequestFacts("GET", "web", 80, path, fields)


def versions(made: Policy, path: str = "/") -> dict[str, str]:
    """The version of each user, as a proxy with this document chooses it."""
    service = build(1, {"web": normalize(made)}).services["web"]
    route = service.route(request(path), None)  # type: ignore[arg-type]
    if route.sticky is None:
        (share,) = [share for share in route.shares if share.share > 0]
        return dict.fromkeys(USERS, share.name)
    return {
        user: route.shares[route.sticky.place(route.sticky.user(request(path, x_user=user)) or "")].name
        for user in USERS
    }


weights = st.dictionaries(
    st.sampled_from(["v1", "v2", "v3", "v4"]), st.sampled_from([0, 5, 10, 30, 60]), min_size=1
).filter(lambda weights: any(weights.values()))


@given(st.lists(weights, min_size=2, max_size=6), st.booleans())
def test_applied_one_after_the_other_nobody_moves_whose_version_does_not_fall(
    steps: list[dict[str, int]], in_route: bool
) -> None:
    def made(to: dict[str, int]) -> Policy:
        return (
            policy(routes=[{"name": "r", "match": {"path": "/r"}, "to": to}]) if in_route else policy(to=to)
        )

    stored: dict[str, str] = {}
    before: dict[str, str] = {}
    last: dict[str, int] = {}
    for to in steps:
        done = plan(stored, [Document(made(to), "f", 1)])
        text = done.writes["web"]
        assert text is not None
        stored = {"web": text}
        now = versions(Policy.model_validate(json.loads(text)), "/r")
        total, was = sum(to.values()), sum(last.values()) or 1
        for user, name in before.items():
            if to.get(name, 0) / total >= last.get(name, 0) / was:
                assert now[user] == name
        # And again: nothing to do.
        assert plan(stored, [Document(made(to), "f", 1)]).writes["web"] == text
        before, last = now, to


def test_two_versions_leave_no_trace_in_the_document() -> None:
    stored = allotted(policy(to={"v1": 90, "v2": 10}), None)
    for weight in (30, 50, 5, 100, 0, 20):
        stored = allotted(policy(to={"v1": 100 - weight, "v2": weight}), stored)
        assert stored.sticky is not None
        assert stored.sticky.stretches is None
        assert "stretches" not in normalize(stored)


def test_what_get_shows_can_be_edited_and_applied() -> None:
    stored = allotted(policy(to={"v1": 80, "v2": 10, "v3": 10}), None)
    stored = allotted(policy(to={"v1": 60, "v2": 10, "v3": 30}), stored)
    assert stored.sticky is not None
    assert stored.sticky.stretches is not None
    before = versions(stored)
    shown = to_yaml([stored]).replace("{v1: 60, v2: 10, v3: 30}", "{v1: 40, v2: 10, v3: 50}")
    (edited,) = read_bytes(shown.encode(), "f")
    assert edited.policy.to == {"v1": 40, "v2": 10, "v3": 50}
    for known in (stored, None):
        after = versions(allotted(edited.policy, known))
        assert {(before[user], after[user]) for user in USERS if before[user] != after[user]} == {
            ("v1", "v3")
        }
    # Also where it reaches a proxy without apply.
    assert versions(edited.policy) == versions(allotted(edited.policy, stored))


def test_another_key_begins_anew() -> None:
    stored = allotted(policy(to={"v1": 80, "v2": 10, "v3": 10}), None)
    stored = allotted(policy(to={"v1": 60, "v2": 10, "v3": 30}), stored)
    changed = policy(to={"v1": 60, "v2": 10, "v3": 30}, sticky={"cookie": "uid"})
    made = allotted(changed, stored)
    assert made.sticky is not None
    assert made.sticky.stretches is None


def test_a_routes_own_and_a_documents() -> None:
    """A route's `to` with the document's `sticky`, a route's `sticky` with the document's `to`, and neither."""
    routes = [
        {"match": {"path": "/to"}, "to": {"v1": 1, "v3": 1}},
        {"match": {"path": "/key"}, "sticky": {"cookie": "uid", "ttl": "90s"}},
        {"match": {"path": "/one"}, "to": "v2"},
        {"match": {"path": "/as-all"}},
    ]
    service = build(1, {"web": normalize(policy(to={"v1": 50, "v2": 50}, routes=routes))}).services["web"]
    made = {
        path: service.route(request(path), None).sticky for path in ("/to", "/key", "/one", "/as-all", "/")
    }  # type: ignore[arg-type]
    assert made["/to"] is not None
    assert set(made["/to"].places) == {"v1", "v3"}
    assert made["/key"] is not None
    assert made["/key"].set_cookie("x") == "uid=x; Max-Age=90; Path=/; HttpOnly; SameSite=Lax"
    assert made["/one"] is None
    assert made["/as-all"] is not None
    assert made["/as-all"] == made["/"]


def test_nothing_to_split_nothing_to_stick_to() -> None:
    for said in ({"to": {"v1": 1, "v2": 0}}, {"to": "v1"}, {}):
        assert build(1, {"web": normalize(policy(**said))}).services["web"].own.sticky is None


def test_the_cookie_of_a_session() -> None:
    service = build(1, {"web": normalize(policy(to={"v1": 1, "v2": 1}, sticky={"cookie": "c"}))}).services[
        "web"
    ]
    assert service.own.sticky is not None
    assert service.own.sticky.set_cookie("x") == "c=x; Path=/; HttpOnly; SameSite=Lax"


@pytest.mark.parametrize("name", ["a b", "a=b", "", "a\r\nx-forged: 1", "ü"])
def test_a_cookie_that_cannot_be_is_never_set_and_the_split_is_one_by_chance(name: str) -> None:
    said = policy(to={"v1": 1, "v2": 1}, sticky={"cookie": name})
    route = build(1, {"web": normalize(said)}).services["web"].own
    assert route.sticky is None
    assert len(route.shares) == 2


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("{}", "sticky: give exactly one of header, cookie, got {}"),
        ("{header: x, cookie: c}", "sticky: give exactly one of header, cookie"),
        ("{header: x, ttl: 1h}", "sticky.ttl: only a cookie has one: leave it out"),
        ("{cookie: 5}", "sticky.cookie: write a cookie's name, such as uid, got 5"),
        ("{cookie: c, ttl: 0}", "sticky.ttl: write a duration above 0"),
        ("{header: x, stretches: [{v1: 50}]}", "sticky.stretches: the stretches together are 100 per cent"),
        ("{header: x, stretches: [{v1: 50, v2: 50}]}", "write one version with its per cent"),
    ],
)
def test_what_is_refused(said: str, line: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        read_bytes(f"service: web\nsticky: {said}".encode(), "f")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
