"""Forward-mode direct feedback alignment."""

import torch
from torch import Tensor

from nmnc.networks.replay import Record
from nmnc.noise.perturbation import Perturbation, joint_response
from nmnc.rules.noise_correlation import NoiseCorrelation


class ForwardDirectFeedbackAlignment(NoiseCorrelation):
    """FDFA (Bacho & Chu 2022, arXiv 2212.07282): direct feedback learned from forward gradients.

    Noise N(0, 1) in all units of all hidden stages at once; forward mode gives the exact derivative of the logits
    along it, dy = sum over l of J_l xi_l, whatever `noise.estimator` says; B_l is a running average with rate eta of
    mean(dy xi_l^T). One pass serves all layers, but each layer's estimate contains the noise of the others.
    """

    def perturb(self, stage: int, images: int) -> Perturbation:
        """Draw noise of variance 1; its scale cancels, because the derivative is linear in it."""
        noise = torch.randn(images, self.sizes[stage], generator=self.generator, device=self.device)
        return Perturbation(noise, noise, 1.0)

    def correlate(self, outputs: list[Tensor], record: Record) -> None:
        """Perturb all stages at once and update each stage's feedback with its correlation."""
        images = self.noise.images
        perturbations = [self.perturb(stage, images) for stage in range(len(self.sizes))]
        change = joint_response(self.network, outputs, perturbations, record)
        for feedback, perturbation in zip(self.feedback, perturbations, strict=True):
            feedback.update(change, perturbation, self.noise.rate)
        self.perturbations += len(self.sizes) * images
        self.forward_passes += 2 * images  # the images themselves and one derivative each
