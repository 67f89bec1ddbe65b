"""What is recorded is what a layer gives to an image, whatever else is shown; anything else is one line."""

import json
import random
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
from brain_eval.activations.extraction import Settings, extract
from brain_eval.activations.layer_outputs import Computation
from brain_eval.activations.layer_probe import probe
from brain_eval.activations.models import Model
from brain_eval.activations.preprocessing import Preprocessing
from brain_eval.activations.reductions.reduction import Reduction
from brain_eval.benchmarks.base import Benchmark, Description, stimuli_in_memory
from nmnc.errors import UserError

N, SIZE = 21, 16
SEEN = Preprocessing(SIZE, 3, (0.5,) * 3, (0.25,) * 3)


class Net(nn.Module):
    """conv -> `between` (the case) -> fc; `stage` is called on what `between` gives."""

    def __init__(self, between: Callable[..., Any] | str = lambda net, x: x, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.between = between
        self.conv, self.stage = nn.Conv2d(3, width, 3, stride=2), nn.Identity()
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stage(self.between(self, self.conv(x)))
        return self.fc(x.mean((2, 3)))


def model_of(module: Any, layers: str) -> Model:
    chosen = named_layers(module.eval(), layers, "net", {})
    return Model("net", module, chosen.layers, SEEN, "weights", "code", chosen.steps)


@pytest.fixture
def toy() -> Benchmark:
    rng = np.random.default_rng(0)
    # Ever brighter, so that no two images or batches are alike.
    images = (rng.random((N, SIZE, SIZE, 3)) * np.linspace(90, 256, N)[:, None, None, None]).astype(np.uint8)
    return Benchmark(
        Description("toy", 1, (), (), "", ""), stimuli_in_memory("toy", [f"s{i:02}" for i in range(N)], images)
    )


def extracted(model: Model, toy: Benchmark, out: Path, batch_size: int = 5, **settings: Any) -> Any:
    extract(model, [toy], out, settings=Settings(**settings), batch_size=batch_size, device="cpu")
    with xr.open_dataset(out / "toy.nc") as dataset:
        return dataset["activations"].load()


def images_of(toy: Benchmark) -> torch.Tensor:
    return SEEN(toy.stimulus_set.read(np.arange(N)))


def refused(model: Model, toy: Benchmark, out: Path, message: str, **options: Any) -> None:
    with pytest.raises(UserError, match=message) as error:
        extracted(model, toy, out, **options)
    assert "\n" not in str(error.value)
    assert not list(out.glob("*"))
    assert all(not part._forward_hooks for part in model.module.modules())


def once_more(net: Any, x: Any) -> Any:
    """A memory beside the state dict."""
    net.memory = x.mean().item() + getattr(net, "memory", 0.0)
    return x + 0.01 * net.memory


def seeded_dropout(net: Any, x: Any) -> Any:
    torch.manual_seed(0)
    return F.dropout(x)


def flips(net: Any, x: Any) -> Any:
    net.norm.train()
    x = net.norm(x)
    net.norm.eval()
    return x


UNREPEATABLE = {
    "functional dropout": lambda net, x: F.dropout(x, 0.5),
    "dropout from a fixed seed": seeded_dropout,
    "statistics of the batch": lambda net, x: F.batch_norm(x, None, None, training=True),
    "mean of the batch": lambda net, x: x - x.mean(0),
    "a softmax over the batch": lambda net, x: x.softmax(0),
    "images in another order": lambda net, x: x[torch.randperm(len(x))],
    "the place in the batch": lambda net, x: x + torch.arange(len(x)).view(-1, 1, 1, 1),
    "the size of the batch": lambda net, x: x * len(x),
    "torch's noise": lambda net, x: x + 0.01 * torch.randn_like(x),
    "python's noise": lambda net, x: x + random.random(),
    "numpy's noise": lambda net, x: x + np.random.random(),  # noqa: NPY002
    "a memory": once_more,
    "batch norm that trains itself": flips,
}


@pytest.mark.parametrize("case", UNREPEATABLE)
def test_values_that_do_not_come_again_are_refused(case: str, toy: Benchmark, tmp_path: Path) -> None:
    for batch_size in [1, 5, 64]:
        model = model_of(Net(UNREPEATABLE[case]), "conv,stage,fc")
        refused(
            model, toy, tmp_path,
            "(two passes over the same images differ in layer '(stage|fc)'.*'s|fails in the batch that begins|"
            "changes its weights or buffers)",
            batch_size=batch_size,
        )  # fmt: skip


class Counting(Net):
    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.zeros(1), persistent)

    def forward(self, x: torch.Tensor) -> Any:
        self.seen += len(x)
        return super().forward(x)


def test_a_buffer_of_the_weights_that_changes_is_refused(toy: Benchmark, tmp_path: Path) -> None:
    refused(model_of(Counting(True), "conv"), toy, tmp_path, r"changes its weights or buffers \(first 'seen'\)")
    assert extracted(model_of(Counting(False), "conv"), toy, tmp_path).shape[0] == N  # and nothing depends on it


class Training(Net):
    def train(self, mode: bool = True) -> "Training":
        return super().train(True)


def switched_on(net: Any, x: Any) -> Any:
    net.drop.train()
    return x


@pytest.mark.parametrize(("module", "where"), [(Training(), "the network"), (Net(switched_on), "module 'drop'")])
def test_a_module_in_training_mode_is_refused(
    module: Net | Training, where: str, toy: Benchmark, tmp_path: Path
) -> None:
    refused(model_of(module, "conv"), toy, tmp_path, f"{where} .* is in training mode although eval")


class Skipping(Net):
    """`stage` runs on some batches only; which ones, `run` says."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: torch.Tensor) -> Any:
        h = self.conv(x)
        for _ in range(self.run(x)):
            h = self.stage(h)
        return self.fc(h.mean((2, 3)))


@pytest.mark.parametrize("times", [0, 2])
def test_a_layer_that_runs_on_some_batches_only_is_refused_with_the_first_stimulus(
    times: int, toy: Benchmark, tmp_path: Path
) -> None:
    bright = images_of(toy)[15].mean()
    module = Skipping(lambda x: 1 if x.mean() < bright or len(x) < 5 else times)
    refused(
        model_of(module, "conv,stage"), toy, tmp_path,
        f"layer 'stage' is called {times} times in the batch that begins with stimulus 's(15|20)' of toy",
    )  # fmt: skip


FORMS = {
    "some of the images": lambda net, x: x[x.flatten(1).mean(1) < net.bright],
    "some of the places": lambda net, x: x if x.mean() < net.bright else x[..., :3],
    "another type": lambda net, x: x if x.mean() < net.bright else x.double(),
    "no tensor": lambda net, x: x if x.mean() < net.bright else (x, x),
}


class Forms(Net):
    def forward(self, x: torch.Tensor) -> Any:
        self.stage(FORMS[self.between](self, x))
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_depends_on_the_image_is_refused(form: str, toy: Benchmark, tmp_path: Path) -> None:
    module = Forms(form)
    module.bright = 1e9  # so that the probe sees nothing of it
    model = model_of(module, "conv,stage")
    probe(model, Computation(torch.device("cpu")))
    module.bright = images_of(toy)[12].mean()
    refused(model, toy, tmp_path, r"layer 'stage' (gives|is called)", batch_size=4)


def test_a_network_that_fails_on_an_image_names_the_batch(toy: Benchmark, tmp_path: Path) -> None:
    def fail(net: Any, x: Any) -> Any:
        if x.mean() > net.bright:
            raise SystemExit(0)
        return x

    module = Net(fail)
    module.bright = 1e9
    model = model_of(module, "conv")
    with torch.no_grad():
        module.bright = module.conv(images_of(toy)).flatten(1).mean(1).sort().values[-3]
    refused(model, toy, tmp_path, "net: fails (in the batch that begins with stimulus 's|on images as)", batch_size=1)


class Caching(Net):
    """What a first pass leaves behind and later ones do not change: a table, a module's own scratch memory."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(0))
        self.register_buffer("membrane", torch.zeros(0), persistent=False)

    def forward(self, x: torch.Tensor) -> Any:
        if not len(self.table):
            self.table = torch.ones(1)
        self.membrane = torch.zeros(len(x))
        x.mul_(self.table)  # in place, on what it is given
        x = self.norm(self.conv(x))
        return self.fc(F.relu_(self.stage(x.view_as(x))).mean((2, 3)))


RIGHT = {
    "plain": Net(),
    "caches": Caching(),
    "instance norm": Net(lambda net, x: F.instance_norm(x)),
    "chance that is switched off": Net(lambda net, x: net.norm(net.drop(x))),
    "a wrapper": nn.DataParallel(Net()),
}


@pytest.mark.parametrize("case", RIGHT)
def test_networks_that_are_right_are_recorded(case: str, toy: Benchmark, tmp_path: Path) -> None:
    for batch_size in [1, 3, 64]:
        module = RIGHT[case]
        inner = "module." if case == "a wrapper" else ""
        values = extracted(
            model_of(module, f"{inner}conv,{inner}stage,{inner}fc"), toy, tmp_path / str(batch_size), batch_size
        )
        given: dict[str, torch.Tensor] = {}
        own = module.get_submodule(inner[:-1])
        hooks = [
            getattr(own, name).register_forward_hook(
                lambda _, __, output, name=name, given=given: given.update({name: output.clone()})
            )
            for name in ("conv", "stage", "fc")
        ]
        with torch.no_grad():
            module(images_of(toy))
        for hook in hooks:
            hook.remove()
        for name, expected in given.items():
            part = values[:, values.layer.values == inner + name].values
            np.testing.assert_allclose(part, expected.flatten(1).numpy(), rtol=1e-4, atol=1e-5)


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
    with pytest.raises(UserError, match="--channel-axis middle: unknown; use first or last"):
        Settings(channel_axis="middle")
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
    with pytest.raises(UserError, match=r"a pass calls none of its submodules \(conv, fc\): hooks see a module only"):
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
