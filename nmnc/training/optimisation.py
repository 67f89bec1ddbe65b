"""Turn gradients into steps: optimiser, learning-rate schedule, clipping. The same for every rule."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nmnc.settings import Training


def make_optimiser(weights: Sequence[Tensor], training: Training) -> torch.optim.Optimizer:
    """Return SGD with momentum, or Adam (Kingma & Ba 2015, arXiv 1412.6980).

    Both add weight_decay * weight to the gradient. Adam's beta 1 is `momentum`, its beta 2 is 0.999.
    """
    if training.optimiser == "adam":
        # The fused form does not read its step counter back from the device in every step.
        return torch.optim.Adam(
            weights,
            training.learning_rate,
            betas=(training.momentum, 0.999),
            weight_decay=training.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(weights, training.learning_rate, training.momentum, weight_decay=training.weight_decay)


def step_size(step: int, steps: int, training: Training) -> float:
    """Return the learning rate of step number `step` (from 0) of `steps`.

    Cosine decays from the learning rate to 0 over half a period (Loshchilov & Hutter 2017, arXiv 1608.03983,
    without restarts); step multiplies it by 0.1 after half and by 0.01 after three quarters of the run.
    """
    if training.schedule == "cosine":
        return training.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
    if training.schedule == "step":
        return training.learning_rate * 0.1 ** ((2 * step >= steps) + (4 * step >= 3 * steps))
    return training.learning_rate


def set_step_size(optimiser: torch.optim.Optimizer, step: int, steps: int, training: Training) -> None:
    """Set the optimiser's learning rate for a step; a constant one is left unchanged."""
    if training.schedule != "constant":
        for group in optimiser.param_groups:
            group["lr"] = step_size(step, steps, training)


def clip(gradients: list[Tensor], largest: float | None, followers: Sequence[Tensor] = ()) -> Tensor:
    """Scale all gradients in place so that their joint norm is at most `largest`; None leaves them unchanged.

    `followers` are scaled by the same factor but do not count towards the norm.

    Returns:
        The norm of each gradient before scaling, (gradients,), on the device.
    """
    norms = torch.stack([gradient.norm() for gradient in gradients])
    if largest is not None:
        torch._foreach_mul_([*gradients, *followers], (largest / (norms.norm() + 1e-6)).clamp(max=1.0))
    return norms
