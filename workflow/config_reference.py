"""config/README.md from the models of a study: python -m workflow.config_reference."""

import json
import types
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from brain_eval.registry import Registry
from nmnc.sections import usable_path
from workflow.study import Study

README = Path(__file__).resolve().parent.parent / "config" / "README.md"
COMMAND = "python -m workflow.config_reference"
HEAD = f"""# Keys of a study's file

Every `.yaml` file of this folder is one study: `snakemake --cores 2 --configfile config/NAME.yaml` runs it.
This page is written by `{COMMAND}` from the models of the sections in `workflow/study.py`, `nmnc/settings.py` and
`brain_eval/settings.py`; change those, then run it again.

An unknown key is refused before anything runs. *Required* keys have no default; *empty* means that the key
may be left out or set to nothing.
"""
COLUMNS = ("key", "type", "default", "constraints", "description")
TYPE_NAMES: dict[Any, str] = {
    str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", Any: "any", None: "empty",
    type(None): "empty",
}  # fmt: skip
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
LIMITS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}


def reference() -> str:
    """Return the whole page: one table per section, in the order of the models."""
    return HEAD + "".join(_table(place, section) for place, section in sections(Study))


def sections(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield (place, model) of a section and of all its subsections; NAME is a name chosen by the user."""
    yield place, model
    for key, field in model.model_fields.items():
        below, named = section_of(field.annotation)
        if below is not None:
            yield from sections(below, ".".join(filter(None, (place, key, "NAME" if named else ""))))


def section_of(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the section inside an annotation such as `dict[Name, RuleEntry]`, and whether it is a dict by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        below, named = section_of(argument)
        if below is not None:
            return below, named or get_origin(annotation) is dict
    return None, False


def description_of(field: FieldInfo) -> str:
    """Return the description of a key, else the docstring of its section."""
    below, _ = section_of(field.annotation)
    return field.description or (below.__doc__ if below is not None else None) or ""


def _table(place: str, section: type[BaseModel]) -> str:
    title = f"`{place}`" if place else "The study"
    rows = [COLUMNS, tuple("---" for _ in COLUMNS)]
    for key, field in section.model_fields.items():
        cells = (
            f"`{key}`",
            _names(field) or _type(field.annotation),
            _default(field),
            _constraints(field),
            _escaped(description_of(field)),
        )
        rows.append(tuple(cell.replace("|", "\\|") for cell in cells))
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"\n## {title}\n\n{section.__doc__}\n\n{lines}\n"


def _escaped(text: str) -> str:
    """Escape stars, which would begin italics."""
    return text.replace("*", "\\*")


def _names(field: FieldInfo) -> str:
    """Return the names in the registry that a field chooses from, "" for other fields."""
    if not isinstance(field.json_schema_extra, dict) or "registry" not in field.json_schema_extra:
        return ""
    module, _, registry = str(field.json_schema_extra["registry"]).partition(":")
    names = " or ".join(f"`{name}`" for name in getattr(import_module(module), registry))
    return f"list of {names}" if get_origin(field.annotation) is list else names


def _type(annotation: Any) -> str:
    """Return the text for an annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is list:
        item = _type(arguments[0])
        return f"list of {item}s" if item in TYPE_NAMES.values() else f"list of {item}"
    if origin is dict:
        key, value = (_type(argument) for argument in arguments)
        return "keys and values" if value == "any" else f"{key} -> {value}"
    return "section" if section_of(annotation)[0] is not None else TYPE_NAMES[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    if isinstance(field.default, BaseModel):
        return "see there"
    if field.default is None:
        return "*empty*"
    return f"`{json.dumps(field.default, default=str)}`"


def _constraints(field: FieldInfo) -> str:
    """Return the limits of the value, then those of list items or of names."""
    limits = _limits(field.metadata)
    for inner in _annotated(field.annotation):
        limits += [f"each {limit}" for limit in _limits(get_args(inner)[1:])]
    return ", ".join(limits)


def _annotated(annotation: Any) -> Iterator[Any]:
    """Yield every `Annotated[...]` inside an annotation."""
    if get_origin(annotation) is Annotated:
        yield annotation
    for argument in get_args(annotation):
        yield from _annotated(argument)


def _limits(metadata: Iterable[Any]) -> list[str]:
    """Return pydantic's checks as texts; an unknown check is an error, so that none is missing."""
    texts = []
    for limit in metadata:
        if isinstance(limit, FieldInfo):
            texts += _limits(limit.metadata)
        elif type(limit) in LIMITS:
            attribute, sign = LIMITS[type(limit)]
            texts.append(f"{sign} {getattr(limit, attribute)}")
        elif isinstance(limit, MinLen):
            texts.append(f"at least {limit.min_length}")
        elif isinstance(limit, MaxLen):
            texts.append(f"at most {limit.max_length} characters")
        elif isinstance(limit, AfterValidator) and limit.func is usable_path:
            texts.append("no braces or control characters")
        elif isinstance(limit, AfterValidator) and isinstance(getattr(limit.func, "__self__", None), Registry):
            pass  # its names are listed under `type`
        elif getattr(limit, "pattern", None) == NAME:
            texts.append("letters, digits, `_ . -`, first a letter or digit")
        else:
            raise NotImplementedError(f"no text for {limit}; add it here")
    return texts


if __name__ == "__main__":
    README.write_text(reference(), encoding="utf-8")
    print(f"wrote {README.relative_to(Path.cwd()) if README.is_relative_to(Path.cwd()) else README}")
