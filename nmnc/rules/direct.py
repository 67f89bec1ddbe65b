"""Rules that project the output error directly to every layer, through fixed or learned weights."""

from typing import Any

import torch
from torch import Tensor

from nmnc.networks import Network
from nmnc.rules.base import Rule
from nmnc.settings import Noise


class DirectFeedbackAlignment(Rule):
    """DFA (Nokland 2016, arXiv 1609.01596): a fixed random matrix B (classes, units) for every hidden stage.

    Entries are N(0, 1 / units), so that a row has a length of order 1, like a row of the initial Jacobian.
    """

    local = True
    matrices: list[Tensor]

    def start(self, outputs: list[Tensor]) -> None:
        """Draw the matrices."""
        self.matrices = [
            torch.randn(self.classes, size, generator=self.generator, device=self.device) / size**0.5
            for size in self.sizes
        ]

    def signals(self, error: Tensor) -> list[Tensor]:
        """Return e B per hidden stage, float32 (batch, units)."""
        return [error @ matrix for matrix in self.matrices]

    def state_dict(self) -> dict[str, Any]:
        """Add the matrices."""
        return super().state_dict() | {"matrices": self.matrices}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.matrices = [matrix.to(self.device) for matrix in state["matrices"]]


class KolenPollack(DirectFeedbackAlignment):
    """DKP, direct Kolen-Pollack (Webster, Choi & Ahn 2021): DFA whose matrices learn with the network.

    Kolen & Pollack (1994; Akrout et al. 2019, arXiv 1904.05391, section 4) give a layer's backward weights the same
    update and the same decay as its forward weights have, so that their difference decays to zero. A direct matrix
    B_l has no forward counterpart; its update is that of a weight from layer l to the output, the mean over the batch
    of e^T x_l. For the last hidden layer the counterpart exists, and B converges to its weights; for earlier layers B
    learns what a linear readout of the layer would.

    Learning rate, momentum, schedule, clipping factor and decay equal those of the forward weights, as convergence
    requires: the matrices are `learned`, i.e. trained by the run's optimiser. Without weight decay the random initial
    matrices are not forgotten.
    """

    def __init__(self, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> None:
        super().__init__(network, sizes, classes, noise, seed)
        self.matrices = self.learned = [torch.zeros(classes, size, device=self.device) for size in sizes]

    def start(self, outputs: list[Tensor]) -> None:
        """Draw the matrices as in DFA."""
        super().start(outputs)
        self._keep_places()

    def adapt(self, error: Tensor, outputs: list[Tensor]) -> None:
        """Set the matrices' gradients."""
        for matrix, output in zip(self.learned, outputs, strict=True):
            matrix.grad = error.T @ output.flatten(1) / len(error)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._keep_places()

    def _keep_places(self) -> None:
        """Copy the matrices into the tensors that the optimiser trains."""
        for parameter, matrix in zip(self.learned, self.matrices, strict=True):
            parameter.copy_(matrix)
        self.matrices = self.learned
