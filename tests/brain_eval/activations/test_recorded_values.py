"""What a layer may give: several calls, other floats, tokens, maps of any form; anything else is refused by name."""

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

from brain_eval.activations.chosen_layers import default_layers, named_layers
from brain_eval.activations.layer_outputs import Computation
from brain_eval.activations.layer_probe import probe
from brain_eval.activations.models import Model
from brain_eval.activations.reductions.reduction import Reduction
from brain_eval.benchmarks.base import Benchmark
from nmnc.errors import UserError
from tests.brain_eval.activations.recorded import SEEN, SIZE, Net, extracted, images_of, model_of, refused


class Several(nn.Module):
    """`output` is called at each of three steps; `same` is `output` by another name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.output = nn.Conv2d(3, 3, 3, padding=1), nn.Tanh()
        self.same = self.output

    def forward(self, x: torch.Tensor) -> Any:
        for _ in range(3):
            x = self.output(self.conv(x) + x)
        return x


def test_a_chosen_call_is_recorded(toy: Benchmark, tmp_path: Path) -> None:
    module = Several()
    values = extracted(model_of(module, "output@0,output@2,output@-1,same@1"), toy, tmp_path)
    steps, x = [], images_of(toy)
    with torch.no_grad():
        for _ in range(3):
            x = torch.tanh(module.conv(x) + x)
            steps.append(x.flatten(1).numpy())
    for layer, step in {"output@0": 0, "output@2": 2, "output@-1": 2, "same@1": 1}.items():
        np.testing.assert_allclose(values[:, values.layer.values == layer].values, steps[step], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("output", r"layer 'output' is called 3 times in a pass; choose .* output@0 \(the first\) or output@-1"),
        ("output@3", "called 3 times in a pass; choose a step from 0 to 2"),
        ("output@-4", "called 3 times in a pass; choose a step from 0 to 2"),
        ("output@last", "STEP must be a whole number, such as output@0"),
        ("outptu@0", "no layer 'outptu'; did you mean 'output'"),
    ],
)
def test_a_call_that_does_not_come_is_refused(layers: str, message: str, toy: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        extracted(model_of(Several(), layers), toy, tmp_path)


class Kind(torch.Tensor):
    """A subclass."""


@dataclass
class Result:
    logits: torch.Tensor


KINDS = {
    "complex64": lambda x: torch.complex(x, x),
    "int64": lambda x: x.long(),
    "bool": lambda x: x > 0,
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "sparse_coo": lambda x: x.to_sparse(),
    "nested": lambda x: torch.nested.nested_tensor(list(x.flatten(2))),
    "meta": lambda x: x.to("meta"),
    "Kind": lambda x: x.as_subclass(Kind),
    "a list": lambda x: [x],
    "a OrderedDict": lambda x: OrderedDict(out=x),
    "a Result": lambda x: Result(x),
    "a NoneType": lambda x: None,
}


class Giving(nn.Module):
    """`odd` contains `inside`, which is called once and gives a tensor."""

    def __init__(self, kind: Callable[..., Any]) -> None:
        super().__init__()
        self.kind, self.inside = kind, nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.kind(self.inside(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_dense_tensor_of_floats_is_refused_by_name(kind: str, toy: Benchmark, tmp_path: Path) -> None:
    module = nn.Sequential(OrderedDict(odd=Giving(KINDS[kind])))
    refused(model_of(module, "odd"), toy, tmp_path, f"layer 'odd' gives .*{kind}.*such as odd.inside, or after it")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_are_converted_and_said_so(
    dtype: Any, toy: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Net(lambda net, x: x.to(dtype))
    module.fc.to(dtype)
    values = extracted(model_of(module, "conv,stage"), toy, tmp_path)
    assert values.dtype == np.float32
    with xr.open_dataset(tmp_path / "toy.nc") as dataset:
        assert json.loads(dataset.attrs["converted_to_float32"]) == {"stage": str(dtype).removeprefix("torch.")}
    assert "note: net: converted to float32: stage (" in capsys.readouterr().err
    with torch.no_grad():
        expected = module.conv(images_of(toy)).to(dtype).float().flatten(1).numpy()
    part = values[:, values.layer.values == "stage"].values
    np.testing.assert_allclose(part, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


class Tokens(nn.Module):
    """As many tokens as images in the probe, or of any number, first; blocks that see them."""

    def __init__(self, tokens: int, batch_axis: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.batch_axis = tokens, batch_axis
        self.patch, self.block, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.patch(x).flatten(2).permute(2, 0, 1)[: self.tokens]
        return self.fc(self.block(x.transpose(0, 1) if self.batch_axis == 0 else x).mean(self.batch_axis - 1))


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 7])
def test_tokens_before_images_are_never_taken_for_images(tokens: int, toy: Benchmark, tmp_path: Path) -> None:
    for batch_size in [2, 3, 8]:
        refused(model_of(Tokens(tokens), "block"), toy, tmp_path, "layer 'block' gives", batch_size=batch_size)


def test_tokens_before_images_are_named(toy: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images lie along axis 1, counted from 0: \(token, image, channel\)"):
        extracted(model_of(Tokens(7), "block"), toy, tmp_path)


class Maps(nn.Module):
    """Maps in one form or the other, which may be known by images of another size."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form, self.patch = form, nn.Conv2d(3, 6, 4, 4)
        self.place = nn.Parameter(torch.zeros(4, 4, 6))
        self.map, self.fc = nn.Identity(), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> Any:
        if self.form == "refuses":
            assert x.shape[-1] == SIZE
        x = self.patch(x)
        if self.form == "pooled":
            return self.fc(F.adaptive_avg_pool2d(self.map(F.adaptive_avg_pool2d(x, 3)), 1).flatten(1))
        if self.form == "first":
            return self.fc(self.map(x).mean((2, 3)))
        x = x.permute(0, 2, 3, 1)
        if self.form == "last":
            return self.fc(self.map(x).mean((1, 2)))
        if self.form == "tokens":
            return self.fc(self.map(x.flatten(1, 2)).mean(1))
        return self.fc(self.map(x + self.place).mean((1, 2)))


MAP_AXES = {"first": 0, "last": 2, "pooled": 0, "tokens": 1, "fixed": None, "refuses": None}


@pytest.mark.parametrize("form", MAP_AXES)
def test_the_channel_axis_is_found_where_images_of_another_size_show_it(form: str) -> None:
    found = probe(model_of(Maps(form), "patch,map,fc"), Computation(torch.device("cpu"))).outputs
    assert found["patch"].channel_axis == 0  # a convolution, even where nothing else runs
    assert found["map"].channel_axis == MAP_AXES[form]
    assert found["fc"].channel_axis == 0


@pytest.mark.parametrize("form", ["first", "last", "pooled", "fixed"])
def test_means_over_places_and_coordinates_are_right_in_any_form(form: str, toy: Benchmark, tmp_path: Path) -> None:
    module, option = Maps(form), {"channel_axis": "last"} if form == "fixed" else {}
    model = model_of(module, "map")
    means = extracted(model, toy, tmp_path / "means", reduction=Reduction("spatial_mean"), **option)
    whole = extracted(model, toy, tmp_path / "whole", **option)
    with torch.no_grad():
        maps = module.patch(images_of(toy))
        maps = F.adaptive_avg_pool2d(maps, 3) if form == "pooled" else maps
    np.testing.assert_allclose(means.values, maps.mean((2, 3)).numpy(), rtol=1e-4, atol=1e-5)
    places = (whole[name].values for name in ("channel", "channel_x", "channel_y"))
    np.testing.assert_allclose(whole.values, maps.numpy()[(slice(None), *places)], rtol=1e-4, atol=1e-5)


def test_an_unknown_channel_axis_is_asked_for_and_part_of_the_address(toy: Benchmark, tmp_path: Path) -> None:
    model, mean = model_of(Maps("fixed"), "patch,map"), {"reduction": Reduction("spatial_mean")}
    refused(model, toy, tmp_path, r"net: layer 'map' gives \(4, 4, 6\) .*set --channel-axis", **mean)
    last = extracted(model, toy, tmp_path, **mean, channel_axis="last")
    first = extracted(model, toy, tmp_path, **mean, channel_axis="first")
    assert (last.shape[1], first.shape[1]) == (6 + 6, 6 + 4)
    assert extracted(model, toy, tmp_path).shape[1] == 2 * 96
    with xr.open_dataset(tmp_path / "toy.nc") as dataset:
        assert json.loads(dataset.attrs["channel_axis"]) == {"map": "unknown: coordinates follow the order of the axes"}


class Blocks(nn.Module):
    """Containers that are never called, a head that does not run, a part that is called by .forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.aux = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Linear(4, 2))
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 3), nn.ModuleDict({"a": nn.Tanh(), "unused": nn.Tanh()})])
        self.direct = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.blocks[1]["a"](self.blocks[0](self.stem(x)))
        return self.head(self.direct.forward(x).mean((2, 3)))


def test_default_layers_are_the_children_that_run(toy: Benchmark, tmp_path: Path) -> None:
    module = Blocks().eval()
    chosen = default_layers(module, "net", SEEN)
    assert list(chosen.layers) == ["stem", "blocks.0", "blocks.1.a", "direct.0", "direct.1", "head"]
    assert chosen.note == "net: not recorded, since no image runs through them: aux"
    extracted(Model("net", module, chosen.layers, SEEN, "w", "c"), toy, tmp_path)
    with pytest.raises(
        UserError, match=r"a pass calls none of its submodules \(conv, fc\), and hooks do not see calls"
    ):
        default_layers(Direct(), "net", SEEN)


class Direct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc.forward(self.conv.forward(x).mean((2, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["scripted", "traced", "inside"])
def test_torchscript_is_refused_by_name(how: str) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    script = torch.jit.trace(plain, torch.zeros(1, 3, 8, 8)) if how == "traced" else torch.jit.script(plain)
    choose = default_layers if how == "inside" else lambda *_: named_layers(nn.Sequential(script), "0.0", "net", {})
    with pytest.raises(UserError, match=r"a TorchScript module has no hooks.*load the Python network"):
        choose(nn.Sequential(script), "net", SEEN)
