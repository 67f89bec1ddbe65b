"""A network of ours as a Brain-Score model: anyone can score it with brainscore_vision.score.

Brain-Score's ModelCommitment around our own forward pass, so that both see the same numbers: the network's
preprocessing, its layers by our names, full float32. A commitment assigns a layer to each region. By default the
regions are spread over the hidden layers in their order; that is an assumption, not a fit (fitting it on scored images
would inflate the scores).
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from brain_eval.activations.layer_outputs import Computation, Output, forward
from brain_eval.activations.layer_probe import probe
from brain_eval.activations.models import Model, load_model
from brain_eval.benchmarks.public.environment import prepare
from nmnc.data.images import read_image
from nmnc.errors import UserError

REGIONS = ("V1", "V2", "V4", "IT")
#: Width of the images that a network is taken to see, in degrees of visual angle: Brain-Score's default.
VISUAL_DEGREES = 8.0
#: Brain-Score's name for a network's output, whatever its last layer is called.
LOGITS = "logits"


def brainscore_model(
    path: Path | str,
    *,
    layers: str = "",
    region_layer_map: Mapping[str, str] | None = None,
    visual_degrees: float = VISUAL_DEGREES,
    batch_size: int = 64,
    identifier: str | None = None,
    **source: Any,
) -> Any:
    """Return the network in a network.pt as a brainscore_vision ModelCommitment.

    Args:
        path: a network.pt, or another source that `brain_eval.activations.models.load_model` takes.
        layers: comma-separated names to commit; "" for all stages.
        region_layer_map: region -> layer; None for `regions_by_order`.
        visual_degrees: width of the images that the network sees; Brain-Score pads or crops to it.
        batch_size: images in a forward pass.
        identifier: a name that ends in the network's own digest, as in a plug-in; None: it is computed.
        source: further arguments of `load_model`.

    Raises:
        UserError: as `load_model`; an unknown layer or region; an identifier of other weights.
    """
    model = load_model(str(path), layers, **source)
    return commitment(model, region_layer_map, visual_degrees, batch_size, identifier)


def commitment(
    model: Model,
    region_layer_map: Mapping[str, str] | None = None,
    visual_degrees: float = VISUAL_DEGREES,
    batch_size: int = 64,
    identifier: str | None = None,
) -> Any:
    """Return a loaded model as a ModelCommitment; arguments and errors as `brainscore_model`."""
    prepare()
    from brainscore_vision.model_helpers.brain_transformation import ModelCommitment

    if not 0 < visual_degrees < 180:
        raise UserError(f"{model.name}: {visual_degrees:g} is not a width in degrees of visual angle; set e.g. 8")
    regions = checked_regions(model, regions_by_order(list(model.layers)) | dict(region_layer_map or {}))
    computed = identifier_of(model)
    if identifier is not None and identifier.rpartition("-")[2] != computed.rpartition("-")[2]:
        raise UserError(
            f"{model.name}: its weights are not those of {identifier}, but {computed}; rewrite the plug-in "
            "(Brain-Score's caches know a model by its identifier)"
        )
    # Whole degrees as int: Brain-Score's folders and caches carry the number in their names.
    degrees = int(visual_degrees) if float(visual_degrees).is_integer() else float(visual_degrees)
    name = identifier or computed
    return ModelCommitment(
        identifier=name,
        activations_model=ActivationsModel(model, name, batch_size),
        layers=list(model.layers),
        region_layer_map=regions,
        visual_degrees=degrees,
    )


def identifier_of(model: Model) -> str:
    """Return NAME-DIGEST: one name for one set of weights, code and preprocessing.

    Brain-Score's caches are keyed by names only, so two networks must never share one.
    """
    parts = (model.weights_sha256, model.code_sha256, model.preprocessing.describe())
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return f"{re.sub('[^A-Za-z0-9_]+', '-', model.name).strip('-_')}-{digest}"


def regions_by_order(layers: Sequence[str]) -> dict[str, str]:
    """Spread V1, V2, V4 and IT evenly over the layers without the last one (the output).

    Five layers give V1 the first, V2 the second, V4 the third and IT the fourth; of two layers all get the first.
    """
    hidden = list(layers[:-1]) or list(layers)
    steps = np.linspace(0, len(hidden) - 1, len(REGIONS)).round().astype(int)
    return {region: hidden[step] for region, step in zip(REGIONS, steps, strict=True)}


def checked_regions(model: Model, regions: Mapping[str, str]) -> dict[str, str]:
    """Return the map as a dict; UserError for a region without recordings, or a layer that is not recorded."""
    for region, layer in regions.items():
        if region not in REGIONS:
            raise UserError(f"{model.name}: unknown region {region!r}; Brain-Score records {', '.join(REGIONS)}")
        if layer not in model.layers:
            known = ", ".join(model.layers)
            raise UserError(f"{model.name}: region {region} is given layer {layer!r}; choose from {known}")
    return dict(regions)


def parse_regions(options: Sequence[str]) -> dict[str, str]:
    """REGION=LAYER texts -> region -> layer; UserError for another form or a region given twice."""
    regions: dict[str, str] = {}
    for option in options:
        region, equals, layer = (part.strip() for part in option.partition("="))
        if not (region and equals and layer):
            raise UserError(f"--region '{option}' is not REGION=LAYER; e.g. V4=conv3")
        if region in regions:
            raise UserError(f"--region gives {region} twice; give each region one layer")
        regions[region] = layer
    return regions


class ActivationsModel:
    """What a ModelCommitment asks for activations: Brain-Score's extractor around our forward pass.

    Args:
        model: its layers are the ones that can be asked for, and "logits" is its output.
        identifier: unique per weights.
        batch_size: images in a forward pass.
    """

    def __init__(self, model: Model, identifier: str, batch_size: int) -> None:
        from brainscore_vision.model_helpers.activations.core import ActivationsExtractorHelper

        self._model = model
        self._computation = Computation(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self._computation.place(model.module)
        self._outputs: dict[tuple[str, ...], Mapping[str, Output]] = {}
        self.image_size = model.preprocessing.image_size
        self._extractor = ActivationsExtractorHelper(
            get_activations=self.get_activations,
            preprocessing=self.preprocess,
            identifier=identifier,
            batch_size=batch_size,
        )
        self._extractor.insert_attrs(self)

    @property
    def identifier(self) -> str:
        """Brain-Score changes it while it selects layers, and changes it back."""
        return self._extractor.identifier

    @identifier.setter
    def identifier(self, value: str) -> None:
        """Set the extractor's, by which it names what it caches."""
        self._extractor.identifier = value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stimuli and layers -> NeuroidAssembly (presentation, neuroid)."""
        return self._extractor(*args, **kwargs)

    def preprocess(self, paths: Sequence[str]) -> NDArray[np.float32]:
        """Image files -> (images, channels, image_size, image_size) float32, as in our extraction."""
        images = [read_image(Path(path)) for path in paths]
        return self._model.preprocessing(images).numpy()

    def get_activations(
        self, images: Sequence[NDArray[np.float32]], layer_names: Sequence[str]
    ) -> OrderedDict[str, NDArray[np.float32]]:
        """One pass -> layer -> (images, ...) float32, in the order asked for; raises as `layer_outputs.forward`."""
        asked = replace(self._model, layers={layer: self._module(layer) for layer in layer_names})
        if tuple(layer_names) not in self._outputs:
            self._outputs[tuple(layer_names)] = probe(asked, self._computation).outputs
        found: dict[str, NDArray[np.float32]] = {}

        def take(layer: str, output: Tensor) -> None:
            # A copy: an in-place ReLU behind this layer would change what it gave.
            found[layer] = output.to("cpu", torch.float32, copy=True).contiguous().numpy()

        outputs, batch = self._outputs[tuple(layer_names)], torch.from_numpy(np.stack(images))
        forward(asked, batch, self._computation, outputs, take, "in a batch of Brain-Score's")
        return OrderedDict((layer, found[layer]) for layer in layer_names)

    def _module(self, layer: str) -> nn.Module:
        if layer == LOGITS and layer not in self._model.layers:
            return self._model.module
        if layer not in self._model.layers:
            known = ", ".join(self._model.layers)
            raise UserError(f"{self._model.name}: no layer {layer!r}; choose from {known}")
        return self._model.layers[layer]
