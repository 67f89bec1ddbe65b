"""Mistakes in what is scored, found before anything is trained: reference models and benchmark folders."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from brain_eval.benchmarks import decode_all, load_benchmark, module_of, say_notes
from brain_eval.benchmarks.recorded_rdms import CORRELATION
from brain_eval.metrics import METRICS, RDMS
from brain_eval.scoring.scores import refuse_undefined
from nmnc.data.images import Pixels
from nmnc.errors import UserError
from nmnc.files.reading import parse_json

if TYPE_CHECKING:
    from brain_eval.activations.models import Model

#: Images of the benchmark folders that a model is shown.
SHOWN = 4


class ModelSpec(BaseModel):
    """A reference model, as in the section evaluation.models of a study.

    Attributes:
        name: what errors call it; empty: its network.
        network, kind, arguments, weights_key, layers, preprocessing: see `brain_eval.activations.models.load_model`.
        weights: file of weights, absolute or below the data folder.
        channel_axis: see `brain_eval.activations.extraction.Settings`.
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
    channel_axis: Literal["first", "last"] | None = None


def check_all(
    model_specs: Sequence[str], benchmark_specs: Sequence[str], data: Path,
    metrics: Sequence[str] = ("spearman",), recorded_rdms: Sequence[str] = (CORRELATION,),
    *, reduction: str = "none", channel_axis: str | None = None,
) -> None:  # fmt: skip
    """Load every benchmark folder with all its images, and every model; pass noise and some of the images through it.

    What a folder has that is not used is said on stderr.

    Args:
        model_specs: JSON objects, see `ModelSpec`.
        benchmark_specs: NAME=FOLDER; of a plain NAME only the name is checked, and nothing downloaded.
        data: the data folder.
        metrics, recorded_rdms: what the folders are scored by; what they lack for it is a mistake.
        reduction: what the activations will be reduced by.
        channel_axis: see `brain_eval.activations.extraction.Settings`; a model's own comes first.

    Raises:
        UserError: the first mistake found.
    """
    metrics, kinds = METRICS.known(metrics), RDMS.known(recorded_rdms)
    loaded, images = [], list[Pixels]()
    for spec in benchmark_specs:
        if "=" not in spec:
            module_of(spec)
            continue
        benchmark = load_benchmark(spec, data)
        say_notes(benchmark)
        decode_all(benchmark)
        loaded.append(benchmark)
        images += benchmark.stimulus_set.read(np.arange(min(SHOWN, len(benchmark.stimulus_set.stimulus_ids))))
    for text in model_specs:
        _check_model(_read(text), data, images[:SHOWN], reduction, channel_axis)
    refuse_undefined(loaded, metrics, kinds, others=len(loaded) < len(benchmark_specs))


def _read(text: str) -> ModelSpec:
    try:
        return ModelSpec.model_validate(parse_json(text, "--model-spec"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        keys = ", ".join(ModelSpec.model_fields)
        raise UserError(f"--model-spec: {place + ': ' if place else ''}{first['msg']}; its keys are {keys}") from None


def _check_model(
    spec: ModelSpec, data: Path, images: Sequence[Pixels], reduction: str, channel_axis: str | None
) -> None:
    """Load a model and show it images, as `extract` would."""
    from brain_eval.activations.models import load_model

    weights = None if spec.weights is None else data / spec.weights
    preprocessing = "" if spec.preprocessing is None else json.dumps(spec.preprocessing)
    try:
        model = load_model(
            spec.network, ",".join(spec.layers), weights, json.dumps(spec.arguments), preprocessing,
            kind=spec.kind or "", weights_key=spec.weights_key or "",
        )  # fmt: skip
        _show(model, images, reduction, spec.channel_axis or channel_axis)
    except UserError as error:
        raise UserError(f"model {spec.name or spec.network}: {error}") from None


def _show(model: "Model", images: Sequence[Pixels], reduction: str, channel_axis: str | None) -> None:
    """Show a model noise and images twice; raises as `activations.extract`."""
    import torch

    from brain_eval.activations.extraction import Settings, kept_layers
    from brain_eval.activations.hooks import probe_images
    from brain_eval.activations.layer_outputs import Computation
    from brain_eval.activations.layer_probe import print_notes, probe
    from brain_eval.activations.reductions.reduction import Reduction
    from brain_eval.activations.repeats import Repeats, refuse_changes, state_of

    device, settings = torch.device("cpu"), Settings(reduction=Reduction(reduction), channel_axis=channel_axis)
    found = probe(model, Computation(device)).with_channels(settings.channel_axis)
    kept = kept_layers(model, found.outputs, settings.reduction, 1, device)
    repeats = Repeats(model, Computation(device), found, kept)
    before = state_of(model.module)
    shown = torch.cat([probe_images(model.preprocessing, 2), model.preprocessing(images)])
    ids = [*(f"noise {number}" for number in (1, 2)), *(f"image {1 + number}" for number in range(len(images)))]
    repeats.check(
        [repeats.first(ids, shown, "in a pass over noise and the first images of the benchmarks")], len(shown)
    )
    refuse_changes(model, before)
    print_notes(model, found)
