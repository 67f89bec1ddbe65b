"""Networks' activations of a few toy images, recorded or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from brain_eval.activations.chosen_layers import named_layers
from brain_eval.activations.extraction import extract
from brain_eval.activations.models import Model
from brain_eval.activations.preprocessing import Preprocessing
from brain_eval.benchmarks.base import Benchmark
from nmnc.errors import UserError
from tests.sections import kept

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


def extracted(model: Model, toy: Benchmark, out: Path, batch_size: int = 5, **settings: Any) -> Any:
    extract(model, [toy], out, settings=kept(**settings), batch_size=batch_size, device="cpu")
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
