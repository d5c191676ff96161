"""The base of every part of a policy: nothing unknown is accepted, and every error says what to write instead.

The words of an error come from the same places as the reference and the JSON
Schema: the `written` of a part, and the `Written` of a field's type.
"""

import types
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

MOST_ERRORS = 1000
"""So many of a part are told: memory stays in bounds where everything is wrong."""
Broken = tuple[tuple[str | int, ...], str]
"""Where a rule is broken, counted from the part that has the rule, and the sentence that says so."""


@dataclass(frozen=True, eq=False)  # eq by identity: types in Annotated are hashed
class Written:
    """How a value is written: a phrase that can follow "write", and the JSON Schema of it.

    `schema` replaces what pydantic would say; `short` are the shorthands accepted besides that.
    Where a value of a list or mapping may stand alone for the whole, `alone` is `items` or `additionalProperties`.
    """

    phrase: str
    schema: JsonSchemaValue | None = None
    short: tuple[JsonSchemaValue, ...] = ()
    alone: str = ""

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # Copies, since pydantic writes descriptions and defaults into what it is given.
        schema = handler(core) if self.schema is None else deepcopy(self.schema)
        short = [deepcopy(each) for each in ([schema[self.alone]] if self.alone else self.short)]
        return {"anyOf": [*short, schema]} if short else schema


class Part(BaseModel):
    """A mapping of a policy document."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    written: ClassVar[str] = "a mapping"
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Names that do not stand in this part but in another, with the words that say where."""

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        """What the fields' own types cannot say, of the part as it was written; yields what is broken."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _judge(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # Rules and fields are both judged, so that one reading shows every error.
        broken = list(cls.rules(value)) if isinstance(value, dict) else []
        try:
            part = handler(value)
        except ValidationError as error:
            lines = [line for each in error.errors(include_url=False) for line in _explained(cls, each)]
            raise _failed(cls, [*lines, *_broken(broken, value)]) from None
        if broken:
            raise _failed(cls, _broken(broken, value))
        return part

    def document(self) -> dict[str, Any]:
        """This part as plain JSON data in its normalized form: only what was said."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)


@cache
def names_of(part: type[Part]) -> dict[str, FieldInfo]:
    """The fields of a part by the name that a document uses, its own before those that it shares with other parts."""
    shared = [base for base in part.__bases__ if issubclass(base, Part)]
    inherited = {name: field for base in shared for name, field in names_of(base).items()}
    every = {field.alias or name: field for name, field in part.model_fields.items()}
    return {name: field for name, field in every.items() if name not in inherited} | inherited


def defaults_of(part: type[Part]) -> dict[str, Any]:
    """What the fields of a part are where nothing is said, as it would be written; without those that have no default."""
    unsaid = part.model_construct().model_dump(mode="json", by_alias=True)
    return {name: value for name, value in unsaid.items() if value is not None}


def exactly_one(part: type[Part], given: Mapping[str, Any], names: Sequence[str]) -> Iterator[Broken]:
    """The rule that one of the names stands in a part. An unknown name is an error of its own: then it is silent."""
    if given.keys() <= names_of(part).keys() and sum(name in given for name in names) != 1:
        yield (), "give exactly one of " + ", ".join(names)


def phrase_of(annotation: Any) -> str:
    """What to write for a value of this type, as a phrase."""
    if get_origin(annotation) is Annotated:
        base, *metadata = get_args(annotation)
        return next((mark.phrase for mark in metadata if isinstance(mark, Written)), None) or phrase_of(base)
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(phrase_of(each) for each in get_args(annotation) if each is not type(None))
    if get_origin(annotation) is Literal:
        return " or ".join(str(each) for each in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"a list, each item {phrase_of(get_args(annotation)[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation.written
    return {bool: "true or false", str: "text in quotes"}[annotation]


def phrase_of_field(field: FieldInfo) -> str:
    """What to write for a field, as a phrase."""
    return phrase_of(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)


def _line(loc: tuple[str | int, ...], text: str, value: object, *, got: bool = False) -> InitErrorDetails:
    kind = PydanticCustomError("policy", "{text}", {"text": text, "got": got})
    return InitErrorDetails(type=kind, loc=loc, input=value)


def _broken(broken: list[Broken], value: object) -> list[InitErrorDetails]:
    return [_line(loc, text, value, got=not loc) for loc, text in broken]


def _failed(part: type[Part], lines: list[InitErrorDetails]) -> ValidationError:
    return ValidationError.from_exception_data(part.__name__, lines[:MOST_ERRORS])


def _explained(part: type[Part], error: Any) -> Iterator[InitErrorDetails]:
    """An error of pydantic in our words; those of parts further in have been put so already."""
    kind, loc, value, context = error["type"], error["loc"], error["input"], error.get("ctx", {})
    if kind == "policy":
        yield _line(loc, context["text"], value, got=context["got"])
    elif kind == "value_error":
        yield _line(loc, str(context["error"]), value, got=True)
    elif kind == "extra_forbidden":
        yield _line(loc, _unknown(str(loc[-1]), part), value)
    elif kind == "missing":
        yield _line(loc, f"missing: write {phrase_of_field(names_of(part)[str(loc[0])])}", value)
    elif kind == "too_short":
        # Items that failed are not counted: a list that is not empty has its errors named already.
        if not value:
            yield _line(loc, "write at least one", value, got=True)
    else:
        yield _line(
            loc,
            f"write {phrase_of_field(names_of(part)[str(loc[0])]) if loc else part.written}",
            value,
            got=True,
        )


def _unknown(name: str, part: type[Part]) -> str:
    if name in part.elsewhere:
        return f"unknown field here: {part.elsewhere[name]}"
    known = list(names_of(part))
    near = get_close_matches(name.lower().replace("-", "_"), known, n=1)
    return (
        f"unknown field: did you mean {near[0]}?"
        if near
        else f"unknown field: known here are {', '.join(known)}"
    )
