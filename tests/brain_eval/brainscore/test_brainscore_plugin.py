"""The plug-in folder: brainscore_vision.score finds the network by its identifier."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from brain_eval.__main__ import app
from brain_eval.brainscore.plugin import write_plugin
from nmnc.errors import UserError
from tests.places import ROOT

#: A benchmark plug-in of 30 images, on which Brain-Score and we compute the same score.
BENCHMARK = """
from pathlib import Path

import numpy as np
import pandas
from brainscore_core.metrics import Score
from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly
from brainscore_core.supported_data_standards.brainio.stimuli import StimulusSet
from brainscore_vision import benchmark_registry, load_metric
from brainscore_vision.benchmark_helpers.neural_common import NeuralBenchmark

IMAGES = sorted((Path(__file__).parent / "images").glob("*.png"))


def make():
    ids = [path.stem for path in IMAGES]
    stimuli = StimulusSet(pandas.DataFrame({"stimulus_id": ids, "object_name": ids}))
    stimuli.stimulus_paths, stimuli.identifier = dict(zip(ids, IMAGES)), "thirty"
    assembly = NeuroidAssembly(
        np.random.default_rng(0).normal(size=(30, 9))[:, :, None],
        coords={
            "stimulus_id": ("presentation", ids),
            "object_name": ("presentation", ids),
            "neuroid_id": ("neuroid", list(range(9))),
            "region": ("neuroid", ["IT"] * 9),
            "time_bin_start": ("time_bin", [70]),
            "time_bin_end": ("time_bin", [170]),
        },
        dims=["presentation", "neuroid", "time_bin"],
    ).squeeze("time_bin")
    assembly.attrs.update(stimulus_set=stimuli, stimulus_set_identifier="thirty")
    return NeuralBenchmark(
        identifier="Thirty2026.IT-rdm", version=1, assembly=assembly, similarity_metric=load_metric("rdm"),
        visual_degrees=8, number_of_trials=1, ceiling_func=lambda: Score(1.0), parent="IT",
    )


benchmark_registry['Thirty2026.IT-rdm'] = make
"""

#: What a user runs, and the plug-in's own test; the last line is what we read.
SCORE = """
import json, sys
import pytest
from brainscore_vision import score
found = score(model_identifier=sys.argv[1], benchmark_identifier="Thirty2026.IT-rdm")
code = pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[2] + "/test.py"])
print(json.dumps({"raw": float(found.raw), "model": found.attrs["model_identifier"], "test": int(code)}))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("thirty") / "images", np.random.default_rng(5)
    folder.mkdir()
    for number in range(30):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def overlay(folder: Path) -> Path:
    """A brainscore_vision of links, so that plug-ins can be put into it without touching the installed one."""
    installed = Path(find_spec("brainscore_vision").origin).parent
    own = folder / "brainscore_vision"
    for kind in ("models", "benchmarks"):
        (own / kind).mkdir(parents=True)
        (own / kind / "__init__.py").symlink_to(installed / kind / "__init__.py")
    for path in installed.iterdir():
        if path.name not in ("models", "benchmarks", "__pycache__"):
            (own / path.name).symlink_to(path)
    return own


def run(code: str, *arguments: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    switches = {
        "BS_INSTALL_DEPENDENCIES": "no", "RESULTCACHING_DISABLE": "1", "BRAINSCORE_SKIP_MEMORY_CHECK": "1",
        "BRAINSCORE_HOME": str(cwd), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]),
    }  # fmt: skip
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=os.environ | switches, cwd=cwd, capture_output=True, text=True)


def our_score(checkpoint: Path, images: Path) -> float:
    """Our forward pass, our RDM, our Spearman correlation."""
    import torch

    from brain_eval.activations.models import load_model
    from brain_eval.metrics.similarity import compare, correlation_rdm

    model = load_model(str(checkpoint))
    pixels = [np.asarray(Image.open(path)) for path in sorted(images.glob("*.png"))]
    with torch.inference_mode():
        features = model.preprocessing(pixels)
        for name, stage in model.layers.items():
            features = stage(features)
            if name == "conv2":
                break
    recorded = np.random.default_rng(0).normal(size=(30, 9))
    return compare(correlation_rdm(features.flatten(1).numpy()), correlation_rdm(recorded), "spearman")


@pytest.mark.slow
def test_brainscore_vision_scores_the_plug_in_as_we_do(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    own = overlay(tmp_path / "overlay")
    (own / "benchmarks/thirty2026").mkdir()
    (own / "benchmarks/thirty2026/__init__.py").write_text(BENCHMARK)
    (own / "benchmarks/thirty2026/images").symlink_to(images)
    options = ["--out", str(tmp_path / "out"), "--region", "IT=conv2"]
    written = CliRunner().invoke(app, ["brainscore-model", str(checkpoint), *options])
    assert written.exit_code == 0, written.output
    identifier = written.stdout.splitlines()[0]
    folder = tmp_path / "out" / identifier.replace("-", "_")
    assert str(folder) in written.stdout
    assert f"model_identifier='{identifier}'" in written.stdout
    (own / "models" / folder.name).symlink_to(folder)
    scored = run(SCORE, identifier, str(folder), path=tmp_path / "overlay", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    found = json.loads(scored.stdout.splitlines()[-1])
    assert found["model"] == identifier
    assert found["test"] == 0, scored.stdout
    ours = our_score(checkpoint, images)
    assert abs(ours) > 1e-3
    assert found["raw"] == pytest.approx(ours, abs=1e-6)


def test_without_a_folder_the_plug_in_is_written_to_plugins(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint.resolve()
    monkeypatch.chdir(tmp_path)
    written = CliRunner().invoke(app, ["brainscore-model", str(source), "--region", "IT=conv2"])
    assert written.exit_code == 0, written.output
    identifier = written.stdout.splitlines()[0]
    assert (tmp_path / "plugins" / identifier.replace("-", "_") / "network.pt").is_file()


def test_the_folder_holds_no_place_of_this_machine(checkpoint: Path, tmp_path: Path) -> None:
    identifier, folder = write_plugin(checkpoint, tmp_path, layers="conv1,conv2", region_layer_map={"V1": "conv2"})
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    table = f"region_layer_map/{identifier}.json"
    assert names == ["__init__.py", "expected.json", "model.py", "network.pt", table, "test.py"]
    assert (folder / "network.pt").read_bytes() == checkpoint.read_bytes()
    regions = json.loads((folder / table).read_text())
    assert regions == {"V1": "conv2", "V2": "conv1", "V4": "conv1", "IT": "conv1"}
    for name in names:
        content = (folder / name).read_bytes()
        assert str(tmp_path).encode() not in content
        assert str(checkpoint.parent).encode() not in content
    # Brain-Score looks for this very text.
    assert f"model_registry['{identifier}']" in (folder / "__init__.py").read_text()
    assert re.fullmatch("[A-Za-z0-9_-]+", identifier)
    assert set(json.loads((folder / "expected.json").read_text())) == {"conv1", "conv2"}


def test_only_a_trained_network_becomes_a_plug_in(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such network"):
        write_plugin(Path("no/network.pt"), tmp_path)
    (tmp_path / "network.pt").write_bytes(b"foreign")
    with pytest.raises(UserError, match="truncated, or not a file of torch"):
        write_plugin(tmp_path / "network.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plug_in_names_the_users_code_itself(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """network.pt alone chooses no code: model.py names the function that the command line named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net_of_plugin.py").write_text("from nmnc.networks.convnet import convnet as net\n")
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["network"]["kind"] = "net_of_plugin:net"
    torch.save(content, tmp_path / "network.pt")
    with pytest.raises(UserError, match="asks to run the code net_of_plugin:net, which no file may choose"):
        write_plugin(tmp_path / "network.pt", tmp_path / "out")
    options = ["--out", "out", "--network", "net_of_plugin:net"]
    written = CliRunner().invoke(app, ["brainscore-model", "network.pt", *options])
    assert written.exit_code == 0, written.output
    folder = tmp_path / "out" / written.stdout.splitlines()[0].replace("-", "_")
    code = (folder / "model.py").read_text()
    assert "KIND = 'net_of_plugin:net'" in code
    namespace: dict[str, Any] = {"__file__": str(folder / "model.py")}
    exec(compile(code, "model.py", "exec"), namespace)
    assert namespace["get_model"]().identifier == written.stdout.splitlines()[0]
