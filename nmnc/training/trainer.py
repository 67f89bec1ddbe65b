"""The training loop, which is the same for every rule."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from nmnc.data.augmentation import Augmentation
from nmnc.data.dataset import Dataset
from nmnc.device import memory_of
from nmnc.errors import UserError, in_one_line
from nmnc.interruption import Interruption
from nmnc.measure.diagnostics import diagnose, output_error
from nmnc.networks import build_network, layer_sizes
from nmnc.networks.replay import recording
from nmnc.networks.stage_check import check_stages
from nmnc.rules import make_rule
from nmnc.settings import NetworkEntry, Run
from nmnc.training.optimisation import clip, make_optimiser, set_step_size
from nmnc.training.resume import StateFile
from nmnc.training.watch import CHECK_EVERY, Watch, collapsed

EPOCH_COLUMNS = ("epoch", "train_loss", "test_accuracy", "perturbations", "forward_passes", "collapsed")


def seeds_of(seed: int) -> dict[str, int]:
    """Return independent seeds for each source of randomness; they do not depend on the rule."""
    state = np.random.SeedSequence(seed).generate_state(4, np.uint64) >> np.uint64(1)
    return dict(zip(("weights", "order", "noise", "augmentation"), (int(value) for value in state), strict=True))


class Trainer:
    """One run: a network, a rule and a seed.

    Attributes:
        network: the network, on the device.
        step: steps made so far, over all epochs.
        epochs: rows of epochs.csv so far.
        alignment: rows of alignment.csv so far.
        total: summed loss of the current epoch's steps.
        seconds: time spent in training steps, evaluation and diagnosis.
    """

    def __init__(self, dataset: Dataset, entry: NetworkEntry, run: Run, seed: int, device: torch.device) -> None:
        """Build everything that a run needs.

        Args:
            dataset: training and test images.
            entry: kind and arguments of the network.
            run: rule, training, noise and diagnostics.
            seed: decides weights, order of the data, augmentation and noise.
            device: CPU or GPU to train on.

        Raises:
            UserError: a setting that does not fit the network or the data set.
        """
        self.run, self.dataset, self.device = run, dataset.to(device), device
        seeds = seeds_of(seed)
        torch.manual_seed(seeds["weights"])  # for the initial weights, and later for dropout masks
        self.network = build_network(entry.kind, dataset.image_shape, dataset.classes, entry.arguments).to(device)
        sizes = layer_sizes(self.network, dataset.image_shape)
        if sizes[-1] != dataset.classes:
            raise UserError(
                f"network {entry.kind}: {sizes[-1]} outputs for {dataset.classes} classes; fix the last stage"
            )
        self.rule = make_rule(run.kind, self.network, sizes[:-1], dataset.classes, run.noise, seeds["noise"])
        training = run.training
        self.rule.rounded = training.precision == "bfloat16"
        self.weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimiser = make_optimiser([*self.weights, *self.rule.learned], training)
        self.augment = Augmentation(training.augmentation, seeds["augmentation"], device)
        self.order = torch.Generator().manual_seed(seeds["order"])
        self.images, self.labels = self.dataset.train_images, self.dataset.train_labels
        self.test_images, self.test_labels = self.dataset.test_images, self.dataset.test_labels
        self.steps_per_epoch = len(self.images) // training.batch_size
        if self.steps_per_epoch == 0 and training.epochs:
            raise UserError(f"training.batch_size {training.batch_size} exceeds the {len(self.images)} training images")
        self.steps = training.epochs * self.steps_per_epoch
        self.step = 0
        self.watch = Watch(self.network, dataset.classes)
        self.epochs: list[dict[str, Any]] = []
        self.alignment: list[dict[str, Any]] = []
        self.seconds = {"training": 0.0, "evaluation": 0.0, "diagnosis": 0.0}
        self.lap_started = time.monotonic()
        self._begin_epoch()
        check_stages(self.network, self.dataset.normalise(self.images[: max(2, run.noise.images)]), self.rule.local)

    def train(self, state_file: Path, interruption: Interruption | None = None) -> None:
        """Train for all epochs, resuming from `state_file` if it exists.

        The state is written after every epoch, every `checkpoint_minutes`, and when the run is interrupted.

        Raises:
            UserError: the loss, a gradient or activity became NaN or infinite, the loss exploded, a layer died
                (the message names step and layer), or the memory ran out.
            Interrupted: a signal asked the process to end; the state has been written.
        """
        file = StateFile(state_file, self.run.training.checkpoint_minutes, interruption or Interruption())
        with memory_of(self.device, lambda: f"training: step {self.step} on {self.device.type}"):
            with self._naming_step():
                self.rule.start(self._first_outputs())
            file.load(self)
            self.lap_started = time.monotonic()
            if not self.epochs:
                self._report(0, None)
            if self.run.kind != "untrained":
                self._finish(file)

    def _finish(self, file: StateFile) -> None:
        """Train the remaining epochs; report, check and save between steps."""
        # Rates are over the whole run, so that the remaining time includes evaluation and diagnosis.
        with tqdm(total=self.steps, initial=self.step, unit="step", smoothing=0, disable=None) as progress:
            before = self.rule.perturbations
            for epoch in range(len(self.epochs), self.run.training.epochs + 1):
                for _ in self._epoch(epoch):
                    self._update_progress(progress, self.rule.perturbations - before)
                    if file.is_due():
                        self.watch.check(self.step, self.total)
                        self._lap("training")
                        file.write(self)
                        file.end_if_interrupted(f"step {self.step} of {self.steps}")
                loss = (self.total / self.steps_per_epoch).item()
                self._lap("training")
                self._report(epoch, loss)
                self._begin_epoch()
                file.write(self)

    def _epoch(self, epoch: int) -> Iterator[None]:
        """Make the remaining steps of one epoch, yielding after each."""
        self.network.train()
        batch_size = self.run.training.batch_size
        shuffled = torch.randperm(len(self.images), generator=self.order).to(self.device)
        for chosen in shuffled.split(batch_size)[self.step - (epoch - 1) * self.steps_per_epoch : self.steps_per_epoch]:
            with self._naming_step():
                self.total += self._step(self.augment(self.images[chosen]), self.labels[chosen])
            if self.step % CHECK_EVERY == 0:
                self.watch.check(self.step, self.total)
            yield
        self.watch.check(self.step, self.total)

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make one step on a batch; return its mean loss, float32 (), on the device."""
        rule, training = self.rule, self.run.training
        set_step_size(self.optimiser, self.step, self.steps, training)
        with recording(self.network) as record, rule.carrying(), self._precision():
            outputs = self.network.outputs(self.dataset.normalise(images), connected=not rule.local)
        # From here on everything but the weights' gradients is float32, whatever the precision of the clean pass.
        *hidden, logits = (output.detach().float() for output in outputs)
        self.watch.see_outputs(self.step, hidden, logits)
        error = output_error(logits, labels)
        rule.observe(self.step, hidden, record)
        rule.forward_passes += len(images)
        gradients = [*rule.signals(error), error] if rule.local else [error]
        ends = outputs if rule.local else outputs[-1:]
        self.optimiser.zero_grad(set_to_none=True)
        rule.adapt(error, hidden)
        torch.autograd.backward(ends, _scaled(gradients, ends, len(images)))
        weight_gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in self.weights]
        feedback = [weight.grad for weight in rule.learned if weight.grad is not None]
        self.watch.see_gradients(self.step, clip(weight_gradients, training.clip_norm, feedback))
        self.optimiser.step()
        loss = F.cross_entropy(logits, labels)
        self.watch.see_loss(self.step, loss)
        self.step += 1
        return loss

    def _precision(self) -> torch.autocast:
        """Context manager: run the network, and later its backward pass, in the precision of the clean pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.rule.rounded)

    def _first_outputs(self) -> list[Tensor]:
        """Return hidden outputs for the first training images, in training mode; running statistics do not change."""
        images = self.images[: self.run.noise.basis_images]
        self.network.train()
        with torch.no_grad(), recording(self.network, update_statistics=False):
            outputs = self.network.outputs(self.dataset.normalise(images), connected=True)
        self.rule.forward_passes += len(images) if self.rule.local else 0
        return outputs[:-1]

    def _report(self, epoch: int, loss: float | None) -> None:
        """Evaluate the network and append the rows of one epoch."""
        accuracy = self.accuracy()
        self._lap("evaluation")
        counts = {"perturbations": self.rule.perturbations, "forward_passes": self.rule.forward_passes}
        with self._naming_step():
            held_out = slice(self.run.diagnostics.images)
            rows = diagnose(
                self.rule,
                self.run.noise,
                self.dataset.normalise(self.test_images[held_out]),
                self.test_labels[held_out],
                self.dataset.normalise(self.images[: self.run.noise.basis_images]),
            )
        self.epochs.append({"epoch": epoch, "train_loss": loss, "test_accuracy": accuracy} | counts)
        self._record_collapse()
        self.alignment += [{"epoch": epoch} | row for row in rows]
        self._lap("diagnosis")

    def _record_collapse(self) -> None:
        """Mark an epoch whose training loss fell back to chance; warn at the first one."""
        losses = [row["train_loss"] for row in self.epochs if row["train_loss"] is not None]
        fallen = collapsed(losses, self.dataset.classes)
        self.epochs[-1]["collapsed"] = self.step if fallen else None
        if fallen and not any(row["collapsed"] for row in self.epochs[:-1]):
            tqdm.write(
                f"nmnc: warning: the training loss fell back to chance ({losses[-1]:.3f}) in the epoch that ended at "
                f"step {self.step}; lower training.learning_rate or noise.rate, then run again",
                file=sys.stderr,
            )

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the fraction of test images that are classified correctly."""
        self.network.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        batches = (tensor.split(self.run.training.batch_size) for tensor in (self.test_images, self.test_labels))
        for images, labels in zip(*batches, strict=True):
            right += (self.network(self.dataset.normalise(images)).argmax(1) == labels).sum()
        return right.item() / len(self.test_labels)

    def _update_progress(self, progress: tqdm, perturbations: int) -> None:
        """Advance the progress bar by a step; show perturbations per second and the last accuracy."""
        if progress.disable:
            return
        elapsed = progress.format_dict["elapsed"]
        rate = {"perturbations/s": f"{perturbations / elapsed:.3g}"} if perturbations and elapsed else {}
        progress.set_postfix(rate | {"accuracy": self.epochs[-1]["test_accuracy"]}, refresh=False)
        progress.update()

    @contextmanager
    def _naming_step(self) -> Iterator[None]:
        """Context manager: add the step to errors of a rule or the diagnosis; earlier failures of training go first."""
        try:
            yield
        except (UserError, torch.linalg.LinAlgError) as error:
            self.watch.check(self.step, self.total)
            reason = error if isinstance(error, UserError) else in_one_line(error)
            raise UserError(f"training: step {self.step}: {reason}") from None

    def _lap(self, what: str) -> None:
        """Add the time since the last lap to `what`."""
        now = time.monotonic()
        self.seconds[what] += now - self.lap_started
        self.lap_started = now

    def _begin_epoch(self) -> None:
        """Reset the summed loss; keep the generator's state, from which resuming redraws the epoch's order."""
        self.total = torch.zeros((), device=self.device)
        self.drawn_from = self.order.get_state()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs to reach the same weights, bit for bit."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rule": self.rule.state_dict(),
            "watch": self.watch.state_dict(),
            "order": self.drawn_from,
            "augmentation": self.augment.generator.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "step": self.step,
            "total": self.total,
            "epochs": self.epochs,
            "alignment": self.alignment,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rule.load_state_dict(state["rule"])
        self.watch.load_state_dict(state["watch"])
        self.order.set_state(state["order"])
        self.drawn_from = state["order"]
        self.augment.generator.set_state(state["augmentation"])
        torch.set_rng_state(state["torch"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.total = state["total"].to(self.device)
        self.epochs, self.alignment = state["epochs"], state["alignment"]


def _scaled(gradients: list[Tensor], ends: Sequence[Tensor], images: int) -> list[Tensor]:
    """Return gradients of the mean loss with respect to `ends`, from those of the summed loss, which are consumed.

    The list is emptied on the way because the signals of a large network take as much memory as its activity. The
    copies have the memory layout of the outputs, which makes the backward pass of channels-last pooling several times
    faster.
    """
    scaled = []
    for end in ends:
        gradient = gradients.pop(0) / images
        scaled.append(torch.empty_like(end).copy_(gradient.view_as(end)))
    return scaled
