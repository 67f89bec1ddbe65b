"""Runs that cannot go on stop with the step and the layer, for every rule; runs that can are left alone."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.rule_kinds import RULES
from nmnc.training import trainer as training
from nmnc.training.trainer import Trainer
from nmnc.training.watch import DEAD_AFTER, EXPLOSION, LOOK_EVERY, Watch, collapsed

KINDS = sorted(set(RULES) - {"untrained"})
LOGITS = torch.zeros(4, 2)
every_rule = pytest.mark.parametrize("kind", KINDS)


def network() -> Network:
    stages = [("one", nn.Linear(3, 4)), ("two", nn.Linear(4, 5)), ("logits", nn.Linear(5, 2))]
    return Network(stages)


def watch() -> Watch:
    torch.manual_seed(0)
    return Watch(network(), 2)


def losses(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of every step that will be made."""
    seen: list[float] = []
    step = run._step

    def spy(*batch: Tensor) -> Tensor:
        loss = step(*batch)
        seen.append(loss.item())
        return loss

    monkeypatch.setattr(run, "_step", spy)
    return seen


@pytest.mark.parametrize(
    ("losses", "fallen"),
    [
        ([], False),
        ([math.log(4)], False),  # never learned, so nothing collapsed
        ([1.0, 0.9], False),
        ([1.0, math.log(4)], True),
        ([1.0, 0.991 * math.log(4)], True),
        ([1.0, 0.98 * math.log(4)], False),
        ([0.96 * math.log(4), math.log(4)], False),
        ([1.0, 5.0, 1.1], False),  # it recovered
    ],
)
def test_a_loss_back_at_chance_is_a_collapse(losses: list[float], fallen: bool) -> None:
    assert collapsed(losses, 4) is fallen


def test_a_collapse_is_marked_in_every_epoch_and_told_once(toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy.trainer("nmnc")
    for step, loss in enumerate((None, 1.0, 1.4, 1.5, 0.9)):
        run.step = 6 * step
        run.epochs.append({"train_loss": loss})
        run._record_collapse()
    assert [row["collapsed"] for row in run.epochs] == [None, None, 12, 18, None]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "nmnc: warning: the training loss fell back to chance (1.400) in the epoch that ended at step 12"
    )


# Whole runs


@every_rule
def test_nan_weights_stop_a_run_soon(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    run = toy.trainer(kind, training={"epochs": 9, "batch_size": 8, "learning_rate": 1e-3})
    monkeypatch.setattr(training, "CHECK_EVERY", 5)
    step = run.optimiser.step

    def poisoned() -> None:
        step()
        if run.step == 6:
            with torch.no_grad():
                run.weights[2][0, 0] = math.nan  # of fc1

    monkeypatch.setattr(run.optimiser, "step", poisoned)
    with pytest.raises(UserError, match=r"^training: .*step \d+.* layer fc1\b") as caught:
        run.train(tmp_path / "state.pt")
    assert run.step <= 10
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "state.pt").exists()  # an epoch has 25 steps


@every_rule
def test_an_explosion_stops_a_run_at_its_first_step_over_the_bound(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # Grown weights instead of a rate: every rule then explodes alike, and stays finite.
    run = toy.trainer(kind, training={"epochs": 2, "batch_size": 8, "learning_rate": 1e-12})
    seen, step = losses(run, monkeypatch), run.optimiser.step

    def growing() -> None:
        step()
        with torch.no_grad():
            run.weights[-2].mul_(3)  # of the logits

    monkeypatch.setattr(run.optimiser, "step", growing)
    with pytest.raises(UserError, match="times chance") as caught:
        run.train(tmp_path / "state.pt")
    first = next(number for number, loss in enumerate(seen) if loss > EXPLOSION * math.log(4))
    assert 0 < first < 25
    assert f"at step {first}; the weights of layer logits grew most; lower training.learning_rate" in str(caught.value)


@every_rule
def test_a_dead_layer_stops_a_run_with_its_name(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    networks = {"net": {"kind": "convnet", "arguments": {"channels": [4], "hidden": [8, 6]}}}
    run = toy.trainer(kind, networks=networks, training={"epochs": 4, "batch_size": 8})
    step = run.optimiser.step

    def killing() -> None:
        step()
        if run.step >= 7:
            with torch.no_grad():
                run.weights[3].fill_(-1e3)  # bias of fc1: its ReLU is silent from step 8 on

    monkeypatch.setattr(run.optimiser, "step", killing)
    with pytest.raises(UserError, match=r"^training: step \d+: layer fc1 is dead\b.*learning_rate, then run again$"):
        run.train(tmp_path / "state.pt")
    assert run.step <= 50  # two epochs


@every_rule
def test_a_run_that_learns_is_left_alone(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    run = toy.trainer(kind, training={"epochs": 4})
    seen = losses(run, monkeypatch)
    run.train(tmp_path / "state.pt")
    assert len(run.epochs) == 5
    assert max(seen) < EXPLOSION * math.log(4) / 30  # far from the bound


# One by one


@pytest.mark.parametrize(("stage", "value"), [(0, math.nan), (1, -math.inf), (2, math.nan)])
def test_the_layer_whose_output_was_bad_first_is_named_though_all_later_ones_and_all_gradients_are(
    stage: int, value: float
) -> None:
    one = watch()
    one.see_outputs(0, [torch.ones(4, 4), torch.ones(4, 5)], LOGITS)
    one.see_gradients(0, torch.ones(6))
    one.check(1, torch.zeros(()))
    outputs = [torch.ones(4, 4), torch.ones(4, 5), torch.ones(4, 2)]
    for later in outputs[stage:]:
        later[2, 1] = value
    for step in (1, 2):
        one.see_outputs(step, outputs[:2], outputs[2])
        one.see_gradients(step, torch.full((6,), math.nan))
    name = ("one", "two", "logits")[stage]
    with pytest.raises(UserError, match=f"activity became NaN or infinite at step 1 in layer {name}; lower"):
        one.check(3, torch.tensor(math.nan))


def test_the_first_bad_gradient_is_named_the_last_layers_since_it_goes_back_to_all_before() -> None:
    one = watch()
    good = torch.ones(6)
    one.see_gradients(0, good)
    one.check(1, torch.zeros(()))
    one.see_gradients(1, torch.tensor([math.nan, math.nan, 1, math.inf, 1, 1]))
    one.see_gradients(2, torch.full((6,), math.nan))
    with pytest.raises(UserError, match="gradient became NaN or infinite at step 1 in layer two; lower"):
        one.check(3, torch.tensor(math.nan))


def test_weights_or_a_loss_alone_that_are_not_finite_are_named() -> None:
    one = watch()
    with pytest.raises(UserError, match="loss became NaN or infinite before step 4 in layer logits; lower"):
        one.check(4, torch.tensor(math.inf))
    with torch.no_grad():
        one.weights[2][0, 0] = math.inf
    with pytest.raises(UserError, match="weights became NaN or infinite before step 5 in layer two; lower"):
        one.check(5, torch.zeros(()))


def test_nan_after_an_explosion_does_not_hide_it() -> None:
    one = watch()
    one.see_loss(3, torch.tensor(one.bound * 0.99))
    one.check(4, torch.zeros(()))
    one.see_loss(4, torch.tensor(one.bound * 1.01))
    one.see_loss(5, torch.tensor(math.inf))
    one.see_gradients(5, torch.full((6,), math.nan))
    with torch.no_grad():
        one.weights[0].mul_(1e6)
    with pytest.raises(UserError, match=r"exceeded 693 \(1000 times chance\) at step 4; .* layer one grew most"):
        one.check(6, torch.tensor(math.nan))


@pytest.mark.parametrize("value", [0.0, 0.7, -1e4])
@pytest.mark.parametrize("stage", [0, 1])
def test_a_constant_layer_is_dead_after_a_while(value: float, stage: int) -> None:
    one = watch()
    generator = torch.Generator().manual_seed(0)
    for step in range(DEAD_AFTER + 2 * LOOK_EVERY):
        hidden = [torch.randn(6, 4, generator=generator), torch.randn(6, 2, 3, generator=generator)]
        if step >= LOOK_EVERY:
            hidden[stage] = torch.full_like(hidden[stage], value)
            hidden[stage][0] *= 1 + 1e-7  # the last bit may differ
        one.see_outputs(step, hidden, LOGITS)
        if step < LOOK_EVERY + DEAD_AFTER:
            one.check(step, torch.zeros(()))
    name = ("one", "two")[stage]
    with pytest.raises(UserError, match=rf"step 30: layer {name} is dead: .* since step {LOOK_EVERY};"):
        one.check(40, torch.zeros(()))


def test_a_layer_that_wakes_up_again_is_not_dead() -> None:
    one = watch()
    alive = torch.eye(4)
    for step in range(10 * DEAD_AFTER):
        silent = step % (DEAD_AFTER + LOOK_EVERY) < DEAD_AFTER
        one.see_outputs(step, [torch.zeros(4, 4) if silent else alive, alive[:, :3]], LOGITS)
        one.check(step, torch.zeros(()))


def test_a_single_image_says_nothing_of_a_layer() -> None:
    one = watch()
    for step in range(3 * DEAD_AFTER):
        one.see_outputs(step, [torch.ones(1, 4), torch.ones(1, 5)], LOGITS)
    one.check(60, torch.zeros(()))


def test_a_resumed_watch_stops_with_the_same_words() -> None:
    one, other = watch(), watch()
    one.see_loss(4, torch.tensor(one.bound * 2))
    one.see_outputs(5, [torch.full((4, 4), math.nan), torch.ones(4, 5)], LOGITS)
    one.see_gradients(5, torch.full((6,), math.nan))
    other.load_state_dict(one.state_dict())
    with pytest.raises(UserError, match="at step 4") as first:
        one.check(6, torch.zeros(()))
    with pytest.raises(UserError, match="at step 4") as second:
        other.check(6, torch.zeros(()))
    assert str(first.value) == str(second.value)
