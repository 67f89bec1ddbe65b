"""NMNC that adapts the dimension of its subspace during training."""

from typing import Any

import torch
from torch import Tensor

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.noise.feedback import Feedback, effective_samples
from nmnc.noise.perturbation import Perturbation, within_subspace
from nmnc.rules.manifold_noise import ManifoldNoiseCorrelation
from nmnc.settings import Noise

#: Smallest d: a smaller subspace has too few probe axes to grow again.
FEWEST = 2


class HalvesFeedback:
    """C = B U in a probe basis, estimated twice: from the first and from the second half of the perturbed images.

    The halves have independent noise, so the sum over classes of their product is an unbiased estimate of |J U_i|^2
    along axis i, whereas the square of either would be biased by its noise.

    Attributes:
        matrix: float32 (2, classes, axes).
        basis: orthonormal probe basis (units, axes), leading components first.
        dimensions: d, the leading axes that carry the signal.
    """

    def __init__(self, classes: int, basis: Tensor, dimensions: int) -> None:
        self.matrix = torch.zeros(2, classes, basis.shape[1], device=basis.device)
        self.basis, self.dimensions = basis, dimensions

    def update(self, response: Tensor, perturbation: Perturbation, rate: float) -> None:
        """See `Feedback.update`; for an even number of images."""
        change, noise = (rows.unflatten(0, (2, -1)) for rows in (response, perturbation.coordinates))
        self.matrix.lerp_(change.mT @ noise / (noise.shape[1] * perturbation.divisor), rate)

    def signal(self, error: Tensor) -> Tensor:
        """See `Feedback.signal`; along the leading d axes, from both halves."""
        leading = self.matrix[..., : self.dimensions].mean(0)
        return (error @ leading) @ self.basis[:, : self.dimensions].T

    def rebase(self, basis: Tensor) -> None:
        """C' = C U^T U', for both halves."""
        self.matrix = self.matrix @ (self.basis.T @ basis)
        self.basis = basis

    def best_dimensions(self, samples: float) -> Tensor:
        """Return the d, between half and twice the current one, that maximises alpha(d) / (1 + (d + 1) / K).

        alpha(d) is proportional to the halves' cross-product summed over the leading d axes; docs/method.md derives the
        squared cosine. A sum that noise makes negative counts as 0, since a negative gain would increase with d.

        Returns:
            int64 (), on the device.
        """
        alpha = (self.matrix[0] * self.matrix[1]).sum(0).cumsum(0).clamp_min(0)
        counts = torch.arange(1, len(alpha) + 1, device=alpha.device)
        gain = alpha / (1 + (counts + 1) / samples)
        fewest = min(max(FEWEST, self.dimensions // 2), len(alpha))
        return fewest + gain[fewest - 1 :].argmax()


class AdaptiveManifoldNoiseCorrelation(ManifoldNoiseCorrelation):
    """NMNC that adapts d for every hidden stage (kind nmnc, noise.adaptive), starting from noise.dimensions.

    Noise is along 2 d principal components, the signal along the leading d; the response along the other axes decides
    whether d should grow. At every refresh of the basis d moves to the best value between half and twice itself, so
    that a bad estimate is corrected at the next refresh. Only then is d read back from the device.

    Attributes:
        dimensions: d of every hidden stage.
        probes: orthonormal bases (units, up to 2 d); `bases` are their leading d axes.
    """

    feedback: list[Feedback]

    def __init__(self, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> None:
        super().__init__(network, sizes, classes, noise, seed)
        if noise.images % 2:
            raise UserError(
                f"noise.images {noise.images}: noise.adaptive compares two halves of the perturbed images; "
                "set an even number"
            )
        for setting in ("per_image", "mean_direction"):
            if getattr(noise, setting):
                raise UserError(f"noise.{setting} cannot be combined with noise.adaptive; remove one of them")
        if noise.basis == "incremental":
            raise UserError(
                "noise.basis incremental cannot be combined with noise.adaptive, which may need more components than "
                "it keeps; set noise.basis to window"
            )
        if noise.feedback != "factored":
            raise UserError(
                f"noise.feedback {noise.feedback} cannot be combined with noise.adaptive, which stores coordinates in "
                "its bases; set noise.feedback to factored"
            )
        self.dimensions = [noise.dimensions for _ in sizes]

    def axes(self, stage: int) -> int:
        """See `ManifoldNoiseCorrelation.axes`: twice d."""
        return min(2 * self.dimensions[stage], self.sizes[stage])

    def start(self, outputs: list[Tensor]) -> None:
        """Find the first probe bases."""
        self.recent, self.streams = [], []
        self.probes = self.principal_bases([outputs])
        self.feedback = self.make_feedback()
        self._lead()

    def make_feedback(self) -> list[Feedback]:
        """Zero feedback in the current probe bases."""
        return [HalvesFeedback(self.classes, *pair) for pair in zip(self.probes, self.dimensions, strict=True)]

    def perturb(self, stage: int, images: int) -> Perturbation:
        """Draw noise along the stage's probe axes."""
        return within_subspace(
            self.draws[stage].take(images, self.probes[stage].shape[1]), self.probes[stage], self.noise.scale
        )

    def refresh(self, batches: list[list[Tensor]]) -> None:
        """Choose d from the feedback along the old probe axes, then move the probe bases."""
        samples = effective_samples(self.noise)
        halves = [feedback for feedback in self.feedback if isinstance(feedback, HalvesFeedback)]
        self.dimensions = torch.stack([feedback.best_dimensions(samples) for feedback in halves]).tolist()
        self.probes = self.principal_bases(batches)
        for feedback, basis in zip(halves, self.probes, strict=True):
            feedback.rebase(basis)
        self._lead()

    def _lead(self) -> None:
        """Set the signal's axes to the leading d of each stage's probe axes, or all if there are fewer."""
        self.dimensions = [
            min(chosen, probe.shape[1]) for chosen, probe in zip(self.dimensions, self.probes, strict=True)
        ]
        for feedback, chosen in zip(self.feedback, self.dimensions, strict=True):
            feedback.dimensions = chosen  # type: ignore[attr-defined]
        self.bases = [probe[:, :chosen] for probe, chosen in zip(self.probes, self.dimensions, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Add d and the probe bases."""
        return super().state_dict() | {"probes": self.probes, "dimensions": self.dimensions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.probes = [probe.to(self.device) for probe in state["probes"]]
        self.dimensions = list(state["dimensions"])
        super().load_state_dict(state)
        self._lead()
