"""Mistakes in what is scored, found before anything is trained: reference models and benchmark folders."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from brain_eval.benchmarks import decode_all, load_benchmark, module_of, say_notes
from brain_eval.recorded_rdms import CORRELATION
from brain_eval.scoring import known_kinds, known_metrics, refuse_undefined
from nmnc.errors import UserError
from nmnc.reading import parse_json


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


def check_all(
    model_specs: Sequence[str], benchmark_specs: Sequence[str], data: Path,
    metrics: Sequence[str] = ("spearman",), recorded_rdms: Sequence[str] = (CORRELATION,),
) -> None:  # fmt: skip
    """Load every model, pass blank images through it, and load every benchmark folder with all its images.

    What a folder has that is not used is said on stderr.

    Args:
        model_specs: JSON objects, see `ModelSpec`.
        benchmark_specs: NAME=FOLDER; of a plain NAME only the name is checked, and nothing downloaded.
        data: the data folder.
        metrics, recorded_rdms: what the folders are scored by; what they lack for it is a mistake.

    Raises:
        UserError: the first mistake found.
    """
    metrics, kinds = known_metrics(metrics), known_kinds(recorded_rdms)
    for text in model_specs:
        _check_model(_read(text), data)
    loaded = []
    for spec in benchmark_specs:
        if "=" not in spec:
            module_of(spec)
            continue
        benchmark = load_benchmark(spec, data)
        say_notes(benchmark)
        decode_all(benchmark)
        loaded.append(benchmark)
    refuse_undefined(loaded, metrics, kinds, others=len(loaded) < len(benchmark_specs))


def _read(text: str) -> ModelSpec:
    try:
        return ModelSpec.model_validate(parse_json(text, "--model-spec"))
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
