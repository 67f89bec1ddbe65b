"""Mistakes in what is scored, found before anything is trained: reference models and benchmark folders."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from brain_eval.benchmarks import decode_all, load_benchmark, module_of
from nmnc.errors import UserError


class ModelSpec(BaseModel):
    """A reference model, as in the section evaluation.models of a study.

    Attributes:
        name: what errors call it; empty: its network.
        network, kind, arguments, weights_key, layers, preprocessing: see `brain_eval.models.load_model`.
        weights: file of weights, absolute or below the data folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: str
    name: str = ""
    kind: str | None = None
    arguments: dict[str, Any] = {}
    weights: Path | None = None
    weights_key: str | None = None
    layers: list[str] = []
    preprocessing: dict[str, Any] | None = None


def check_all(model_specs: Sequence[str], benchmark_specs: Sequence[str], data: Path) -> None:
    """Load every model, pass blank images through it, and load every benchmark folder with all its images.

    Args:
        model_specs: JSON objects, see `ModelSpec`.
        benchmark_specs: NAME=FOLDER; of a plain NAME only the name is checked, and nothing downloaded.
        data: the data folder.

    Raises:
        UserError: the first mistake found.
    """
    for text in model_specs:
        _check_model(_read(text), data)
    for spec in benchmark_specs:
        if "=" in spec:
            decode_all(load_benchmark(spec, data))
        else:
            module_of(spec)


def _read(text: str) -> ModelSpec:
    try:
        return ModelSpec.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        keys = ", ".join(ModelSpec.model_fields)
        raise UserError(f"--model-spec: {place + ': ' if place else ''}{first['msg']}; its keys are {keys}") from None


def _check_model(spec: ModelSpec, data: Path) -> None:
    import torch

    from brain_eval.activations import layer_shapes
    from brain_eval.models import load_model

    weights = None if spec.weights is None else data / spec.weights
    preprocessing = "" if spec.preprocessing is None else json.dumps(spec.preprocessing)
    try:
        model = load_model(
            spec.network, ",".join(spec.layers), weights, json.dumps(spec.arguments), preprocessing,
            kind=spec.kind or "", weights_key=spec.weights_key or "",
        )  # fmt: skip
        layer_shapes(model, torch.device("cpu"))
    except UserError as error:
        raise UserError(f"model {spec.name or spec.network}: {error}") from None
