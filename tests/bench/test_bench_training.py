"""The benches of training: the plain implementation computes what the rule computes, and the commands run."""

import csv
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nmnc.settings import Diagnostics, NetworkEntry, Noise, Run, Training
from nmnc.training.trainer import Trainer
from tests.places import BENCH


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The benches' own modules, as their commands import each other."""
    monkeypatch.syspath_prepend(str(BENCH))
    import plain_nmnc
    import step_time

    return plain_nmnc, step_time


@pytest.mark.parametrize("estimator", ["antithetic", "one_sided"])
@pytest.mark.parametrize("refresh_every", [1, 2])
def test_plain_formulas_give_the_gradients_of_the_rule(
    benches: tuple[ModuleType, ModuleType], estimator: str, refresh_every: int
) -> None:
    plain_nmnc, step_time = benches
    batch = 16
    shown = step_time.images(4 * batch)
    noise = Noise(
        dimensions=5, images=8, basis_images=batch, basis_every=2, refresh_every=refresh_every, estimator=estimator
    )
    entry = NetworkEntry(kind="convnet", arguments={"channels": [4, 6], "hidden": [12]})
    run = Run(kind="nmnc", training=Training(batch_size=batch), noise=noise, diagnostics=Diagnostics())
    made = Trainer(shown, entry, run, 0, torch.device("cpu"))
    made.rule.start(made._first_outputs())
    generator = torch.Generator()
    generator.set_state(made.rule.generator.get_state())
    plain = plain_nmnc.PlainNmnc(made.network, noise, plain_nmnc.gram_basis, generator)
    kept = {name: value.clone() for name, value in made.network.state_dict().items()}
    for step in range(4):
        chosen = slice(step * batch, (step + 1) * batch)
        made.network.load_state_dict(kept)
        made.optimiser.zero_grad()
        plain.gradients(step, made.dataset.normalise(shown.train_images[chosen]), shown.train_labels[chosen])
        torch.nn.utils.clip_grad_norm_(made.weights, 1.0)
        expected = {name: weight.grad.clone() for name, weight in made.network.named_parameters()}
        made._step(shown.train_images[chosen], shown.train_labels[chosen])
        for name, weight in made.network.named_parameters():
            assert expected[name].abs().max() > 1e-6
            torch.testing.assert_close(weight.grad, expected[name], rtol=1e-3, atol=1e-6)


def test_a_thin_svd_and_the_gram_matrix_span_the_same(benches: tuple[ModuleType, ModuleType]) -> None:
    plain_nmnc, _ = benches
    activity = torch.randn(40, 300, generator=torch.Generator().manual_seed(0))
    svd, gram = plain_nmnc.svd_basis(activity, 6), plain_nmnc.gram_basis(activity, 6)
    torch.testing.assert_close(torch.linalg.svdvals(svd.T @ gram), torch.ones(6), rtol=0, atol=1e-5)


def run(name: str, *arguments: str) -> str:
    """What a bench prints."""
    done = subprocess.run([sys.executable, BENCH / name, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_step_time_writes_every_comparison(tmp_path: Path) -> None:
    said = run("step_time.py", "--quick", "--out", str(tmp_path / "rows.csv"))
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(said.splitlines()) == 14
    assert [row["other"] for row in rows].count("backprop") == 12
    assert all(0 < float(row["ratio_low"]) <= float(row["ratio"]) <= float(row["ratio_high"]) for row in rows)


@pytest.mark.slow
def test_full_run_trains_to_the_end(tmp_path: Path) -> None:
    said = run("full_run.py", "--quick", "--precision", "bfloat16", "--out", str(tmp_path / "rows.csv"))
    with (tmp_path / "rows.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["images"], row["epochs"], row["precision"]) == ("512", "2", "bfloat16")
    assert float(row["seconds"]) > 0
    assert row["data"] in said


@pytest.mark.slow
def test_peak_memory_of_a_rule_counts_the_network() -> None:
    """AlexNet's weights, their gradients and momentum alone take 12 bytes a parameter."""
    assert float(run("memory.py", "--one", '["nmnc", 8, 64, 16, "cpu"]').split()[-1]) > 100
