"""Options of commands made from the sections of a study, so that each setting is defined once, in its section."""

import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from brain_eval.settings import Evaluation
from nmnc.errors import UserError
from nmnc.files.reading import read_yaml
from nmnc.sections import Section
from nmnc.validation import one_line

S = TypeVar("S", bound=Section)
Config = Annotated[
    Path | None, typer.Option(help="A study's YAML file, whose section evaluation takes the place of the defaults.")
]


def read_evaluation(config: Path | None) -> Evaluation:
    """Return the section `evaluation` of a study's file, the defaults for None; UserError where it is wrong."""
    content = {} if config is None else read_yaml(config, "give a YAML file of config/")
    try:
        return Evaluation.model_validate(content.get("evaluation", {}) if isinstance(content, dict) else content)
    except ValidationError as error:
        raise UserError(f"{config}: evaluation.{one_line(error, Evaluation)}") from None


def benchmarks_of(given: list[str] | None, evaluation: Evaluation | None) -> list[str]:
    """Return the benchmarks that --benchmark or else --config names; UserError where neither is given."""
    if not given and evaluation is None:
        raise UserError("no benchmark to score on; give --benchmark NAME, or --config with a study's file")
    return given or (evaluation.specs() if evaluation else [])


def section_options(**sections: Callable[[Evaluation], Section]) -> Callable[..., Callable[..., None]]:
    """Give a command an option for each key of some sections, and --config.

    Args:
        sections: parameter of the command that gets the section -> how to find it in an `Evaluation`. The options
            overrule what --config says. A parameter `evaluation` gets --config's section whole, None
            without --config.
    """
    models = {name: type(of(Evaluation())) for name, of in sections.items()}
    part_kind = inspect.Parameter.KEYWORD_ONLY

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        asked = inspect.signature(command, eval_str=True).parameters

        def run(config: Path | None = None, **given: Any) -> None:
            evaluation = read_evaluation(config)
            for name, of in sections.items():
                values = {key: given.pop(key) for key in models[name].model_fields}
                given[name] = _overruled(of(evaluation), {k: v for k, v in values.items() if v is not None})
            if "evaluation" in asked:
                given["evaluation"] = None if config is None else evaluation
            command(**given)

        options = {"config": Config}
        for model in models.values():
            options |= {key: _option(key, field) for key, field in model.model_fields.items()}
        shown = [part for part in asked.values() if part.name not in (*sections, "evaluation")]
        shown += [inspect.Parameter(key, part_kind, default=None, annotation=kind) for key, kind in options.items()]
        run.__signature__ = inspect.Signature([part.replace(kind=part_kind) for part in shown])  # type: ignore[attr-defined]
        run.__annotations__ = {part.name: part.annotation for part in shown}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _overruled(base: S, values: Mapping[str, Any]) -> S:
    """A section with some values replaced; UserError that names the option."""
    section = type(base)
    lists = {key for key, field in section.model_fields.items() if get_origin(field.annotation) is list}
    given = {key: value.split(",") if key in lists else value for key, value in values.items()}
    try:
        return section(**(base.model_dump() | given))
    except ValidationError as error:
        key, _, text = one_line(error, section).partition(":")
        raise UserError(f"{_names(key, section.model_fields[key.partition('.')[0]])[0]}:{text}") from None


def _names(key: str, field: FieldInfo) -> list[str]:
    """The option's names: the key's with dashes, and --no-KEY where it is true or false, unless the field says."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "option" in extra:
        return [str(extra["option"])]
    name = f"--{key.partition('.')[0].replace('_', '-')}"
    return [f"{name}/--no-{name[2:]}" if bool in _kinds(field.annotation) else name]


def _option(key: str, field: FieldInfo) -> Any:
    """The annotation of the option for a field; without a value it is None."""
    kind = next(iter(_kinds(field.annotation) & {bool, int, float}), str)
    default = ",".join(field.default) if isinstance(field.default, list) else field.default
    shown = "" if default is None else f" [default: {default}]"
    return Annotated[kind | None, typer.Option(*_names(key, field), help=f"{field.description}{shown}")]


def _kinds(annotation: Any) -> set[Any]:
    """The types in an annotation; str for the values of a Literal and for a list."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return {str} if origin in (Literal, list) else _kinds(get_args(annotation)[0]) if origin else {annotation}
