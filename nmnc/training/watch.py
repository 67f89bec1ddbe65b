"""What stops a run that cannot go on: NaN, explosion, dead layers. Seen on the device, asked for between steps."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nmnc.errors import UserError
from nmnc.networks import Network

#: A loss above so many times that of chance (ln classes) is an explosion; runs that learn stay below a thirtieth of it.
EXPLOSION = 1000
#: Steps between two looks at the hidden stages' activity; a stage is dead when it was constant for DEAD_AFTER steps.
LOOK_EVERY, DEAD_AFTER = 10, 20
#: Steps between two questions whether all is well; each waits for the device.
CHECK_EVERY = 50
#: What a watch remembers as steps, on the device.
SINCE = ("bad_output", "bad_gradient", "exploded", "constant_since")
MEND = "lower training.learning_rate or set training.clip_norm, then run again"


def collapsed(losses: Sequence[float], classes: int) -> bool:
    """Whether an epoch's mean training loss, the last of these, is back at chance (ln classes) after it was below."""
    chance = math.log(max(classes, 2))
    return bool(losses) and losses[-1] >= 0.99 * chance and min(losses) <= 0.95 * chance


class Watch:
    """Remembers on the device at which step something went wrong first; -1 stands for never.

    Attributes:
        bad_output: int64 (stages,), first step whose output was NaN or infinite.
        bad_gradient: int64 (weights,), first step whose gradient was NaN or infinite.
        exploded: int64 (), first step whose loss was above the bound.
        constant_since: int64 (hidden stages,), since which step activity has been the same for all images.
        looked: step of the last look at the activity.
    """

    def __init__(self, network: Network, classes: int) -> None:
        """Remember how large the weights of `network` are now; `classes` gives the loss of chance."""
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
        """Look at the norm of each weight's gradient, (weights,)."""
        self.bad_gradient.masked_fill_(~norms.isfinite() & (self.bad_gradient < 0), step)

    def see_loss(self, step: int, loss: Tensor) -> None:
        """Look at the mean loss of a step, ()."""
        high = (loss > self.bound) & loss.isfinite() & (self.exploded < 0)
        self.exploded.masked_fill_(high, step)

    @torch.no_grad()
    def see_outputs(self, step: int, hidden: list[Tensor], logits: Tensor) -> None:
        """Look at the stages' outputs (batch, ...): whether they are finite, and every so many steps whether constant.

        Constant is what varies less over the images than a part in a million of its largest value.
        """
        finite = torch.stack([output.sum() for output in (*hidden, logits)]).isfinite()
        self.bad_output.masked_fill_(~finite & (self.bad_output < 0), step)
        if step % LOOK_EVERY or len(hidden[0]) == 1:
            return
        self.looked = step
        same = torch.stack([(x - x[:1]).abs().amax() <= 1e-6 * x.abs().amax() for x in hidden])
        since = self.constant_since.masked_fill(~same, -1)
        self.constant_since = since.masked_fill(same & (since < 0), step)

    def check(self, step: int, total: Tensor) -> None:
        """Raise when something went wrong. Waits for the device.

        Args:
            step: steps made so far.
            total: summed loss of the epoch's steps.

        Raises:
            UserError: which step, which layer, what to do.
        """
        finite = torch.stack([total.isfinite(), *(size.isfinite() for size in self._sizes())])
        seen = (self.bad_output, self.bad_gradient, self.exploded.view(1), self.constant_since, finite)
        numbers = iter(torch.cat(seen).tolist())
        outputs, gradients, (exploded,), since, finite_ones = ([next(numbers) for _ in part] for part in seen)
        first = min((number for number in outputs + gradients if number >= 0), default=None)
        if exploded >= 0 and (first is None or exploded < first):
            raise UserError(
                f"training: the loss exceeded {self.bound:.0f} ({EXPLOSION} times chance) at step {exploded}; "
                f"the weights of layer {self._grown()} grew most; {MEND}"
            )
        if first is not None:
            # What is not finite spreads forward to later outputs, and so to all gradients; backward to earlier ones.
            if first in outputs:
                what, layer = "activity", self.network.stage_names[outputs.index(first)]
            else:
                what, layer = "gradient", self._owner(max(n for n, step in enumerate(gradients) if step == first))
            raise UserError(f"training: the {what} became NaN or infinite at step {first} in layer {layer}; {MEND}")
        if not all(finite_ones):
            broken = finite_ones[1:].index(0) if 0 in finite_ones[1:] else len(self.weights) - 1
            what = "weights" if 0 in finite_ones[1:] else "loss"
            raise UserError(
                f"training: the {what} became NaN or infinite before step {step} in layer {self._owner(broken)}; {MEND}"
            )
        for name, start in zip(self.network.stage_names, since, strict=False):
            if start >= 0 and self.looked - start >= DEAD_AFTER:
                raise UserError(
                    f"training: step {self.looked}: layer {name} is dead since step {start}: its activity is the "
                    "same for all images; lower training.learning_rate, then run again"
                )

    @torch.no_grad()
    def _sizes(self) -> list[Tensor]:
        """Norm of every weight, still on the device."""
        return [weight.detach().norm() for weight in self.weights]

    def _grown(self) -> str:
        """The stage with the weight that grew most since the start; a weight that is not finite grew most of all."""
        pairs = zip(self._sizes(), self.sizes, strict=True)
        growth = [(now / (start + 1)).item() for now, start in pairs]  # biases start at zero, or nearly
        largest = max(range(len(growth)), key=lambda n: growth[n] if math.isfinite(growth[n]) else math.inf)
        return self._owner(largest)

    def _owner(self, number: int) -> str:
        """Name of the stage that a weight belongs to."""
        weight = self.weights[number]
        stages = zip(self.network.stage_names, self.network.stages, strict=True)
        return next(name for name, stage in stages if any(weight is own for own in stage.parameters()))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to stop with the same words."""
        return {name: getattr(self, name) for name in (*SINCE, "looked", "sizes")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        device = self.exploded.device
        self.looked = state["looked"]
        self.sizes = [size.to(device) for size in state["sizes"]]
        for name in SINCE:
            setattr(self, name, state[name].to(device))
