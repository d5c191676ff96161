"""The policy language as a JSON Schema, for editors: fields, values and shorthands, with the words of the reference.

What a schema cannot say, such as that a version exists, is left to `mitmesh validate`.
"""

from typing import Any

from control.policy.model import DEFAULTS_SERVICE, Policy
from control.policy.parts import Part, defaults_of, names_of

_NOT_OF_DEFAULTS = ("hosts", "endpoints", "routes", "to", "sticky")


def json_schema() -> dict[str, Any]:
    """The schema of one document, in JSON Schema draft 2020-12."""
    schema = _without_nothing(Policy.model_json_schema(by_alias=True))
    parts = {part.__name__: part for part in _kinds(Part)}
    for name, definition in schema["$defs"].items():
        _defaults(definition, parts[name])
    _defaults(schema, Policy)
    of_defaults = {"properties": {"service": {"const": DEFAULTS_SERVICE}}, "required": ["service"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "mitmesh policy",
        "if": of_defaults,
        "then": {"properties": dict.fromkeys(_NOT_OF_DEFAULTS, False)},
        "else": {"properties": {"unknown_hosts": False}},
    }


def _kinds(part: type[Part]) -> list[type[Part]]:
    """Every kind of part that is built on this one."""
    return [each for kind in part.__subclasses__() for each in (kind, *_kinds(kind))]


def _defaults(definition: dict[str, Any], part: type[Part]) -> None:
    defaults = defaults_of(part)
    for name in names_of(part):
        definition["properties"][name].pop("default", None)
        if name in defaults:
            definition["properties"][name]["default"] = defaults[name]


def _without_nothing(node: Any) -> Any:
    """The schema without the null that an optional value may have in Python, and without made-up titles."""
    if isinstance(node, list):
        return [_without_nothing(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: _without_nothing(each) for key, each in node.items() if not _made_up(key, each)}
    if choices := found.get("anyOf"):
        found["anyOf"] = [
            inner
            for choice in choices
            if choice != {"type": "null"}
            for inner in (choice["anyOf"] if choice.keys() == {"anyOf"} else [choice])
        ]
        if len(found["anyOf"]) == 1:
            found |= found.pop("anyOf")[0]
    return found


def _made_up(key: str, value: Any) -> bool:
    return key == "title" and isinstance(value, str)
