"""Where a canary's split stands, whose share is taken, and what the weights become."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.canary.splitting import CannotSplitError, source_of, split_of, weights, with_split
from control.policy.model import Policy
from control.policy.reading import normalize

ENDPOINTS = {"v1": ["a:1"], "v2": ["b:1"], "v3": ["c:1"]}


def policy(**fields: Any) -> Policy:
    return Policy.model_validate({"service": "reviews", "endpoints": ENDPOINTS, **fields})


TWO = {"v1": ["a:1"], "v2": ["b:1"]}
ROUTES = [{"name": "testers", "match": {"path": "/x"}, "to": "v3"}, {"name": "rest", "match": {"path": "/y"}}]


@pytest.mark.parametrize(
    ("fields", "route", "given", "source"),
    [
        ({"to": "v1"}, None, None, "v1"),
        ({"to": {"v1": 90, "v2": 10}}, None, None, "v1"),
        ({"to": {"v1": 90, "v2": 10, "v3": 0}}, None, None, "v1"),
        ({"to": {"v1": 90, "v2": 10, "v3": 5}}, None, "v3", "v3"),
        ({"to": {"v1": 0, "v2": 1}}, None, None, "v1"),
        ({"endpoints": TWO}, None, None, "v1"),
        ({"to": "v1", "routes": ROUTES}, "testers", None, "v3"),
        ({"to": "v1", "routes": ROUTES}, "rest", None, "v1"),
        ({"to": {"other/v1": 1}}, None, None, "other/v1"),
        ({"to": "v1", "routes": [{"to": "v3", "for": "1h"}]}, None, None, "v1"),
    ],
)
def test_whose_share_is_taken(
    fields: dict[str, Any], route: str | None, given: str | None, source: str
) -> None:
    assert source_of(policy(**fields), route, "v2", given) == source


@pytest.mark.parametrize(
    ("fields", "route", "to", "given", "said"),
    [
        ({"to": "v1"}, None, "v4", None, "reviews has no version v4: known are v1, v2, v3"),
        ({"endpoints": None}, None, "v4", None, "reviews has no version v4, it has no endpoints"),
        ({}, None, "v2", None, "reviews has no `to`, so all of v1, v2, v3 get requests: apply a `to` first"),
        ({"to": {"v1": 1, "v3": 1}}, None, "v2", None, "between v1, v3: say with --from"),
        ({"to": "v2"}, None, "v2", None, "between none but v2: say with --from"),
        ({"to": "v1"}, None, "v2", "v3", "--from v3: the split has no v3, but v1"),
        ({"to": "v1"}, None, "v2", "v2", "--from and --to are both v2"),
        ({"to": "v1", "routes": ROUTES}, "test", "v2", None, "no route test: known are testers, rest"),
        ({"to": "v1"}, "test", "v2", None, "no route test: none of its routes has a name"),
        ({"to": "v1", "routes": [{"name": "all", "to": "v1"}]}, None, "v2", None, "say --route all"),
        ({"routes": [{"name": "a", "to": "v1", "for": "1h"}]}, "a", "v2", None, "route a expires by itself"),
        ({"to": "v1", "routes": [{"to": "v1"}]}, None, "v2", None, "give it a name and say --route NAME"),
    ],
)
def test_what_cannot_be_split(fields: Any, route: str | None, to: str, given: str | None, said: str) -> None:
    with pytest.raises(CannotSplitError) as failure:
        source_of(policy(**fields), route, to, given)
    assert said in str(failure.value)


@pytest.mark.parametrize(
    ("split", "percent", "wanted"),
    [
        (None, 5, {"v1": 95, "v2": 5}),
        ({"v1": 1}, 2.5, {"v1": 97.5, "v2": 2.5}),
        ({"v1": 9, "v2": 1}, 100, {"v1": 0, "v2": 100}),
        ({"v1": 0, "v2": 100}, 0, {"v1": 100, "v2": 0}),
        ({"v1": 60, "v3": 40}, 50, {"v1": 30, "v2": 30, "v3": 40}),
        ({"v3": 40, "v2": 20, "v1": 40}, 0, {"v1": 60, "v2": 0, "v3": 40}),
    ],
)
def test_weights(split: Any, percent: float, wanted: dict[str, float]) -> None:
    assert weights(split, "v1", "v2", percent) == wanted


def test_two_that_have_nothing_have_nothing_to_share() -> None:
    with pytest.raises(CannotSplitError, match="neither v1 nor v2 has a weight in the split: give v1 one"):
        weights({"v1": 0, "v3": 1}, "v1", "v2", 5)


@given(
    st.dictionaries(st.sampled_from(["v1", "v2", "v3", "v4"]), st.integers(1, 1000), min_size=1).filter(
        lambda split: "v1" in split
    ),
    st.lists(st.floats(0, 100), min_size=1),
)
def test_the_others_keep_their_share_whatever_the_steps(split: dict[str, float], steps: list[float]) -> None:
    others = {name: weight for name, weight in split.items() if name not in ("v1", "v2")}
    now: Any = split
    for step in steps:
        now = weights(now, "v1", "v2", step)
        both = now["v1"] + now["v2"]
        assert now["v2"] == pytest.approx(both * step / 100, abs=1e-6)
        assert {name: now[name] for name in others} == others
        assert both == pytest.approx(split["v1"] + split.get("v2", 0) if others else 100)


def test_only_the_split_changes() -> None:
    before = policy(to="v1", retry=3, routes=[*ROUTES, {"name": "last", "timeout": "1s"}])
    text = normalize(before)
    own = with_split("reviews", text, None, {"v1": 95, "v2": 5})
    assert own == before.model_copy(update={"to": {"v1": 95, "v2": 5}})
    routed = with_split("reviews", text, "rest", {"v1": 50, "v2": 50})
    assert split_of(routed, "rest") == {"v1": 50, "v2": 50}
    assert {**json.loads(normalize(routed)), "routes": 0} == {**json.loads(text), "routes": 0}
    assert split_of(routed, "testers") == {"v3": 1}
