"""Detect runs that have failed: NaN, exploding loss, dead layers. Flags accumulate on the device."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nmnc.errors import UserError
from nmnc.networks import Network

#: A loss above this multiple of chance (ln classes) counts as an explosion; runs that learn stay below a thirtieth.
EXPLOSION = 1000
#: Steps between two checks of hidden activity; a stage is dead once its activity was constant for DEAD_AFTER steps.
LOOK_EVERY, DEAD_AFTER = 10, 20
#: Steps between two reads of the flags by the host; each waits for the device.
CHECK_EVERY = 50
#: Attributes of a watch that are steps, on the device.
SINCE = ("bad_output", "bad_gradient", "exploded", "constant_since")
ADVICE = "lower training.learning_rate or set training.clip_norm, then run again"


def collapsed(losses: Sequence[float], classes: int) -> bool:
    """Return whether the last epoch's mean training loss is back at chance (ln classes) after being below it."""
    chance = math.log(max(classes, 2))
    return bool(losses) and losses[-1] >= 0.99 * chance and min(losses) <= 0.95 * chance


class Watch:
    """Records, on the device, the first step at which something went wrong; -1 means never.

    Attributes:
        bad_output: int64 (stages,), first step whose output was NaN or infinite.
        bad_gradient: int64 (weights,), first step whose gradient was NaN or infinite.
        exploded: int64 (), first step whose loss exceeded the bound.
        constant_since: int64 (hidden stages,), step since which activity is the same for all images.
        looked: step of the last check of the activity.
    """

    def __init__(self, network: Network, classes: int) -> None:
        """Record the norms of the initial weights of `network`; `classes` sets the loss at chance."""
        self.network = network
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        device = self.weights[0].device
        self.bound = EXPLOSION * math.log(max(classes, 2))
        self.bad_output = torch.full((len(network.stages),), -1, device=device)
        self.bad_gradient = torch.full((len(self.weights),), -1, device=device)
        self.exploded = torch.full((), -1, device=device)
        self.constant_since = torch.full((len(network.stages) - 1,), -1, device=device)
        self.looked = -1
        self.sizes = self._sizes()

    def see_gradients(self, step: int, norms: Tensor) -> None:
        """Record weights whose gradient norm, of float32 (weights,), is NaN or infinite."""
        self.bad_gradient.masked_fill_(~norms.isfinite() & (self.bad_gradient < 0), step)

    def see_loss(self, step: int, loss: Tensor) -> None:
        """Record whether the mean loss of a step, float32 (), exceeds the bound."""
        high = (loss > self.bound) & loss.isfinite() & (self.exploded < 0)
        self.exploded.masked_fill_(high, step)

    @torch.no_grad()
    def see_outputs(self, step: int, hidden: list[Tensor], logits: Tensor) -> None:
        """Record stages whose output (batch, ...) is not finite and, every LOOK_EVERY steps, constant over the images.

        An output is constant if it varies over the images by at most 1e-6 of its largest absolute value.
        """
        finite = torch.stack([output.sum() for output in (*hidden, logits)]).isfinite()
        self.bad_output.masked_fill_(~finite & (self.bad_output < 0), step)
        if step % LOOK_EVERY or len(hidden[0]) == 1:
            return
        self.looked = step
        is_constant = torch.stack([(x - x[:1]).abs().amax() <= 1e-6 * x.abs().amax() for x in hidden])
        since = self.constant_since.masked_fill(~is_constant, -1)
        self.constant_since = since.masked_fill(is_constant & (since < 0), step)

    def check(self, step: int, total: Tensor) -> None:
        """Raise UserError if anything went wrong; this waits for the device.

        Args:
            step: steps made so far.
            total: summed loss of the epoch's steps.

        Raises:
            UserError: names the step, the layer and what to do.
        """
        finite = torch.stack([total.isfinite(), *(size.isfinite() for size in self._sizes())])
        seen = (self.bad_output, self.bad_gradient, self.exploded.view(1), self.constant_since, finite)
        numbers = iter(torch.cat(seen).tolist())
        outputs, gradients, (exploded,), since, is_finite = ([next(numbers) for _ in part] for part in seen)
        first = min((number for number in outputs + gradients if number >= 0), default=None)
        if exploded >= 0 and (first is None or exploded < first):
            raise UserError(
                f"training: the loss exceeded {self.bound:.0f} ({EXPLOSION} times chance) at step {exploded}; "
                f"the weights of layer {self._grown()} grew most; {ADVICE}"
            )
        if first is not None:
            # NaN spreads forward to later outputs, and so to all gradients; in gradients it spreads to earlier layers.
            if first in outputs:
                quantity, layer = "activity", self.network.stage_names[outputs.index(first)]
            else:
                quantity, layer = "gradient", self._owner(max(n for n, step in enumerate(gradients) if step == first))
            raise UserError(
                f"training: the {quantity} became NaN or infinite at step {first} in layer {layer}; {ADVICE}"
            )
        if not all(is_finite):
            broken = is_finite[1:].index(0) if 0 in is_finite[1:] else len(self.weights) - 1
            quantity = "weights" if 0 in is_finite[1:] else "loss"
            raise UserError(
                f"training: the {quantity} became NaN or infinite before step {step} in layer {self._owner(broken)}; "
                f"{ADVICE}"
            )
        for name, start in zip(self.network.stage_names, since, strict=False):
            if start >= 0 and self.looked - start >= DEAD_AFTER:
                raise UserError(
                    f"training: step {self.looked}: layer {name} is dead: its activity has been the same for "
                    f"all images since step {start}; lower training.learning_rate, then run again"
                )

    @torch.no_grad()
    def _sizes(self) -> list[Tensor]:
        """Return the norm of every weight, float32 () each, on the device."""
        return [weight.detach().norm() for weight in self.weights]

    def _grown(self) -> str:
        """Return the stage whose weight grew most since the start; a weight that is not finite counts as largest."""
        pairs = zip(self._sizes(), self.sizes, strict=True)
        growth = [(norm / (initial + 1)).item() for norm, initial in pairs]  # + 1, because biases start near zero
        largest = max(range(len(growth)), key=lambda n: growth[n] if math.isfinite(growth[n]) else math.inf)
        return self._owner(largest)

    def _owner(self, number: int) -> str:
        """Return the name of the stage that a weight belongs to."""
        weight = self.weights[number]
        stages = zip(self.network.stage_names, self.network.stages, strict=True)
        return next(name for name, stage in stages if any(weight is parameter for parameter in stage.parameters()))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to raise the same error."""
        return {name: getattr(self, name) for name in (*SINCE, "looked", "sizes")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        device = self.exploded.device
        self.looked = state["looked"]
        self.sizes = [size.to(device) for size in state["sizes"]]
        for name in SINCE:
            setattr(self, name, state[name].to(device))
