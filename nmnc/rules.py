"""Learning rules by name. To add one: a class and one line in RULES.

A rule turns the output error into a signal for every hidden stage, the (estimated) gradient of the loss
with respect to that stage's output. The loop (training.py), the optimiser, the seeds and the order of the
data are the same for all.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nmnc.config import Noise
from nmnc.errors import UserError, did_you_mean
from nmnc.feedback import FactoredFeedback, Feedback, FullFeedback
from nmnc.manifold import layer_basis, random_basis
from nmnc.networks import Network
from nmnc.perturbation import Perturbation, isotropic, responses, within_subspace
from nmnc.replay import Record


class Rule:
    """What all rules share.

    Attributes:
        local: True for rules that detach the stages from one another and send signals instead; False leaves
            the stages in one graph, where autograd carries the error.
        bases: orthonormal basis (units, d) per hidden stage, empty for rules without a subspace.
        perturbations: images perturbed so far, counted once for every layer.
        forward_passes: images sent through the network or a part of it so far, copies counted one by one.
    """

    local = False

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
        self.perturbations = 0
        self.forward_passes = 0

    def start(self, outputs: list[Tensor]) -> None:
        """See the hidden stages' outputs to the first images, (images, ...) each, before the first step."""

    def observe(self, step: int, outputs: list[Tensor], record: Record) -> None:
        """See the hidden stages' clean outputs (batch, ...) of a step, and learn feedback from them."""

    def signals(self, error: Tensor) -> list[Tensor]:
        """Gradient estimates (batch, units) per hidden stage for the output error (batch, classes)."""
        return []

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


class NoiseCorrelation(Rule):
    """VNC: correlate isotropic noise in a stage's output with the change of the logits.

    Every b batches, the first M images of the batch are perturbed (the order of the data is random), and the
    estimate enters a running feedback with weight eta; the same step already uses it.
    """

    local = True
    feedback: list[Feedback]

    def start(self, outputs: list[Tensor]) -> None:
        """Set the feedback to zero."""
        self.feedback = [FullFeedback(self.classes, size, None, self.device) for size in self.sizes]

    def perturb(self, stage: int) -> Perturbation:
        """Noise for the first M images at one hidden stage."""
        noise = self.noise
        return isotropic(noise.images, self.sizes[stage], noise.dimensions, noise.scale, self.generator)

    def observe(self, step: int, outputs: list[Tensor], record: Record) -> None:
        """Perturb, correlate and update the feedback when it is time."""
        if step % self.noise.refresh_every:
            return
        perturbations = [self.perturb(stage) for stage in range(len(self.sizes))]
        changes = responses(self.network, outputs, perturbations, record, self.noise.antithetic)
        for feedback, change, perturbation in zip(self.feedback, changes, perturbations, strict=True):
            feedback.update(change, perturbation, self.noise.rate)
        layers, images = len(self.sizes), self.noise.images
        self.perturbations += layers * images
        self.forward_passes += images * (2 * layers if self.noise.antithetic else layers + 1)

    def signals(self, error: Tensor) -> list[Tensor]:
        """e B per hidden stage."""
        return [feedback.signal(error) for feedback in self.feedback]

    def state_dict(self) -> dict[str, Any]:
        """Add the feedback."""
        return super().state_dict() | {"feedback": [feedback.matrix for feedback in self.feedback]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        super().load_state_dict(state)
        self.feedback = self.make_feedback() if self.bases else self.feedback
        for feedback, matrix in zip(self.feedback, state["feedback"], strict=True):
            feedback.matrix = matrix.to(self.device)

    def make_feedback(self) -> list[Feedback]:
        """Zero feedback in the current bases."""
        if self.noise.feedback == "factored":
            return [FactoredFeedback(self.classes, basis) for basis in self.bases]
        return [
            FullFeedback(self.classes, size, basis, self.device)
            for size, basis in zip(self.sizes, self.bases, strict=True)
        ]


class RandomSubspace(NoiseCorrelation):
    """The control: noise within a random subspace of the same dimension, fixed from the start."""

    def __init__(self, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> None:
        super().__init__(network, sizes, classes, noise, seed)
        for name, size in zip(network.stage_names, sizes, strict=False):
            if noise.dimensions > size:
                raise UserError(
                    f"noise.dimensions {noise.dimensions} exceeds the {size} units of layer {name}; "
                    "lower noise.dimensions or widen the layer"
                )

    def start(self, outputs: list[Tensor]) -> None:
        """Draw the subspaces."""
        dimensions = self.noise.dimensions
        self.bases = [random_basis(size, dimensions, self.generator, self.device) for size in self.sizes]
        self.feedback = self.make_feedback()

    def perturb(self, stage: int) -> Perturbation:
        """Noise within the stage's subspace."""
        return within_subspace(self.noise.images, self.bases[stage], self.noise.scale, self.generator)


class ManifoldNoiseCorrelation(RandomSubspace):
    """NMNC: noise within the subspace of the leading principal components of the stage's activity.

    The activity comes from the training batches' own clean passes, so it costs no forward pass.
    """

    def start(self, outputs: list[Tensor]) -> None:
        """Find the first subspaces."""
        self.recent: list[list[Tensor]] = []
        self.bases = self.principal_bases([outputs])
        self.feedback = self.make_feedback()

    def principal_bases(self, batches: list[list[Tensor]]) -> list[Tensor]:
        """Bases from the last `basis_images` images of batches of hidden-stage outputs."""
        bases = []
        for name, outputs in zip(self.network.stage_names, zip(*batches, strict=True), strict=False):
            activity = torch.cat([output.flatten(1) for output in outputs])[-self.noise.basis_images :]
            basis = layer_basis(name, activity, self.noise.dimensions)
            if basis.shape[1] == 0:
                raise UserError(
                    f"layer {name} is dead: its activity is the same for all images; "
                    "lower training.learning_rate, then run again"
                )
            bases.append(basis)
        return bases

    def observe(self, step: int, outputs: list[Tensor], record: Record) -> None:
        """Keep activity before a refresh of the bases is due, refresh them, then correlate."""
        batches_needed = -(-self.noise.basis_images // len(outputs[0]))
        if step and step % self.noise.basis_every == 0 and self.recent:
            self.bases = self.principal_bases(self.recent)
            if batches_needed <= self.noise.basis_every:
                self.recent = []  # enough new ones come before the next refresh
            for feedback, basis in zip(self.feedback, self.bases, strict=True):
                feedback.rebase(basis)
        if self.noise.basis_every - step % self.noise.basis_every <= batches_needed:
            self.recent = [*self.recent, outputs][-batches_needed:]
        super().observe(step, outputs, record)

    def state_dict(self) -> dict[str, Any]:
        """Add the activity kept for the next refresh."""
        return super().state_dict() | {"recent": self.recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        super().load_state_dict(state)
        self.recent = [[output.to(self.device) for output in outputs] for outputs in state["recent"]]


#: kind -> how to make the rule.
RULES: dict[str, Callable[[Network, list[int], int, Noise, int], Rule]] = {
    "untrained": Untrained,
    "backprop": Backprop,
    "vnc": NoiseCorrelation,
    "nmnc": ManifoldNoiseCorrelation,
    "random_subspace": RandomSubspace,
}


def make_rule(kind: str, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> Rule:
    """The rule named `kind` (see `Rule.__init__`); UserError for an unknown name or impossible settings."""
    if kind not in RULES:
        raise UserError(f"rules: unknown kind {kind!r}{did_you_mean(kind, RULES)}")
    return RULES[kind](network, sizes, classes, noise, seed)
