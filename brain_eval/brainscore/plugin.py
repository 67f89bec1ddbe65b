"""A model plug-in folder for brainscore_vision: the network, its registry line, its layers and a test."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from brain_eval.brainscore.model import VISUAL_DEGREES, brainscore_model
from nmnc.errors import UserError
from nmnc.files.writing import replacing

_INIT = '''"""{identifier}, a network of NMNC-Brain, as a Brain-Score model. Needs the package nmnc-brain."""

from brainscore_vision import model_registry

from .model import get_model

model_registry['{identifier}'] = get_model
'''

_MODEL = '''"""The network beside this file and what it is committed to."""

from pathlib import Path

from brain_eval.brainscore.model import brainscore_model

IDENTIFIER = {identifier!r}
LAYERS = {layers!r}
REGION_LAYER_MAP = {regions!r}
VISUAL_DEGREES = {degrees!r}
#: MODULE:FUNCTION of your own that built the network; empty for a network of nmnc's. network.pt alone never chooses it.
KIND = {kind!r}


def get_model():
    """The ModelCommitment; refuses weights that are not those of the identifier."""
    return brainscore_model(
        Path(__file__).parent / "network.pt",
        layers=",".join(LAYERS),
        region_layer_map=REGION_LAYER_MAP,
        visual_degrees=VISUAL_DEGREES,
        identifier=IDENTIFIER,
        kind=KIND,
    )
'''

_TEST = '''"""The plug-in loads through Brain-Score and responds as the network did when it was written."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brainscore_vision import load_model

EXPECTED = json.loads((Path(__file__).parent / "expected.json").read_text(encoding="utf-8"))


def test_responses(tmp_path):
    image = np.random.RandomState(0).randint(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "noise.png")
    model = load_model({identifier!r})
    assert model.identifier == {identifier!r}
    found = model.activations_model([str(tmp_path / "noise.png")], layers=list(EXPECTED))
    for layer, (mean, deviation) in EXPECTED.items():
        values = found.values[0, found["layer"].values == layer]
        assert values.mean() == pytest.approx(mean, rel=1e-4, abs=1e-6), layer
        assert values.std() == pytest.approx(deviation, rel=1e-4, abs=1e-6), layer
'''


def write_plugin(
    checkpoint: Path,
    out: Path,
    *,
    layers: str = "",
    region_layer_map: Mapping[str, str] | None = None,
    visual_degrees: float = VISUAL_DEGREES,
    kind: str = "",
) -> tuple[str, Path]:
    """Write OUT/NAME with __init__.py, model.py, test.py, expected.json, region_layer_map/ and network.pt.

    Copied or linked into the folder brainscore_vision/models it makes the network known to
    `brainscore_vision.score(model_identifier=..., benchmark_identifier=...)`. A MODULE:FUNCTION that built the network
    is named in `kind`, and by model.py then.

    Returns:
        The model's identifier and the folder.

    Raises:
        UserError: as `brain_eval.brainscore.model.brainscore_model`; `checkpoint` is not a network.pt.
    """
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: no such network.pt; give a trained one, results/STUDY/networks/.../network.pt")
    model = brainscore_model(
        checkpoint, layers=layers, region_layer_map=region_layer_map, visual_degrees=visual_degrees, kind=kind
    )
    identifier, regions = model.identifier, model.layer_model.region_layer_map
    folder = out / identifier.replace("-", "_")
    values = {
        "identifier": identifier,
        "layers": list(model.layers),
        "regions": dict(regions),
        "degrees": model.visual_degrees(),
        "kind": kind,
    }
    texts = {
        "model.py": _MODEL.format(**values),
        "test.py": _TEST.format(**values),
        "expected.json": json.dumps(_responses(model), indent=2) + "\n",
        f"region_layer_map/{identifier}.json": json.dumps(dict(regions), indent=2) + "\n",
        # Last: Brain-Score finds a plug-in by this file.
        "__init__.py": _INIT.format(**values),
    }
    with replacing(folder / "network.pt") as temporary:
        temporary.write_bytes(checkpoint.read_bytes())
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return identifier, folder


def _responses(model: Any) -> dict[str, tuple[float, float]]:
    """Layer -> mean and standard deviation of its activity to the image of the plug-in's test."""
    from PIL import Image

    image = np.random.RandomState(0).randint(0, 256, (96, 96, 3), dtype=np.uint8)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "noise.png"
        Image.fromarray(image).save(path)
        found = model.activations_model([str(path)], layers=list(model.layers))
    return {
        layer: (float(values.mean()), float(values.std()))
        for layer in model.layers
        for values in [found.values[0, found["layer"].values == layer]]
    }


def how_to_use(identifier: str, folder: Path) -> str:
    """Return instructions: where to put the folder, and how to score the network."""
    spec = find_spec("brainscore_vision")
    where = Path(spec.origin).parent / "models" if spec is not None and spec.origin else "brainscore_vision/models"
    return (
        f"{identifier}\n"
        f"plug-in: {folder}\n"
        f"link or copy it into {where}, then:\n"
        "  from brainscore_vision import score\n"
        f"  score(model_identifier={identifier!r}, benchmark_identifier='MajajHong2015public.IT-pls')"
    )
