"""How a gradient becomes a step: optimiser, step size over the run, clipping. The same for every rule."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nmnc.settings import Training


def make_optimiser(weights: Sequence[Tensor], training: Training) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam (Kingma & Ba 2015, arXiv 1412.6980); both add weight_decay * weight to the gradient.

    Adam's beta 1 is `momentum`, its beta 2 is 0.999.
    """
    if training.optimiser == "adam":
        # Fused, or it would read its count of steps back from the device in every step.
        return torch.optim.Adam(
            weights,
            training.learning_rate,
            betas=(training.momentum, 0.999),
            weight_decay=training.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(weights, training.learning_rate, training.momentum, weight_decay=training.weight_decay)


def step_size(step: int, steps: int, training: Training) -> float:
    """Learning rate of step number `step` (from 0) of `steps`.

    Cosine falls from the learning rate towards 0 along half a period (Loshchilov & Hutter 2017, arXiv 1608.03983,
    without restarts); step is a tenth after half of the run and a hundredth after three quarters.
    """
    if training.schedule == "cosine":
        return training.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
    if training.schedule == "step":
        return training.learning_rate * 0.1 ** ((2 * step >= steps) + (4 * step >= 3 * steps))
    return training.learning_rate


def set_step_size(optimiser: torch.optim.Optimizer, step: int, steps: int, training: Training) -> None:
    """Give the optimiser the learning rate of a step; a constant one is left as it is."""
    if training.schedule != "constant":
        for group in optimiser.param_groups:
            group["lr"] = step_size(step, steps, training)


def clip(gradients: list[Tensor], largest: float | None, followers: Sequence[Tensor] = ()) -> Tensor:
    """Scale all gradients, in place, so that their common norm is at most `largest`; None leaves them.

    `followers` are scaled by the same factor and have no part in the norm.

    Returns:
        The norm of each before, (gradients,), on the device.
    """
    norms = torch.stack([gradient.norm() for gradient in gradients])
    if largest is not None:
        torch._foreach_mul_([*gradients, *followers], (largest / (norms.norm() + 1e-6)).clamp(max=1.0))
    return norms
