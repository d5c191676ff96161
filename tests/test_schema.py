"""The JSON Schema for editors: it is one, and takes and refuses what the reader does."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given

from control.policy.model import Policy
from control.policy.parts import names_of
from control.policy.schema import json_schema
from tests import policy_strategies as policies

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@given(policies.documents)
def test_what_is_read_is_valid(document: dict[str, Any]) -> None:
    VALIDATOR.validate(document)
    VALIDATOR.validate(Policy.model_validate(document).document())


@pytest.mark.parametrize(
    "fields",
    [
        {"retry": 3},
        {"retry": {"attempts": 3, "on": "5xx", "max_body": "64KiB"}},
        {
            "retry": {
                "on": ["connect-failure", 503, "500-504", {"body": "x"}, {"header": {"x": {"present": True}}}]
            }
        },
        {"endpoints": ["a:1", {"address": "b:1", "weight": 2}]},
        {"endpoints": {"v1": ["a:1"]}, "to": {"v1": 1.5}},
        {"routes": [{"match": {"path": "/x", "method": "GET"}, "to": "v1"}]},
        {"routes": [{"match": [{"path": {"regex": ".*"}}, {"method": ["GET", "POST"]}], "respond": {}}]},
        {
            "faults": [
                {"abort": 503, "first": 2},
                {"abort": "hang"},
                {"delay": "1s", "abort": {"status": 500}},
            ]
        },
        {"access_log": "off", "timeout": 0, "connect_timeout": "1s"},
        {"access_log": {"only": "errors"}},
        {"load_balancer": "least_request"},
        {"sticky": {"header": "x-user"}, "routes": [{"sticky": {"cookie": "c", "ttl": "1h"}}]},
        {"sticky": {"header": "x-user", "stretches": [{"v1": 60}, {"v2": 40}]}},
        {"circuit_breaker": {}, "routes": [{"circuit_breaker": {"limits": {"retries": 0}}}]},
        {"load_balancer": {"hash": {"cookie": "uid"}}},
        {"load_balancer": {"hash": "source_ip"}},
    ],
)
def test_shorthands_are_valid(fields: dict[str, Any]) -> None:
    VALIDATOR.validate({"service": "a", **fields})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"service": "a", "retires": 3},
        {"service": "a", "retry": "many"},
        {"service": "a", "retry": 0},
        {"service": "a", "retry": 101},
        {"service": "a", "retry": None},
        {"service": "a", "retry": {"on": ["sometimes"]}},
        {"service": "a", "retry": {"on": [99]}},
        {"service": "a", "timeout": 5},
        {"service": "a", "timeout": "5 s"},
        {"service": "a", "connect_timeout": 0},
        {"service": "a", "endpoints": "a:1"},
        {"service": "a", "endpoints": ["a"]},
        {"service": "a", "endpoints": []},
        {"service": "a", "to": {"v1": -1}},
        {"service": "a", "faults": [{"percent": 50}]},
        {"service": "a", "faults": [{"percent": 101, "abort": 503}]},
        {"service": "a", "faults": [{"abort": "crash"}]},
        {"service": "a", "routes": [{"match": {"path": "x"}}]},
        {"service": "a", "routes": [{"match": {"headers": {"x": {"exact": "a", "prefix": "b"}}}}]},
        {"service": "a", "routes": [{"match": {"headers": {"x": {}}}}]},
        {"service": "a", "routes": [{"hosts": ["a"]}]},
        {"service": "a", "access_log": True},
        {"service": "a", "circuit_breaker": {"limits": {}}},
        {"service": "a", "circuit_breaker": {"open_for": 0}},
        {"service": "a", "circuit_breaker": {"max_ejected": 101}},
        {"service": "a", "load_balancer": "ring"},
        {"service": "a", "sticky": {}},
        {"service": "a", "sticky": {"header": "x", "cookie": "y"}},
        {"service": "*", "sticky": {"header": "x"}},
        {"service": "a", "load_balancer": {"hash": "header"}},
        {"service": "a", "load_balancer": {"hash": {"header": "x", "cookie": "y"}}},
        {"service": "a", "routes": [{"load_balancer": "random"}]},
        {"service": "a", "unknown_hosts": "refuse"},
        {"service": "*", "hosts": ["a"]},
        {"service": "*", "routes": []},
    ],
)
def test_what_is_refused_is_not_valid(document: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(document)


def test_nothing_unknown_is_valid_anywhere_and_everything_is_described() -> None:
    objects = [SCHEMA, *SCHEMA["$defs"].values()]
    assert all(each["additionalProperties"] is False for each in objects)
    assert all(field["description"] for each in objects for field in each["properties"].values())
    assert {"Retry", "Fault", "Match", "Route"} <= SCHEMA["$defs"].keys()
    assert SCHEMA["properties"].keys() == names_of(Policy).keys()


def test_defaults_are_as_they_would_be_written() -> None:
    for definition in [SCHEMA, *SCHEMA["$defs"].values()]:
        for field in definition["properties"].values():
            if "default" in field:
                jsonschema.Draft202012Validator({**field, "$defs": SCHEMA["$defs"]}).validate(
                    field["default"]
                )
    assert SCHEMA["$defs"]["Backoff"]["properties"]["base"]["default"] == "25ms"
