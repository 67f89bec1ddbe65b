"""Noise correlation within the neural manifold (NMNC)."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor

from nmnc.errors import UserError
from nmnc.networks.replay import Record
from nmnc.noise.activity_stream import ActivityStream
from nmnc.noise.manifold import RELATIVE_TOLERANCE, naming_layer, principal_basis
from nmnc.rules.noise_correlation import RandomSubspace


class ManifoldNoiseCorrelation(RandomSubspace):
    """NMNC: noise within the subspace of the leading principal components of the stage's activity.

    The activity is that of the clean passes of training, so that it costs no forward pass: of the last few batches
    (`noise.basis` window), or of all batches with decaying weights (incremental). With `noise.mean_direction`, the
    direction of the mean activity, which centring removes, is an additional axis.

    Attributes:
        recent: hidden outputs of the last batches before a refresh, batch by batch; empty if incremental.
        streams: incremental components of each hidden stage's activity; empty unless incremental.
    """

    def warnings(self) -> list[str]:
        """See `Rule.warnings`: bases that move before orthogonal draws have used every axis."""
        noise = self.noise
        cycle = noise.refresh_every * ceil(max(map(self.most_axes, self.sizes)) / noise.images)
        if noise.draws == "independent" or noise.basis_every >= cycle:
            return []
        return [
            f"noise.basis_every {noise.basis_every}: the basis moves before orthogonal draws have used all axes, "
            f"which takes {cycle} batches; set noise.basis_every to {cycle} or more"
        ]

    def start(self, outputs: list[Tensor]) -> None:
        """Compute the first bases."""
        self.recent: list[list[Tensor]] = []
        self.streams = self.make_streams()
        for name, stream, output in zip(self.network.stage_names, self.streams, outputs, strict=False):
            with naming_layer(name):
                stream.start(output.flatten(1))
        self.bases = self.principal_bases([outputs])
        self.feedback = self.make_feedback()

    def make_streams(self) -> list[ActivityStream]:
        """Return empty streams of twice the number of components for an incremental basis, else none."""
        if self.noise.basis == "window":
            return []
        return [ActivityStream(2 * self.axes(stage), self.generator) for stage in range(len(self.sizes))]

    def principal_bases(self, batches: list[list[Tensor]]) -> list[Tensor]:
        """Return bases from the last `basis_images` images of batches of hidden outputs, or from the streams."""
        bases = []
        for stage, outputs in enumerate(zip(*batches, strict=True)):
            name = self.network.stage_names[stage]
            activity, axes = self.latest_activity(outputs), self.axes(stage)
            mean = activity.mean(0) if self.noise.mean_direction else None
            with naming_layer(name):
                basis = (
                    self.streams[stage].basis(axes) if self.streams else principal_basis(activity, axes, overwrite=True)
                )
            if basis.shape[1] == 0:
                raise UserError(
                    f"layer {name} is dead: its activity is the same for all images; "
                    "lower training.learning_rate, then run again"
                )
            bases.append(basis if mean is None else with_direction(basis, mean))
        return bases

    def latest_activity(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return a copy of the activity (images, units) of the last `basis_images` images of one stage."""
        return torch.cat([output.flatten(1) for output in outputs])[-self.noise.basis_images :]

    def axes(self, stage: int) -> int:
        """Return the number of principal components for one hidden stage."""
        return self.noise.dimensions

    def refresh(self, batches: list[list[Tensor]]) -> None:
        """Recompute the bases from batches of hidden outputs, and project the feedback on them."""
        self.bases = self.principal_bases(batches)
        for feedback, basis in zip(self.feedback, self.bases, strict=True):
            feedback.rebase(basis)
        for draws in self.draws:
            draws.restart()  # draws that are orthogonal in the old basis are not in the new one

    def observe(self, step: int, outputs: list[Tensor], record: Record) -> None:
        """Record activity, refresh the bases when due, then correlate."""
        if self.streams:
            self._observe_all(step, outputs)
        else:
            self._observe_last(step, outputs)
        super().observe(step, outputs, record)

    def _observe_all(self, step: int, outputs: list[Tensor]) -> None:
        """Add every batch to the streams."""
        for stream, output in zip(self.streams, outputs, strict=True):
            stream.update(output.flatten(1))
        if step and step % self.noise.basis_every == 0:
            self.refresh([outputs])

    def _observe_last(self, step: int, outputs: list[Tensor]) -> None:
        """Keep the last batches before a refresh of the bases."""
        batches_needed = -(-self.noise.basis_images // len(outputs[0]))
        if step and step % self.noise.basis_every == 0 and self.recent:
            self.refresh(self.recent)
            if batches_needed <= self.noise.basis_every:
                self.recent = []  # enough new batches follow before the next refresh
        if self.noise.basis_every - step % self.noise.basis_every <= batches_needed:
            self.recent = [*self.recent, outputs][-batches_needed:]

    def state_dict(self) -> dict[str, Any]:
        """Add the activity kept for the next refresh."""
        return super().state_dict() | {
            "recent": self.recent,
            "streams": [stream.state_dict() for stream in self.streams],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.recent = [[output.to(self.device) for output in outputs] for outputs in state["recent"]]
        self.streams = self.make_streams()
        for stream, stream_state in zip(self.streams, state["streams"], strict=True):
            stream.load_state_dict(stream_state)


def with_direction(basis: Tensor, direction: Tensor) -> Tensor:
    """Extend an orthonormal basis (units, d) by the part of `direction` (units) outside its span.

    Returns:
        (units, d + 1), or the basis itself if less than 1e-3 of the direction's length, which is within rounding error,
        lies outside.
    """
    outside = direction - basis @ (basis.T @ direction)
    outside = outside - basis @ (basis.T @ outside)  # a second projection removes rounding errors of the first
    length = outside.norm()
    if length <= RELATIVE_TOLERANCE * direction.norm():
        return basis
    return torch.cat([basis, (outside / length)[:, None]], 1)
