"""The language as types: shorthands become long forms, the normalized form is stable, errors say what to write."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from control.policy import model
from control.policy.model import Match, Policy, Retry, RetryCondition, Route, StringMatch
from control.policy.parts import Part, names_of, phrase_of_field
from control.policy.reading import normalize, parse_stored
from tests import policy_strategies as policies


@pytest.mark.parametrize(
    ("said", "long"),
    [
        ({"retry": 3}, {"retry": {"attempts": 3}}),
        ({"retry": {"on": "5xx"}}, {"retry": {"on": ["5xx"]}}),
        ({"retry": {"on": {"body": "failure\n"}}}, {"retry": {"on": [{"body": {"exact": "failure\n"}}]}}),
        ({"retry": {"methods": "post"}}, {"retry": {"methods": ["POST"]}}),
        ({"retry": {"max_body": "1024KiB"}}, {"retry": {"max_body": "1MiB"}}),
        ({"timeout": "1000ms"}, {"timeout": "1s"}),
        ({"timeout": 0}, {"timeout": "0s"}),
        ({"access_log": "on"}, {"access_log": {"sample": 100}}),
        ({"access_log": "off"}, {"access_log": {"sample": 0}}),
        ({"faults": [{"abort": 503}]}, {"faults": [{"abort": {"status": 503}}]}),
        ({"faults": [{"abort": "hang", "percent": 50.0}]}, {"faults": [{"abort": "hang", "percent": 50}]}),
        ({"endpoints": ["A.example:80"]}, {"endpoints": {"default": [{"address": "a.example:80"}]}}),
        ({"to": "v1"}, {"to": {"v1": 1}}),
        ({"to": {"v1": 90.0, "Other/v2": 0.5}}, {"to": {"v1": 90, "other/v2": 0.5}}),
        ({"routes": [{"match": {"path": "/a"}}]}, {"routes": [{"match": [{"path": {"exact": "/a"}}]}]}),
        ({"routes": [{"match": {"method": "get"}}]}, {"routes": [{"match": [{"method": ["GET"]}]}]}),
        (
            {"routes": [{"match": {"headers": {"X-A": {"not": "b"}}}}]},
            {"routes": [{"match": [{"headers": {"x-a": {"not": {"exact": "b"}}}}]}]},
        ),
        ({"hosts": ["A.Example.", "[0:0::1]:80"]}, {"hosts": ["a.example", "[::1]:80"]}),
    ],
)
def test_shorthand_becomes_the_long_form(said: dict[str, Any], long: dict[str, Any]) -> None:
    policy = Policy.model_validate({"service": "Reviews", **said})
    assert policy.document() == {"service": "reviews", **long}
    assert Policy.model_validate(policy.document()) == policy


@given(policies.documents)
def test_the_normalized_form_is_stable(document: dict[str, Any]) -> None:
    policy = Policy.model_validate(document)
    text = normalize(policy)
    again = parse_stored(policy.service, text)
    assert normalize(again) == text
    assert again == policy


@given(policies.documents)
def test_the_normalized_form_says_only_what_was_said(document: dict[str, Any]) -> None:
    stored = json.loads(normalize(Policy.model_validate(document)))
    assert stored.keys() == document.keys()
    for name in ("hosts", "routes", "faults"):
        assert len(stored.get(name, ())) == len(document.get(name, ()))


def problems(data: Any, part: type[BaseModel] = Policy) -> list[str]:
    """What is wrong, as `place: sentence`."""
    with pytest.raises(ValidationError) as caught:
        part.model_validate(data)
    return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in caught.value.errors()]


@pytest.mark.parametrize(
    ("part", "data", "expected"),
    [
        (Policy, {}, ["service: missing: write the service's name, such as `service: reviews`"]),
        (Retry, {"atempts": 3}, ["atempts: unknown field: did you mean attempts?"]),
        (Retry, {"max-body": "1B"}, ["max-body: unknown field: did you mean max_body?"]),
        (RetryCondition, {"zzz": 1}, ["zzz: unknown field: known here are header, body"]),
        (Route, {"hosts": []}, ["hosts: unknown field here: it stands in the document, not in a route"]),
        (
            StringMatch,
            {"exact": "a", "prefix": "b"},
            [": give exactly one of " + ", ".join(names_of(StringMatch))],
        ),
        (StringMatch, {"exakt": "a"}, ["exakt: unknown field: did you mean exact?"]),
        (Match, {"path": {}}, ["path: give exactly one of exact, prefix, regex"]),
        (
            Match,
            {"path": "/a?b=1"},
            ["path.exact: a path is compared without its query: use query for what follows the ?"],
        ),
        (Retry, {"other_endpoint": "yes"}, ["other_endpoint: write true or false"]),
        (Retry, {"on": []}, ["on: write at least one"]),
        (
            Retry,
            {"backoff": {"base": "1s"}},
            ["backoff: max (250ms unless given) is less than base: raise max"],
        ),
        (
            Retry,
            {"per_try_timeout": 0},
            ["per_try_timeout: write a duration above 0; leave it out for the default"],
        ),
        (Route, {"retry": "many"}, [f"retry: write {Retry.written}"]),
        (
            Route,
            {"faults": {}},
            ["faults: write a list, each item a mapping such as {percent: 10, abort: 503}"],
        ),
        (Route, {"respond": {"body": 5}}, ["respond.body: write text in quotes"]),
        (
            model.Fault,
            {"percent": 3},
            [": does nothing: give it one of delay, abort, bandwidth, truncate, corrupt, slow_close"],
        ),
        (model.AccessLog, {"only": "error"}, ["only: write errors"]),
    ],
)
def test_errors_say_what_to_write(part: type[BaseModel], data: Any, expected: list[str]) -> None:
    assert problems(data, part) == expected


def test_a_rule_and_a_field_of_one_part_are_both_told() -> None:
    assert problems({"percent": 101}, model.Fault) == [
        "percent: write a percentage as a number from 0 to 100",
        ": does nothing: give it one of delay, abort, bandwidth, truncate, corrupt, slow_close",
    ]
    found = problems({"service": "*", "hosts": ["a"], "timeout": "long"})
    assert len(found) == 2
    assert any(each.startswith('hosts: "*" holds defaults only') for each in found)


def test_parts_can_be_made_in_code() -> None:
    policy = Policy(service="a", routes=(Route(name="x", retry=Retry(attempts=3)),))
    assert policy.document() == {"service": "a", "routes": [{"name": "x", "retry": {"attempts": 3}}]}
    with pytest.raises(ValidationError, match=r"x is the name of routes\[0\] already"):
        Policy(service="a", routes=(Route(name="x"), Route(name="x")))


LEAKS = (
    "Input should",
    "Value error",
    "Extra inputs",
    "Tuple should",
    "literal[",
    "validation",
    "dictionary",
    "none is not",
)
PARTS = [part for part in vars(model).values() if isinstance(part, type) and issubclass(part, Part)]
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), policies.texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                policies.texts, st.sampled_from(sorted({name for part in PARTS for name in names_of(part)}))
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {"service": st.one_of(st.just("a"), anything)},
        optional={name: anything for name in names_of(Policy) if name != "service"},
    )
)
def test_no_words_of_the_machinery_come_through(data: Any) -> None:
    try:
        Policy.model_validate(data)
    except ValidationError as error:
        for each in error.errors():
            assert each["type"] == "policy"
            assert not any(leak.lower() in each["msg"].lower() for leak in LEAKS), each["msg"]
            union_tags = {"Abort", "literal['reset','hang']", "RetryCondition", "str", "int"}
            assert not union_tags & {step for step in each["loc"] if str(step) not in str(data)}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_field_is_described(part: type[Part]) -> None:
    for name, field in names_of(part).items():
        assert field.description, name
        assert phrase_of_field(field)
