"""Optimisers, step sizes and clipping, against torch's own and against their formulas."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nmnc.settings import Training
from nmnc.training.optimisation import clip, make_optimiser, set_step_size, step_size

STEPS = 40


def weights(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in ((5, 3), (5,), (2, 3, 3, 3))]


def moved(optimiser: torch.optim.Optimizer, values: list[Tensor], steps: int = STEPS) -> list[Tensor]:
    """The weights after some steps along random gradients, the same for every call."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for value in values:
            value.grad = torch.randn(value.shape, generator=generator)
        optimiser.step()
    return [value.detach() for value in values]


def all_close(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_the_published_one_with_the_decay_in_the_gradient(decay: float) -> None:
    training = Training(optimiser="adam", learning_rate=0.01, momentum=0.8, weight_decay=decay)
    ours = weights()
    moved(make_optimiser(ours, training), ours)
    generator = torch.Generator().manual_seed(1)
    theirs = [value.detach().double() for value in weights()]
    first, second = ([torch.zeros_like(value) for value in theirs] for _ in range(2))
    for step in range(1, STEPS + 1):
        for place, value in enumerate(theirs):
            gradient = torch.randn(value.shape, generator=generator).double() + decay * value
            first[place] = 0.8 * first[place] + 0.2 * gradient
            second[place] = 0.999 * second[place] + 0.001 * gradient**2
            mean, square = first[place] / (1 - 0.8**step), second[place] / (1 - 0.999**step)
            theirs[place] = value - 0.01 * mean / (square.sqrt() + 1e-8)
    assert all_close([value.detach().double() for value in ours], theirs)
    other = weights()
    same = torch.optim.Adam(other, 0.01, betas=(0.8, 0.999), weight_decay=decay, foreach=False, fused=False)
    assert all_close([value.detach() for value in ours], moved(same, other))


def test_sgd_is_torchs_bit_for_bit() -> None:
    training = Training(learning_rate=0.03, momentum=0.7, weight_decay=0.02)
    ours, theirs = weights(), weights()
    moved(make_optimiser(ours, training), ours)
    moved(torch.optim.SGD(theirs, 0.03, momentum=0.7, weight_decay=0.02), theirs)
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def rates(scheduler: Any, optimiser: torch.optim.Optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("steps", [4, 10, 97, 400])
def test_schedules_are_torchs(steps: int) -> None:
    schedulers = torch.optim.lr_scheduler
    for name, make in (
        ("cosine", lambda optimiser: schedulers.CosineAnnealingLR(optimiser, steps)),
        ("step", lambda optimiser: schedulers.MultiStepLR(optimiser, [math.ceil(steps / 2), math.ceil(3 * steps / 4)])),
        ("constant", lambda optimiser: schedulers.ConstantLR(optimiser, factor=1)),
    ):
        training = Training(learning_rate=0.3, schedule=name)
        optimiser = torch.optim.SGD(weights(), 0.3)
        theirs = rates(make(optimiser), optimiser, steps)
        assert [step_size(step, steps, training) for step in range(steps)] == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("kind", ["backprop", "nmnc"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_each_step_is_made_at_its_rate(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, optimiser: str, schedule: str
) -> None:
    run = toy.trainer(kind, training={"optimiser": optimiser, "schedule": schedule, "learning_rate": 0.004})
    used: list[float] = []
    step = run.optimiser.step
    monkeypatch.setattr(run.optimiser, "step", lambda: (used.append(run.optimiser.param_groups[0]["lr"]), step()))
    run.train(tmp_path / "state.pt")
    assert len(used) == run.steps == toy.epochs * toy.steps_per_epoch
    assert used == [step_size(number, run.steps, run.run.training) for number in range(run.steps)]
    assert len(set(used)) == {"constant": 1, "cosine": run.steps, "step": 3}[schedule]


def test_a_constant_rate_is_never_touched() -> None:
    optimiser = torch.optim.SGD(weights(), 0.5)
    set_step_size(optimiser, 3, 10, Training(learning_rate=0.1))
    assert optimiser.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("kind", ["backprop", "nmnc", "vnc"])
def test_rules_learn_by_adam_too(toy: Any, tmp_path: Path, kind: str) -> None:
    settings = {"optimiser": "adam", "learning_rate": 0.01, "schedule": "cosine", "epochs": 8}
    run = toy.trainer(kind, training=settings)
    run.train(tmp_path / "state.pt")
    assert run.epochs[-1]["test_accuracy"] > 0.8  # chance: 0.25


@settings(max_examples=30)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3) | st.none(), st.integers(0, 1000))
def test_clipping_is_torchs_and_tells_the_norms_before(scale: float, largest: float | None, seed: int) -> None:
    gradients = [scale * value.detach() for value in weights(seed)]
    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    norms = clip(gradients, largest)
    whole = torch.nn.utils.clip_grad_norm_(parameters, math.inf if largest is None else largest)
    assert torch.allclose(norms.norm(), whole)
    assert all(
        torch.allclose(gradient, parameter.grad, rtol=1e-5)
        for gradient, parameter in zip(gradients, parameters, strict=True)
    )
