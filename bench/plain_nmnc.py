"""NMNC written straight from the formulas of docs/method.md: one layer at a time, the whole feedback matrix."""

from collections.abc import Callable

import torch
from torch import Tensor

from nmnc.measure.diagnostics import output_error
from nmnc.networks import Network
from nmnc.noise.manifold import principal_basis
from nmnc.settings import Noise


def svd_basis(activity: Tensor, dimensions: int) -> Tensor:
    """Leading right singular vectors of centred activity (images, units) by a thin SVD: (units, d)."""
    return torch.linalg.svd(activity - activity.mean(0), full_matrices=False).Vh[:dimensions].T


class PlainNmnc:
    """Forward pass, noise, feedback and weight gradients of NMNC, layer after layer.

    Args:
        network: without batch norm or dropout.
        noise: d, s, M, eta and how often the basis is found anew.
        basis: svd_basis or the Gram basis of nmnc.
        generator: of the noise.
    """

    def __init__(
        self, network: Network, noise: Noise, basis: Callable[[Tensor, int], Tensor], generator: torch.Generator
    ) -> None:
        self.network, self.noise, self.basis, self.generator = network, noise, basis, generator
        self.bases: list[Tensor] = []
        self.feedback: list[Tensor] = []
        self.recent: list[list[Tensor]] = []

    def gradients(self, step: int, images: Tensor, labels: Tensor) -> None:
        """Leave the weight gradients of one step in `.grad`; images normalised."""
        outputs = self.network.outputs(images, connected=False)
        hidden = [output.detach() for output in outputs[:-1]]
        self._refresh(step, hidden)
        if step % self.noise.refresh_every == 0:
            for layer in range(len(hidden)):
                self._correlate(layer, hidden[layer])
        error = output_error(outputs[-1].detach(), labels)
        signals = [error @ feedback for feedback in self.feedback] + [error]
        for output, signal in zip(outputs, signals, strict=True):
            output.backward(signal.view_as(output) / len(images))

    def _refresh(self, step: int, hidden: list[Tensor]) -> None:
        before, needed = self.recent or [hidden], -(-self.noise.basis_images // len(hidden[0]))
        self.recent = [*self.recent, hidden][-needed:]
        if step % self.noise.basis_every and self.bases:
            return
        activity = [torch.cat([batch[layer].flatten(1) for batch in before]) for layer in range(len(hidden))]
        self.bases = [self.basis(one, self.noise.dimensions) for one in activity]
        if not self.feedback:
            self.feedback = [torch.zeros(10, one.shape[1], device=one.device) for one in activity]
        self.feedback = [b @ basis @ basis.T for b, basis in zip(self.feedback, self.bases, strict=True)]

    @torch.no_grad()
    def _correlate(self, layer: int, clean: Tensor) -> None:
        clean, noise, basis = clean[: self.noise.images], self.noise, self.bases[layer]
        z = torch.randn(len(clean), basis.shape[1], generator=self.generator, device=clean.device)
        xi = (noise.scale * z @ basis.T).view_as(clean)
        if noise.estimator == "antithetic":
            up, down = (self.network.suffix(clean + sign * xi, layer + 1) for sign in (1, -1))
            change = (up - down) / 2
        else:
            change = self.network.suffix(clean + xi, layer + 1) - self.network.suffix(clean, layer + 1)
        estimate = change.T @ xi.flatten(1) / (len(clean) * noise.scale**2)
        self.feedback[layer] = (1 - noise.rate) * self.feedback[layer] + noise.rate * estimate


def gram_basis(activity: Tensor, dimensions: int) -> Tensor:
    """The basis that nmnc itself uses."""
    return principal_basis(activity, dimensions)
