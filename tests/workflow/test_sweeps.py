"""Sweeps: copies of rules with other values, the points they stand for, and the table of them."""

from typing import Any

import pytest

from nmnc.config import study_from
from nmnc.errors import UserError
from nmnc.runs import parameters, sweep_points, trained
from tests.places import CONFIG
from workflow.study import Study

NET = {"kind": "mlp", "arguments": {"hidden": [8]}}


def study(**changes: Any) -> Study:
    content: dict[str, Any] = {
        "study": "small",
        "seeds": [0, 3],
        "dataset": {"name": "digits"},
        "networks": {"net": NET, "wide": NET},
        "rules": {
            "vnc": {"kind": "vnc", "networks": ["net"], "noise": {"rate": 0.1}},
            "nmnc": {"kind": "nmnc"},
            "backprop": {"kind": "backprop", "seeds": [5]},
        },
        "training": {"epochs": 4},
        "noise": {"dimensions": 4, "images": 8},
        "sweeps": {
            "images": {"rules": ["nmnc", "vnc"], "values": {"noise.images": [2, 8]}, "training": {"epochs": 2}},
            "both": {
                "rules": ["vnc"],
                "values": {"training.learning_rate": [0.05, 0.1], "noise.rate": [0.1, 0.5]},
                "networks": ["wide"],
                "seeds": [7],
            },
        },
    } | changes
    return study_from(content, "small.yaml", Study)


def test_every_combination_is_a_rule_and_the_rules_own_values_are_the_rule_itself() -> None:
    labels = study().labels()
    assert labels == [
        "vnc", "nmnc", "backprop", "nmnc-images-2", "vnc-images-2", "vnc-learning_rate-0.05-rate-0.5",
        "vnc-learning_rate-0.1-rate-0.1", "vnc-learning_rate-0.1-rate-0.5", "untrained",
    ]  # fmt: skip
    assert [point.label for point in study().points("images")] == ["nmnc-images-2", "nmnc", "vnc-images-2", "vnc"]


@pytest.mark.parametrize(
    ("changed", "schedule", "copied"),
    [
        ({}, "cosine", False),
        ({"epochs": 2}, "constant", False),
        ({"epochs": 2}, "cosine", True),
        ({"epochs": 2, "learning_rate": 0.3}, "constant", True),
        ({"weight_decay": 0.1}, "constant", True),
    ],
)
def test_a_rule_is_the_point_only_where_its_run_passes_through_what_the_copy_would_be(
    changed: dict[str, Any], schedule: str, copied: bool
) -> None:
    sweep = {"rules": ["nmnc"], "values": {"noise.images": [8]}, "training": changed}
    found = study(training={"epochs": 4, "schedule": schedule}, sweeps={"s": sweep})
    [point] = found.points("s")
    assert point.label == ("nmnc-images-8" if copied else "nmnc")
    for key, value in changed.items() if copied else ():
        assert getattr(found.run(point.label).training, key) == value


def test_copies_keep_what_the_sweep_does_not_change() -> None:
    run = study().run("vnc-images-2")
    assert (run.kind, run.noise.images, run.noise.rate, run.training.epochs) == ("vnc", 2, 0.1, 2)
    own = study().run("vnc")
    assert (own.noise.images, own.training.epochs) == (8, 4)


def test_rules_and_sweeps_run_on_their_networks_from_their_seeds() -> None:
    runs = {(run.network, run.rule, run.seed) for run in trained(study())}
    assert {run for run in runs if run[1] == "vnc"} == {("net", "vnc", 0), ("net", "vnc", 3)}
    assert {run for run in runs if run[1] == "backprop"} == {("net", "backprop", 5), ("wide", "backprop", 5)}
    label = "vnc-learning_rate-0.1-rate-0.5"
    assert {run for run in runs if run[1] == label} == {("wide", label, 7)}
    assert {run[0] for run in runs if run[1] == "nmnc-images-2"} == {"net", "wide"}


def test_only_the_chosen_rules_are_scored() -> None:
    chosen = study(evaluation={"rules": ["nmnc", "untrained"]})
    compared = chosen.scored()
    assert {run.rule for run in compared} == {"nmnc", "untrained", "pixels"}
    assert {row["rule"] for row in parameters(chosen) if row["scored"] == "yes"} == {"nmnc", "untrained", "pixels"}
    assert study(evaluation={"benchmarks": []}).scored() == []


def test_the_table_of_sweeps_names_every_point() -> None:
    rows = list(sweep_points(study()))
    assert {"sweep": "images", "rule": "vnc", "label": "vnc", "value": 8, "values": "noise.images=8"} in rows
    assert len(rows) == 4 + 4
    labels = study().labels()
    assert all(row["label"] in labels for row in rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rules": ["vmc"]}, r"sweeps\.s: unknown rule 'vmc'; did you mean 'vnc'"),
        ({"values": {"noise.image": [1]}}, r"sweeps\.s: unknown key 'noise\.image'; did you mean 'noise\.images'"),
        ({"values": {"noise.images": [0]}}, r"rules\.vnc-images-0\.noise\.images: .*greater than or equal to 1"),
        ({"networks": ["nett"]}, r"rules\.vnc-images-2\.networks: unknown network 'nett'; did you mean 'net'"),
    ],
)
def test_impossible_sweeps_are_refused(changes: dict[str, Any], words: str) -> None:
    sweep = {"rules": ["vnc"], "values": {"noise.images": [2]}} | changes
    with pytest.raises(UserError, match=words):
        study(sweeps={"s": sweep})


def test_an_unknown_rule_to_score_is_refused() -> None:
    with pytest.raises(UserError, match=r"evaluation\.rules: unknown rule 'nmmc'; did you mean 'nmnc'"):
        study(evaluation={"rules": ["nmmc"]})


@pytest.mark.parametrize("name", ["claims", "claims_gpu", "search"])
def test_the_studies_of_the_claims_are_valid(name: str) -> None:
    from workflow.study import load_study

    assert len(load_study(CONFIG / f"{name}.yaml").seeds) in (1, 6, 10)
