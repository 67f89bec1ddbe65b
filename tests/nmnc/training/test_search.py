"""The table of a search: as many trials for every rule, judged on held-out training images."""

import csv
from pathlib import Path
from typing import Any

import pytest

from nmnc.config import study_from
from nmnc.data.dataset import load_dataset
from nmnc.errors import UserError
from nmnc.files.writing import write_csv
from nmnc.settings import Dataset
from nmnc.training.search import rows
from nmnc.training.trainer import EPOCH_COLUMNS
from tests.places import ROOT
from workflow.study import Study, load_study


def study(**changes: Any) -> Study:
    content: dict[str, Any] = {
        "study": "search",
        "seeds": [1, 2],
        "dataset": {"name": "digits", "train_images": 100, "validation_images": 50},
        "networks": {"net": {"kind": "mlp"}},
        "training": {"epochs": 2},
        "rules": {"vnc": {"kind": "vnc"}, "backprop": {"kind": "backprop"}},
        "sweeps": {
            "a": {"rules": ["vnc"], "values": {"training.learning_rate": [0.1, 0.2], "noise.rate": [0.5]}},
            "b": {"rules": ["backprop"], "values": {"training.learning_rate": [0.05, 0.1]}},
        },
        "evaluation": {"benchmarks": []},
    } | changes
    return study_from(content, "small.yaml", Study)


def write_epochs(results: Path, label: str, seed: int, accuracies: list[float]) -> None:
    lines = [{"epoch": n, "test_accuracy": value, "perturbations": 0} for n, value in enumerate(accuracies)]
    write_csv(results / "networks" / "net" / label / f"seed{seed}" / "epochs.csv", EPOCH_COLUMNS, lines)


def test_the_best_trial_of_each_rule_by_its_last_two_epochs(tmp_path: Path) -> None:
    # The first epochs would choose the other trial.
    for label, last in (("vnc-learning_rate-0.1-rate-0.5", 0.3), ("vnc-learning_rate-0.2-rate-0.5", 0.4)):
        write_epochs(tmp_path, label, 1, [0.9 - last, last, last + 0.1])
        write_epochs(tmp_path, label, 2, [0.9 - last, last, last + 0.2])
    for label, last in (("backprop", 0.6), ("backprop-learning_rate-0.1", 0.5)):
        for seed in (1, 2):
            write_epochs(tmp_path, label, seed, [0.1, last, last])
    table = list(rows(study(), tmp_path))
    chosen = {row["rule"]: row["values"] for row in table if row["chosen"] == "yes"}
    assert chosen == {"vnc": "training.learning_rate=0.2 noise.rate=0.5", "backprop": "training.learning_rate=0.05"}
    best = next(row for row in table if row["chosen"] == "yes" and row["rule"] == "vnc")
    assert best["accuracy"] == pytest.approx(0.475)
    assert (best["lowest"], best["highest"]) == (pytest.approx(0.45), pytest.approx(0.5))
    assert {row["trials"] for row in table} == {2}


def test_a_search_is_refused_where_it_would_be_unfair_or_see_the_test_set(tmp_path: Path) -> None:
    fewer = {"rules": ["backprop"], "values": {"training.learning_rate": [0.05]}}
    for label in ("vnc-learning_rate-0.1-rate-0.5", "vnc-learning_rate-0.2-rate-0.5", "backprop"):
        for seed in (1, 2):
            write_epochs(tmp_path, label, seed, [0.1, 0.1, 0.2])
    unequal = study(sweeps={**{k: v.model_dump() for k, v in study().sweeps.items() if k == "a"}, "b": fewer})
    with pytest.raises(UserError, match=r"rules have \[1, 2\] trials; give every rule the same number"):
        list(rows(unequal, tmp_path))
    with pytest.raises(UserError, match=r"must not see the test set; set dataset\.validation_images"):
        list(rows(study(dataset={"name": "digits"}), tmp_path))
    with pytest.raises(UserError, match="it has no sweeps; add the values to search"):
        list(rows(study(sweeps={}), tmp_path))
    with pytest.raises(UserError, match=r"backprop-learning_rate-0\.1/seed1/epochs\.csv is missing; make it with"):
        list(rows(study(), tmp_path))


def test_validation_images_follow_the_trained_ones_and_replace_the_test_set(tmp_path: Path) -> None:
    whole = load_dataset(Dataset(name="digits"), tmp_path)
    held_out = load_dataset(Dataset(name="digits", train_images=100, validation_images=50), tmp_path)
    assert held_out.train_images.equal(whole.train_images[:100])
    assert held_out.test_images.equal(whole.train_images[100:150])
    assert held_out.test_labels.equal(whole.train_labels[100:150])
    with pytest.raises(UserError, match=r"ask for 1400 \+ 50 of 1437 training images; lower dataset\.train_images"):
        load_dataset(Dataset(name="digits", train_images=1400, validation_images=50), tmp_path)


@pytest.mark.parametrize(
    ("rounds", "second_round"),
    [(("search", "search_more"), "search_again"), (("search_rare",), "search_rare_again")],
)
def test_the_second_round_runs_the_best_three_trials_of_every_rule_again(
    rounds: tuple[str, ...], second_round: str
) -> None:
    first: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for name in rounds:
        with (ROOT / f"results/reference/{name}/tables/search.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["accuracy"]:
                    own = first.setdefault((row["network"], row["rule"]), [])
                    own.append((float(row["accuracy"]), row["values"]))
    again = load_study(ROOT / f"config/{second_round}.yaml")
    assert set(again.seeds).isdisjoint({100}), "seeds that chose the three would choose them again"
    second: dict[tuple[str, str], set[str]] = {}
    for sweep in again.sweeps:
        for point in again.points(sweep):
            words = " ".join(f"{key}={value}" for key, value in point.values.items())
            for network in again.networks_of(point.label):
                rule = point.rule.removesuffix("_batch_norm")
                second.setdefault((network, rule), set()).add(words)
    assert second.keys() == first.keys()
    for whose, own in first.items():
        assert second[whose] == {words for _, words in sorted(own, key=lambda trial: -trial[0])[:3]}, whose
