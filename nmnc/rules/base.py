"""Base class of learning rules, and the two without feedback: backprop and untrained."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from nmnc.networks import Network
from nmnc.networks.replay import Record
from nmnc.settings import Noise


class Rule:
    """Base class of all rules.

    Attributes:
        local: True for rules that detach the stages and provide a signal for each; False leaves the stages in one
            graph, in which autograd passes the error back.
        bases: orthonormal basis (units, d) per hidden stage, empty for rules without a subspace.
        rounded: True if hidden outputs are from a clean pass in bfloat16, converted to float32.
        learned: feedback weights that the run's optimiser trains with the network; `adapt` sets their gradients.
        perturbations: images perturbed so far, counted once per layer.
        forward_passes: images sent through the network or a part of it so far, including perturbed copies.
    """

    local = False
    rounded = False

    def __init__(self, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> None:
        """Prepare for a network.

        Args:
            network: the network, on its training device.
            sizes: number of units of every hidden stage.
            classes: number of outputs.
            noise: the section `noise` of the study, with the rule's values.
            seed: seed of the rule's random numbers.
        """
        self.network, self.sizes, self.classes, self.noise = network, sizes, classes, noise
        self.device = next(network.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.bases: list[Tensor] = []
        self.learned: list[Tensor] = []
        self.perturbations = 0
        self.forward_passes = 0

    def warnings(self) -> list[str]:
        """Return one line, with a remedy, per setting that runs but probably not as intended."""
        return []

    def start(self, outputs: list[Tensor]) -> None:
        """Prepare from the hidden outputs, (images, ...) each, for the first images, before the first step."""

    def observe(self, step: int, outputs: list[Tensor], record: Record) -> None:
        """Learn feedback from the clean hidden outputs (batch, ...) of a step."""

    def signals(self, error: Tensor) -> list[Tensor]:
        """Return gradient estimates (batch, units) per hidden stage for the output error (batch, classes)."""
        return []

    def adapt(self, error: Tensor, outputs: list[Tensor]) -> None:
        """Learn from the output error (batch, classes) and hidden outputs (batch, ...), after `signals`."""

    def measuring(self, outputs: list[Tensor], record: Record) -> AbstractContextManager[object]:
        """Context manager: compute signals for these outputs (images, ...), then restore state and counters."""
        return nullcontext()

    def carrying(self) -> AbstractContextManager[object]:
        """Context manager: forward passes use this rule's backward pass; for rules that are not local."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a run needs to resume bit for bit."""
        return {
            "generator": self.generator.get_state(),
            "bases": self.bases,
            "perturbations": self.perturbations,
            "forward_passes": self.forward_passes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.generator.set_state(state["generator"].cpu())
        self.bases = [basis.to(self.device) for basis in state["bases"]]
        self.perturbations, self.forward_passes = state["perturbations"], state["forward_passes"]


class Backprop(Rule):
    """Backpropagation: autograd passes the error back through all stages."""


class Untrained(Rule):
    """No training; `signals` is never called."""
