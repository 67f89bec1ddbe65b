"""Networks of the user's own: what local rules cannot work with is refused, and edited code trains anew."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmnc.config import Study, study_from
from nmnc.errors import UserError
from nmnc.modules import module_files
from nmnc.training.checkpoint import load_network, weights_sha256
from nmnc.training.job import train_job

CODE = """
from torch import nn
from torch.nn import functional as F

class Chance(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, self.training)

def network(image_shape, classes, first=None):
    stages = [nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.{activation}())]
    stages += [nn.Sequential(*([Chance()] if first == "chance" else [nn.ReLU(inplace=True)] if first else []),
                             nn.Linear(12, 10), nn.ReLU())]
    return nn.Sequential(*stages, nn.Linear(10, classes))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 4
    images = rng.integers(256, size=(120, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images[:40], y_test=labels[:40])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(folder: Path, name: str, activation: str) -> None:
    (folder / f"{name}.py").write_text(CODE.replace("{activation}", activation))
    importlib.invalidate_caches()


def train(name: str, rule: str, **arguments: Any) -> str:
    study = study_from(
        {
            "study": "own",
            "device": "cpu",
            "dataset": {"name": "own.npz"},
            "networks": {"net": {"kind": f"{name}:network", "arguments": arguments}},
            "rules": {rule: {"kind": rule}},
            "training": {"epochs": 1, "batch_size": 20},
            "noise": {"dimensions": 4, "images": 4, "basis_images": 40},
        },
        "own.yaml",
        Study,
    )
    folder = train_job(study, "net", rule, 0, None, 0)
    return weights_sha256(load_network(folder / "network.pt", [f"{name}:network"])[0])


def test_edited_code_is_trained_anew_and_the_same_code_is_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "edited_network", "ReLU")
    first = train("edited_network", "nmnc")
    assert train("edited_network", "nmnc") == first
    write(folder, "edited_network", "Tanh")
    monkeypatch.delitem(sys.modules, "edited_network")
    assert train("edited_network", "nmnc") != first
    assert len(list((folder / "results/own/.checkpoints").iterdir())) == 2


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("chance", "two passes through the stage .* differ without noise: it draws random numbers"),
        ("inplace", "in place; use inplace"),
    ],
)
def test_stages_that_cannot_be_worked_with_are_refused(folder: Path, first: str, words: str) -> None:
    write(folder, f"network_{first}", "ReLU")
    with pytest.raises(UserError, match=words):
        train(f"network_{first}", "vnc", first=first)


def test_backprop_does_not_mind_chance(folder: Path) -> None:
    write(folder, "network_by_backprop", "ReLU")
    assert train("network_by_backprop", "backprop", first="chance")


def test_the_file_behind_a_function_is_found(folder: Path) -> None:
    write(folder, "found_network", "ReLU")
    (found,) = module_files("found_network:network")
    assert found.samefile(folder / "found_network.py")
    assert module_files("convnet") == module_files("torchvision:resnet18") == module_files("nowhere:network") == []


def test_seeds_of_torch_are_left_as_they_were_by_the_check(folder: Path) -> None:
    write(folder, "seeded_network", "ReLU")
    one = train("seeded_network", "vnc")
    torch.manual_seed(5)
    assert train("seeded_network", "vnc") == one
