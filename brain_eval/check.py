"""Mistakes in what is scored, found before anything is trained: reference models and benchmark folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from brain_eval.activations.settings import Activations, ReferenceModel
from brain_eval.benchmarks import decode_all, load_benchmark, module_of, say_notes
from brain_eval.metrics import METRICS, RDMS
from brain_eval.scoring.scores import refuse_undefined
from brain_eval.scoring.settings import Scoring
from nmnc.data.images import Pixels
from nmnc.errors import UserError
from nmnc.files.reading import parse_json
from nmnc.validation import one_line

if TYPE_CHECKING:
    from brain_eval.activations.models import Model

#: Images of the benchmark folders that a model is shown.
SHOWN = 4


def check_all(
    models: Mapping[str, ReferenceModel],
    benchmark_specs: Sequence[str],
    data: Path,
    scoring: Scoring,
    kept: Activations,
) -> None:
    """Load every benchmark folder with all its images, and every model; pass noise and some of the images through it.

    Parts of a folder that are not used are listed on stderr.

    Args:
        models: name in errors -> model.
        benchmark_specs: NAME=FOLDER; of a plain NAME only the name is checked, and nothing downloaded.
        data: the data folder.
        scoring: metrics and kinds of RDM; raises for a folder that lacks what they need.
        kept: how the activations will be reduced.

    Raises:
        UserError: the first mistake found.
    """
    metrics, kinds = METRICS.known(scoring.metrics), RDMS.known(scoring.recorded_rdms)
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
    for name, model in models.items():
        _check_model(name, model, data, images[:SHOWN], kept)
    refuse_undefined(loaded, metrics, kinds, is_partial=len(loaded) < len(benchmark_specs))


def read_model(text: str) -> tuple[str, ReferenceModel]:
    """Return name and model of a JSON object with the keys of `ReferenceModel` and, optionally, name.

    Raises:
        UserError: not JSON, or an unknown, missing or wrong key.
    """
    content = parse_json(text, "--model-spec")
    name = content.pop("name", "") if isinstance(content, dict) else ""
    try:
        model = ReferenceModel.model_validate(content)
    except ValidationError as error:
        keys = ", ".join(("name", *ReferenceModel.model_fields))
        raise UserError(f"--model-spec: {one_line(error, ReferenceModel)}; its keys are {keys}") from None
    return str(name) or model.network, model


def _check_model(name: str, spec: ReferenceModel, data: Path, images: Sequence[Pixels], kept: Activations) -> None:
    """Load a model and show it images, as `extract` would."""
    from brain_eval.activations.models import load_reference

    try:
        _show(load_reference(spec, data), images, kept.reduction, spec.channel_axis or kept.channel_axis)
    except UserError as error:
        raise UserError(f"model {name}: {error}") from None


def _show(model: "Model", images: Sequence[Pixels], reduction: str, channel_axis: str | None) -> None:
    """Pass noise and images twice through a model; raises as `activations.extract`."""
    import torch

    from brain_eval.activations.extraction import kept_layers
    from brain_eval.activations.hooks import probe_images
    from brain_eval.activations.layer_outputs import Computation
    from brain_eval.activations.layer_probe import print_notes, probe
    from brain_eval.activations.reductions.reduction import Reduction
    from brain_eval.activations.repeats import Repeats, refuse_changes, state_of

    device = torch.device("cpu")
    found = probe(model, Computation(device)).with_channels(channel_axis)
    kept = kept_layers(model, found.outputs, Reduction(reduction), 1, device)
    repeats = Repeats(model, Computation(device), found, kept)
    before = state_of(model.module)
    shown = torch.cat([probe_images(model.preprocessing, 2), model.preprocessing(images)])
    ids = [*(f"noise {number}" for number in (1, 2)), *(f"image {1 + number}" for number in range(len(images)))]
    repeats.check(
        [repeats.first(ids, shown, "in a pass over noise and the first images of the benchmarks")], len(shown)
    )
    refuse_changes(model, before)
    print_notes(model, found)
