"""What is recorded is what a layer gives to an image, whatever else is shown; anything else is one line."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brain_eval.activations.layer_outputs import Computation
from brain_eval.activations.layer_probe import probe
from brain_eval.benchmarks.base import Benchmark
from tests.brain_eval.activations.recorded import N, Net, extracted, images_of, model_of, refused


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
    module.bright = torch.tensor(1e9)  # so that the probe sees nothing of it
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
    module.bright = torch.tensor(1e9)
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
