"""Rules that carry the output error to every layer through fixed, or through learned, direct weights."""

from typing import Any

import torch
from torch import Tensor

from nmnc.networks import Network
from nmnc.rules.base import Rule
from nmnc.settings import Noise


class DirectFeedbackAlignment(Rule):
    """DFA (Nokland 2016, arXiv 1609.01596): a fixed random matrix B (classes, units) for every hidden stage.

    Entries are N(0, 1 / units), so that a row has the length of order 1 that a Jacobian's row has at first.
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
        """e B per hidden stage."""
        return [error @ matrix for matrix in self.matrices]

    def state_dict(self) -> dict[str, Any]:
        """Add the matrices."""
        return super().state_dict() | {"matrices": self.matrices}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        super().load_state_dict(state)
        self.matrices = [matrix.to(self.device) for matrix in state["matrices"]]


class KolenPollack(DirectFeedbackAlignment):
    """DKP, direct Kolen-Pollack (Webster, Choi & Ahn 2021): DFA whose matrices learn with the network.

    Kolen & Pollack (1994; Akrout et al. 2019, arXiv 1904.05391, section 4) give a layer's backward weights the same
    update and the same decay as its forward weights have, so that the difference of the two decays to nothing. A direct
    matrix B_l has no forward twin; its update is that of a weight from layer l to the output, the mean over the batch
    of e^T x_l. For the last hidden layer that twin exists, and B tends to its weights; further back B learns what a
    linear readout of the layer would.

    Learning rate, momentum, schedule, clipping factor and decay are those of the forward weights, as the argument
    needs: the matrices are `learned`, trained by the run's own optimiser. Without weight decay nothing is forgotten,
    and the random start stays beside what is learned.
    """

    def __init__(self, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> None:
        super().__init__(network, sizes, classes, noise, seed)
        self.matrices = self.learned = [torch.zeros(classes, size, device=self.device) for size in sizes]

    def start(self, outputs: list[Tensor]) -> None:
        """Draw the matrices as DFA's."""
        super().start(outputs)
        self._keep_places()

    def adapt(self, error: Tensor, outputs: list[Tensor]) -> None:
        """Set the matrices' gradients."""
        for matrix, output in zip(self.learned, outputs, strict=True):
            matrix.grad = error.T @ output.flatten(1) / len(error)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        super().load_state_dict(state)
        self._keep_places()

    def _keep_places(self) -> None:
        """Write new matrices over the ones that the optimiser holds."""
        for place, matrix in zip(self.learned, self.matrices, strict=True):
            place.copy_(matrix)
        self.matrices = self.learned
