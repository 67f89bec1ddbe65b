"""Noise correlation: vanilla (VNC), and within a random subspace."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.networks.replay import Record
from nmnc.noise.draws import make_draws
from nmnc.noise.feedback import FactoredFeedback, Feedback, FullFeedback, PerImageFeedback, prediction_rate
from nmnc.noise.local_feedback import LocalFeedback
from nmnc.noise.manifold import random_basis
from nmnc.noise.perturbation import Perturbation, copies, isotropic, mean_jacobians, responses, within_subspace
from nmnc.rules.base import Rule
from nmnc.settings import Noise


class NoiseCorrelation(Rule):
    """VNC: correlate isotropic noise in a stage's output with the change of the logits.

    Every b batches, the first M images of the batch are perturbed (the order of the data is random), and the
    estimate updates a running feedback with weight eta, which the same step already uses. With `noise.per_image` there
    is no running feedback: every image of every batch is perturbed and its signal comes from its own noise. With
    `noise.estimator` infinite nothing is perturbed: the feedback learns from the exact averaged Jacobian of the M
    images, a control that separates the cost of noise from that of averaging, projection and lag.
    """

    local = True
    feedback: list[Feedback]

    def __init__(self, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> None:
        super().__init__(network, sizes, classes, noise, seed)
        self.draws = [make_draws(noise.draws, self.generator) for _ in sizes]
        if noise.per_image and noise.refresh_every > 1:
            raise UserError(
                f"noise.refresh_every {noise.refresh_every}: with noise.per_image every batch needs its own noise; "
                "set noise.refresh_every to 1"
            )
        self._refuse_exclusive()

    def _refuse_exclusive(self) -> None:
        """Raise UserError for settings that exclude each other."""
        noise = self.noise
        exclusive = {
            "per_image": noise.per_image,
            "adaptive": noise.adaptive,
            "feedback": noise.feedback == "layerwise",
        }
        if noise.estimator == "infinite" and any(exclusive.values()):
            key = next(key for key, given in exclusive.items() if given)
            raise UserError(
                f"noise.{key} {getattr(noise, key)}: noise.estimator infinite computes the averaged Jacobian without "
                "noise; remove one of them"
            )
        changed = [key for key in ("learning", "draws") if getattr(noise, key) != Noise.model_fields[key].default]
        averaged = {
            "per_image": noise.per_image,
            "adaptive": noise.adaptive,
            "estimator": noise.estimator == "infinite",
        }
        for key, given in averaged.items():
            if given and changed:
                raise UserError(
                    f"noise.{changed[0]} {getattr(noise, changed[0])} needs a running feedback of all noise axes; "
                    f"remove it or noise.{key} {getattr(noise, key)}"
                )
        for name, size in zip(self.network.stage_names, self.sizes, strict=False):
            if noise.draws == "orthogonal" and noise.images > self.most_axes(size):
                raise UserError(
                    f"noise.draws orthogonal: layer {name} has noise along {self.most_axes(size)} axes, fewer than "
                    f"noise.images {noise.images}; lower noise.images or set noise.draws to independent"
                )

    def most_axes(self, units: int) -> int:
        """Return the largest number of noise axes of a stage with `units` units."""
        return units

    def start(self, outputs: list[Tensor]) -> None:
        """Set the feedback to zero."""
        self.feedback = self.make_feedback()

    def make_feedback(self) -> list[Feedback]:
        """Return feedback of zeros for every hidden stage."""
        if self.noise.per_image:
            return [PerImageFeedback(None, self.device) for _ in self.sizes]
        return [FullFeedback(self.classes, size, None, self.device) for size in self.sizes]

    def perturb(self, stage: int, images: int) -> Perturbation:
        """Draw noise for the first `images` images at one hidden stage."""
        z = self.draws[stage].take(images, self.sizes[stage])
        return isotropic(z, self.noise.dimensions, self.noise.scale)

    def observe(self, step: int, outputs: list[Tensor], record: Record) -> None:
        """Update the feedback when due."""
        if self.noise.per_image and self.noise.images != len(outputs[0]):
            raise UserError(
                f"noise.images {self.noise.images}: with noise.per_image all {len(outputs[0])} images of a batch need "
                "noise; set noise.images to training.batch_size"
            )
        if step % self.noise.refresh_every == 0:
            self.correlate(outputs, record)

    def correlate(self, outputs: list[Tensor], record: Record) -> None:
        """Perturb, correlate the response with the noise, and update the feedback."""
        layers, noise = len(self.sizes), self.noise
        if noise.estimator == "infinite":
            jacobians = mean_jacobians(self.network, outputs, noise.images, record)
            for feedback, jacobian in zip(self.feedback, jacobians, strict=True):
                assert isinstance(feedback, FullFeedback | FactoredFeedback)  # others are refused
                feedback.learn(jacobian, noise.rate)
            return
        images = len(outputs[0]) if noise.per_image else noise.images
        perturbations = [self.perturb(stage, images) for stage in range(layers)]
        changes = responses(self.network, outputs, perturbations, record, noise.estimator, self.rounded)
        for stage, pair in enumerate(zip(changes, perturbations, strict=True)):
            self.learn(stage, *pair)
        self.perturbations += layers * images
        self.forward_passes += copies(noise.estimator, layers) * images

    def learn(self, stage: int, change: Tensor, perturbation: Perturbation) -> None:
        """Update a stage's feedback with the response (M, outputs) to its noise."""
        feedback = self.feedback[stage]
        if self.noise.learning == "correlation":
            feedback.update(change, perturbation, self.noise.rate)
            return
        assert isinstance(feedback, FullFeedback | FactoredFeedback | LocalFeedback)  # others are refused
        feedback.correct(change, perturbation, self.rate(stage, perturbation))

    def rate(self, stage: int, perturbation: Perturbation) -> float:
        """Return eta of prediction error for a stage's noise."""
        return prediction_rate(self.noise, perturbation.coordinates.shape[1])

    def signals(self, error: Tensor) -> list[Tensor]:
        """Return e B per hidden stage, float32 (batch, units)."""
        return [feedback.signal(error) for feedback in self.feedback]

    @contextmanager
    def measuring(self, outputs: list[Tensor], record: Record) -> Iterator[None]:
        """See `Rule.measuring`; without an average, new noise is drawn for these images."""
        if not self.noise.per_image:
            yield
            return
        saved = self.generator.get_state(), self.feedback, self.perturbations, self.forward_passes
        self.feedback = self.make_feedback()
        self.correlate(outputs, record)
        try:
            yield
        finally:
            state, self.feedback, self.perturbations, self.forward_passes = saved
            self.generator.set_state(state)

    def state_dict(self) -> dict[str, Any]:
        """Add the feedback."""
        return super().state_dict() | {
            "feedback": [feedback.matrix for feedback in self.feedback],
            "draws": [draws.state_dict() for draws in self.draws],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.feedback = self.make_feedback()
        for feedback, matrix in zip(self.feedback, state["feedback"], strict=True):
            feedback.matrix = matrix.to(self.device)
        for draws, draws_state in zip(self.draws, state["draws"], strict=True):
            draws.load_state_dict(draws_state)


class RandomSubspace(NoiseCorrelation):
    """The control: noise within a random subspace of the same dimension, fixed before training.

    In a layer with fewer than d units, the subspace is the whole space.
    """

    def most_axes(self, units: int) -> int:
        """See `NoiseCorrelation.most_axes`: d."""
        return min(self.noise.dimensions, units)

    def start(self, outputs: list[Tensor]) -> None:
        """Draw the subspaces."""
        dimensions = [min(self.noise.dimensions, size) for size in self.sizes]
        pairs = zip(self.sizes, dimensions, strict=True)
        self.bases = [random_basis(size, d, self.generator, self.device) for size, d in pairs]
        self.feedback = self.make_feedback()

    def make_feedback(self) -> list[Feedback]:
        """Return feedback of zeros in the current bases."""
        if self.noise.per_image:
            return [PerImageFeedback(basis, self.device) for basis in self.bases]
        if self.noise.feedback == "factored":
            return [FactoredFeedback(self.classes, basis) for basis in self.bases]
        return [
            FullFeedback(self.classes, size, basis, self.device)
            for size, basis in zip(self.sizes, self.bases, strict=True)
        ]

    def perturb(self, stage: int, images: int) -> Perturbation:
        """Draw noise within the stage's subspace."""
        basis = self.bases[stage]
        return within_subspace(self.draws[stage].take(images, basis.shape[1]), basis, self.noise.scale)
