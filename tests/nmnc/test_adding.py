"""A rule, a network and a data set are each added by one new file and one line in a registry, and run as ours do."""

import csv
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from nmnc import __main__ as command_line
from nmnc.data.sources import SOURCES, Source
from nmnc.errors import UserError
from nmnc.networks import NETWORKS
from nmnc.rule_kinds import RULES, RuleKind

RULE = '''
"""Sends each stage the error through the signs of a fixed random matrix, times `strength`."""

import torch

from nmnc.rules.base import Rule
from nmnc.settings import Noise


class MySettings(Noise):
    strength: float = 1.0


class SignedRandom(Rule):
    local = True

    def start(self, outputs):
        draw = lambda size: torch.randn(self.classes, size, generator=self.generator, device=self.device)
        self.matrices = [draw(size).sign() * self.noise.strength / size for size in self.sizes]

    def signals(self, error):
        return [error @ matrix for matrix in self.matrices]

    def state_dict(self):
        return super().state_dict() | {"matrices": self.matrices}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.matrices = state["matrices"]
'''
NETWORK = '''
"""One hidden stage of tanh units."""

from torch import nn

from nmnc.networks.network import Network


def small(image_shape, classes, *, units: int = 5):
    first = nn.Sequential(nn.Flatten(), nn.LazyLinear(units), nn.Tanh())
    first(__import__("torch").zeros(2, *image_shape))
    return Network([("hidden", first), ("logits", nn.Linear(units, classes))])
'''
DATA = '''
"""Bars: a bright row in one of four places."""

import numpy as np


def bars(folder):
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 4
    images = rng.integers(0, 60, (64, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels):
        image[2 * label] += 180
    return {"x_train": images[:48], "y_train": labels[:48], "x_test": images[48:], "y_test": labels[48:]}
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with one file for each, and one line in each registry."""
    package = tmp_path / "added_by_test"
    package.mkdir()
    for name, code in {"__init__": "", "signed_random": RULE, "small_network": NETWORK, "bars": DATA}.items():
        (package / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    bars, small, settings = (
        getattr(import_module(f"added_by_test.{module}"), name)
        for module, name in (("bars", "bars"), ("small_network", "small"), ("signed_random", "MySettings"))
    )
    entry = RuleKind("added_by_test.signed_random:SignedRandom", settings=settings)
    monkeypatch.setitem(RULES, "signed_random", entry)
    monkeypatch.setitem(NETWORKS, "small", small)
    monkeypatch.setitem(SOURCES, "bars", Source(bars, "nobody", "CC0", (1, 8, 8), 4, (48, 16)))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("added_by_test")]:
        del sys.modules[name]


def study(**rule: object) -> Path:
    """A study of the three, written as a user would."""
    content = {
        "study": "added", "device": "cpu", "dataset": {"name": "bars"}, "networks": {"net": {"kind": "small"}},
        "rules": {"mine": {"kind": "signed_random", **rule}},
        "training": {"epochs": 8, "batch_size": 8, "learning_rate": 0.3},
        "sweeps": {"strength": {"rules": ["mine"], "values": {"noise.strength": [1.0, 2.0]}}},
    }  # fmt: skip
    path = Path("added.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def test_all_three_are_checked_trained_and_resumed_as_ours_are(added: Path) -> None:
    path = study(noise={"strength": 1.5})
    command_line.check(path)
    command_line.train(path, "mine-strength-2.0", None, 0)
    with (added / "results/added/networks/net/mine-strength-2.0/seed0/epochs.csv").open(newline="") as file:
        accuracies = [float(row["test_accuracy"]) for row in csv.DictReader(file)]
    assert accuracies[-1] > 0.9 > accuracies[0]  # it learns: chance is .25


@pytest.mark.usefixtures("added")
def test_the_settings_of_a_new_rule_are_checked_by_its_own_model() -> None:
    with pytest.raises(UserError, match=r"rules\.mine\.noise\.strenth: unknown key; did you mean 'strength'"):
        command_line.check(study(noise={"strenth": 2}))
    with pytest.raises(UserError, match=r"rules\.mine\.noise\.strength: .* valid number"):
        command_line.check(study(noise={"strength": "much"}))
