"""Reference models and benchmark folders are refused before anything is trained."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
import yaml
from PIL import Image

from brain_eval.activations.reductions.reduction import Reduction
from brain_eval.check import check_all, read_model
from nmnc.errors import UserError
from tests.places import ROOT
from tests.sections import kept, scoring

SEEN = {"image_size": 8, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
CODE = """
from torch import nn

def small(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Flatten(), nn.Linear(width * 36, 5))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a network, its weights in the data folder, and a benchmark folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net_to_check.py").write_text(CODE)
    monkeypatch.delitem(sys.modules, "net_to_check", raising=False)
    (tmp_path / "data").mkdir()
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
    torch.save(network.state_dict(), tmp_path / "data" / "weights.pt")
    write_benchmark(tmp_path / "mine")
    return tmp_path


def write_benchmark(folder: Path) -> None:
    (folder / "stimuli").mkdir(parents=True)
    about = {"name": "mine", "species": "macaque", "region": "V4", "citation": "Me (2026)", "licence": "CC0"}
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(about))
    lines = ["stimulus_id,filename,degrees"]
    rng = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / f"stimuli/{name}.png")
        lines.append(f"{name},{name}.png,8")
    (folder / "stimuli.csv").write_text("\n".join(lines) + "\n")
    values = xarray.Dataset(
        {"responses": (("neuroid", "presentation"), rng.normal(size=(6, 4)))},
        {"stimulus_id": ("presentation", list("abcd"))},
    )
    values.to_netcdf(folder / "responses.nc")


def spec(**changes: Any) -> str:
    given = {"name": "mine", "network": "net_to_check:small", "weights": "weights.pt", "preprocessing": SEEN}
    return json.dumps(given | {"layers": ["0", "2"]} | changes)


def check(models: list[str], benchmarks: list[str], data: Path = Path("data"), **options: Any) -> None:
    """As the command of the same name."""
    check_all(dict(map(read_model, models)), benchmarks, data, scoring(), kept(**options))


@pytest.mark.usefixtures("folder")
def test_all_is_well_and_nothing_is_downloaded() -> None:
    check([spec(), spec(name="two", weights=None, arguments={"width": 2})], ["mine=mine", "kriegeskorte2008"])
    assert [path.name for path in Path("data").iterdir()] == ["weights.pt"]


SPATIAL = Reduction("spatial_mean")
NETWORKS = """
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv, self.map, self.fc = kind, nn.Conv2d(3, 4, 2, 2), nn.Identity(), nn.Linear(4, 5)

    def forward(self, x):
        assert self.kind != "fixed" or x.shape[-1] == 8
        x = self.conv(F.dropout(x) if self.kind == "dropout" else x)
        if self.kind == "full" and len(x) > 6:  # only where images of the study are shown beside the noise
            return x
        return self.fc(self.map(x.permute(0, 2, 3, 1)).mean((1, 2)))

def net(kind):
    return Net(kind)
"""


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("dropout", {}, "two passes over the same images differ in layer 'conv'"),
        ("full", {}, "layer 'map' is called 0 times in a"),
        ("fixed", {}, None),
        ("fixed", {"reduction": SPATIAL}, r"layer 'map' gives \(4, 4, 4\) .*set --channel-axis"),
        ("fixed", {"reduction": SPATIAL, "channel_axis": "last"}, None),
        ("right", {"reduction": SPATIAL}, None),
    ],
)
def test_models_are_shown_noise_and_images_of_the_study(
    kind: str, options: dict[str, Any], message: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "nets_to_check.py").write_text(NETWORKS)
    monkeypatch.delitem(sys.modules, "nets_to_check", raising=False)
    own = spec(network="nets_to_check:net", arguments={"kind": kind}, weights=None, layers=["conv", "map"])
    if message is None:
        check([own], ["mine=mine"], **options)
        return
    with pytest.raises(UserError, match=message) as caught:
        check([own], ["mine=mine"], **options)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "net_to_check:smal"}, "has no function 'smal'; did you mean 'small'"),
        ({"network": "no_such_module:small"}, "importing no_such_module failed"),
        ({"network": "network.pt", "weights": None}, r"network\.pt: no such file"),
        ({"weights": "none.pt"}, r"data/none\.pt: no such weights"),
        ({"arguments": {"width": 5}}, "weights do not fit"),
        ({"arguments": {"depth": 5}}, "'depth'"),
        ({"layers": ["7"]}, "no layer '7'"),
        ({"preprocessing": SEEN | {"image_size": 9}}, "fails on images as 9x9"),
    ],
)
def test_a_wrong_model_is_named_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check([spec(**changes)], [])
    assert str(caught.value).startswith("model mine: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["os:mkdir", "net_to_check:small"])
def test_a_network_file_never_chooses_code(kind: str, folder: Path) -> None:
    recipe = {"kind": kind, "image_shape": [3, 8, 8], "classes": 5, "arguments": {}}
    content = {"format": 1, "config": {"network": recipe, "preprocessing": SEEN}, "state_dict": {}}
    torch.save(content, folder / "network.pt")
    (folder / "net_to_check.py").write_text("open('bitten', 'w')")
    with pytest.raises(UserError, match=rf"model mine: network\.pt: asks to run the code {kind}, which no file may"):
        check([spec(network="network.pt", weights=None, layers=[])], [])
    with pytest.raises(UserError, match=rf"asks to run the code {kind}, which no file may choose"):
        check([spec(network="network.pt", kind="mine:net", weights=None, layers=[])], [])
    assert not Path("bitten").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "--model-spec: not JSON"),
        ("{}", "--model-spec: network: missing; add it; its keys are name, network"),
        ('{"network": "a:b", "layer": []}', "--model-spec: layer: unknown key; did you mean 'layers'"),
        ('{"network": "a:b", "layers": "fc"}', "--model-spec: layers: "),
        ('{"network": "a:b"}', "preprocessing is missing; set image_size"),
        ('{"network": "a:b", "preprocessing": {"image_size": 9}}', "preprocessing.mean: missing; add it"),
    ],
)
def test_a_wrong_description_of_a_model_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check([text], [])
    assert "\n" not in str(caught.value)


def test_a_wrong_benchmark_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'kriegeskorte2008'"):
        check([], ["kriegeskorte"], folder)
    (folder / "mine/stimuli/b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"b\.png \(stimulus_id 'b'\) cannot be read as an image"):
        check([], ["mine=mine"], folder)
    (folder / "mine/stimuli/b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png of stimulus_id 'b' does not exist"):
        check([], ["mine=mine"], folder)


def test_the_command_ends_with_status_2_and_one_line(folder: Path) -> None:
    command = [sys.executable, "-m", "brain_eval", "check", "--model-spec", spec(layers=["7"]), "--data", "data"]
    run = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": ""}
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == "brain_eval: model mine: net_to_check:small: no layer '7'; known: 0, 1, 2\n"
