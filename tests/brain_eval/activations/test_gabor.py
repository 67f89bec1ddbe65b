"""The Gabor bank: its filters see what they should, and brain_eval takes it as a user's model."""

import json
import math

import numpy as np
import pytest
import torch

from brain_eval.activations.models import load_model
from examples.gabor import PHASES, filters, gabor_bank

GREY = {"image_size": 32, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}


def grating(angle: float, wavelength: float, side: int = 33, phase: float = 0.0) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(side) - side // 2, torch.arange(side) - side // 2, indexing="ij")
    wave = torch.cos(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / wavelength + phase)
    return wave.expand(1, 3, side, side).float()


def test_filters_have_unit_length_and_see_no_even_light() -> None:
    bank = filters((3.0, 6.0), 4, 15)
    assert bank.shape == (2 * 4 * len(PHASES), 1, 15, 15)
    np.testing.assert_allclose(bank.flatten(1).norm(dim=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(bank.flatten(1).sum(1), 0.0, atol=1e-5)


@pytest.mark.parametrize("scale", [0, 1])
def test_every_orientation_and_scale_answers_most_to_its_own_grating(scale: int) -> None:
    for number in range(8):
        wavelengths = (4.0, 8.0)
        energy = gabor_bank(wavelengths)(grating(math.pi * number / 8, wavelengths[scale]))[0, :, 8, 8]
        assert int(energy.argmax()) == scale * 8 + number


def test_complex_cells_do_not_care_for_the_phase_and_simple_cells_do() -> None:
    model = gabor_bank((8.0,))
    answers = [model(grating(0.0, 8.0, phase=phase))[0, 0, 8, 8].item() for phase in np.linspace(0, math.pi, 7)]
    assert np.ptp(answers) < 0.1 * np.mean(answers)
    simple = [model[0](grating(0.0, 8.0, phase=phase))[0, 0, 16, 16].item() for phase in np.linspace(0, math.pi, 7)]
    assert np.ptp(simple) > 0.9 * np.max(simple)


def test_it_is_loaded_as_a_users_model(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.chdir(request.config.rootpath)
    model = load_model("examples.gabor:gabor_bank", layers="simple,complex", preprocessing=json.dumps(GREY))
    assert list(model.layers) == ["simple", "complex"]
