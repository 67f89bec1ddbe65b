"""Turn pydantic's errors into one line: what happened, where, what to do."""

import reprlib
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from nmnc.errors import did_you_mean

S = TypeVar("S", bound=BaseModel)
#: Shortens the user's values in errors.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def leaves(annotation: Any) -> set[Any]:
    """Return the types inside an annotation, also of a Literal's values: {int, NoneType} for `list[int] | None`."""
    if inner := get_args(annotation):
        return set().union(*map(leaves, inner))
    return {annotation if isinstance(annotation, type) else type(annotation)}


def short(value: Any) -> str:
    """Return a value's repr for errors, each part at most about 80 characters."""
    return _SHORT.repr(value)


def overlay(base: BaseModel, override: dict[str, Any], place: str, model: type[S]) -> S:
    """Return `base` with some values replaced, validated as `model`; ValueError names the place."""
    try:
        return model(**(base.model_dump() | override))
    except ValidationError as error:
        raise ValueError(f"{place}.{one_line(error, model)}") from None


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first error as text and the number of others; a misspelt key comes first, as it is also missing."""
    first, *more = sorted(error.errors(include_url=False), key=lambda mistake: mistake["type"] != "extra_forbidden")
    place = ".".join(str(part)[:200] for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        message = f"{place}: unknown key{did_you_mean(str(first['loc'][-1]), _known_keys(model, first['loc']))}"
    elif first["type"] == "missing":
        message = f"{place}: missing; add it"
    else:
        text = str(first["msg"]).removeprefix("Value error, ").replace("\n", " ")
        given = "" if isinstance(first["input"], dict) else f" (got {short(first['input'])})"
        message = f"{place}: {text}{given}" if place else text
    return " ".join(message.split()) + (f" (and {len(more)} more)" if more else "")


def _known_keys(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the section that `place` points into."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = _section_of(field.annotation) or model
    return list(model.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the Section inside an annotation such as `dict[Name, RuleEntry]` or `Dataset | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        section = _section_of(argument)
        if section is not None:
            return section
    return None
