"""What every learning rule is, and the two that learn no feedback: backprop and untrained."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from nmnc.networks import Network
from nmnc.networks.replay import Record
from nmnc.settings import Noise


class Rule:
    """What all rules share.

    Attributes:
        local: True for rules that detach the stages from one another and send signals instead; False leaves
            the stages in one graph, where autograd carries the error.
        bases: orthonormal basis (units, d) per hidden stage, empty for rules without a subspace.
        rounded: True where hidden outputs come from a clean pass in bfloat16, though they are float32 themselves.
        learned: feedback weights that the run's optimiser trains with the network's, `adapt` setting their gradients.
        perturbations: images perturbed so far, counted once for every layer.
        forward_passes: images sent through the network or a part of it so far, copies counted one by one.
    """

    local = False
    rounded = False

    def __init__(self, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> None:
        """Prepare for a network.

        Args:
            network: on the device it is trained on.
            sizes: units of every hidden stage.
            classes: number of outputs.
            noise: the section `noise` of the study, with the rule's own values.
            seed: of the rule's noise.
        """
        self.network, self.sizes, self.classes, self.noise = network, sizes, classes, noise
        self.device = next(network.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.bases: list[Tensor] = []
        self.learned: list[Tensor] = []
        self.perturbations = 0
        self.forward_passes = 0

    def warnings(self) -> list[str]:
        """Return what of the settings runs but hardly as it was meant, a line each, with what to change."""
        return []

    def start(self, outputs: list[Tensor]) -> None:
        """See the hidden stages' outputs to the first images, (images, ...) each, before the first step."""

    def observe(self, step: int, outputs: list[Tensor], record: Record) -> None:
        """See the hidden stages' clean outputs (batch, ...) of a step, and learn feedback from them."""

    def signals(self, error: Tensor) -> list[Tensor]:
        """Gradient estimates (batch, units) per hidden stage for the output error (batch, classes)."""
        return []

    def adapt(self, error: Tensor, outputs: list[Tensor]) -> None:
        """Learn from a step's output error (batch, classes) and hidden outputs (batch, ...), its signals taken."""

    def measuring(self, outputs: list[Tensor], record: Record) -> AbstractContextManager[object]:
        """Within: signals are for these hidden outputs (images, ...); then state and counts are as before."""
        return nullcontext()

    def carrying(self) -> AbstractContextManager[object]:
        """Within: a forward pass lays down how this rule's error goes back, for rules that are not local."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on bit for bit."""
        return {
            "generator": self.generator.get_state(),
            "bases": self.bases,
            "perturbations": self.perturbations,
            "forward_passes": self.forward_passes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        self.generator.set_state(state["generator"].cpu())
        self.bases = [basis.to(self.device) for basis in state["bases"]]
        self.perturbations, self.forward_passes = state["perturbations"], state["forward_passes"]


class Backprop(Rule):
    """Autograd carries the error through all stages."""


class Untrained(Rule):
    """No training at all; never asked for a signal."""
