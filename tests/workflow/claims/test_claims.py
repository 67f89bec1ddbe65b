"""Effects and verdicts on a study whose effects are known."""

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from nmnc.config import load_study
from nmnc.errors import UserError
from tests.places import ROOT
from tests.workflow.claims import claims_study
from workflow.claims import law, quantities, signals
from workflow.claims.runs import Runs
from workflow.claims.tables import angles, dimension, slopes, sweeps, write_claims
from workflow.claims.verdicts import load_predictions, verdict, verdicts


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(claims_study.write(tmp_path_factory.mktemp("study")))


def close(found: "pd.Series[float]", expected: float) -> None:
    """Six seeds, their mean as expected to within the seeds' own spread."""
    assert len(found) == 6
    assert found.mean() == pytest.approx(expected, abs=0.03)


def test_effects_are_what_the_study_was_made_of(runs: Runs) -> None:
    net: dict[str, Any] = {"network": "net"}
    close(quantities.accuracy_difference(runs, **net, a="nmnc", b="vnc"), 0.1)
    close(quantities.gap_closed(runs, **net, rule="nmnc", floor="vnc", ceiling="backprop"), 0.5)
    layers = ["conv1", "fc1"]
    for space in ("activity", "weight"):
        close(quantities.alignment_difference(runs, **net, a="nmnc", b="vnc", space=space, layers=layers), 0.3)
    alpha: dict[str, Any] = net | {"rule": "backprop", "column": "alpha_jacobian", "layers": ["conv1"]}
    close(quantities.alpha_level(runs, **alpha), 0.5)
    close(quantities.alpha_growth(runs, **alpha), 0.4)
    assert quantities.alpha_over_chance(runs, **alpha).mean() == pytest.approx(np.log2(0.5 / 0.05), abs=0.1)
    similarity: dict[str, Any] = {"benchmark": "simulated", "species": "monkey", "region": "IT"}
    close(quantities.similarity_difference(runs, **net, a="nmnc", b="vnc", **similarity), 0.01)


def test_effects_along_a_sweep(runs: Runs) -> None:
    sweep: dict[str, Any] = {"sweep": "images", "a": "nmnc", "b": "vnc"}
    close(quantities.sweep_difference(runs, **sweep, values=[1]), 0.2)
    close(quantities.sweep_difference(runs, **sweep, values=[1, 8]), 0.15)
    close(quantities.sweep_contrast(runs, **sweep, first=[1], second=[8]), 0.1)
    close(quantities.sweep_slope(runs, sweep="images", rule="vnc", values=[1, 8]), 0.15 / 3)
    close(quantities.sweep_step(runs, sweep="images", rule="vnc", first=8, second=1), 0.15)
    with pytest.raises(UserError, match=r"sweep images has no value 3 for nmnc; mend the prediction"):
        quantities.sweep_difference(runs, **sweep, values=[3])
    with pytest.raises(UserError, match=r"no sweep \['image'\] over rule 'vnc'"):
        quantities.sweep_step(runs, sweep="image", rule="vnc", first=8, second=1)


def test_perturbations_needed_are_the_least_over_sweep_and_epochs(runs: Runs) -> None:
    # .2 is passed by nmnc-images-1 in epoch 1 (10 perturbations), by vnc-images-1 in epoch 3 or 4 (.2 and .25).
    found = quantities.perturbations_ratio(runs, sweep="images", a="vnc", b="nmnc", accuracy=0.21)
    assert found.between(np.log2(2.9), np.log2(4.1)).all()
    # Accuracy .55 is never reached by either: both count with the most they spent.
    never = quantities.perturbations_ratio(runs, sweep="images", a="vnc", b="nmnc", accuracy=0.9)
    assert never.eq(0).all()


def test_effective_samples_are_those_of_the_weights() -> None:
    for images, rate, refreshes in ((8, 0.2, 7), (3, 0.5, 1), (1, 0.02, 500)):
        weights = rate * (1 - rate) ** np.arange(refreshes)
        expected = images * weights.sum() ** 2 / (weights**2).sum()
        assert law.effective_samples(images, rate, refreshes) == pytest.approx(expected)
    assert law.effective_samples(8, 0.2, 10_000) == pytest.approx(8 * 1.8 / 0.2)


def test_the_law_tells_the_better_rule_from_alpha_d_n_and_samples(runs: Runs) -> None:
    table = law.points(runs, "nmnc", "vnc")
    assert set(table["setting"]) == {"centre", "images 1"}
    assert len(table) == 2 * len(claims_study.LAYERS) * 6
    assert (table["K_a"] == table["K_b"]).all()
    alpha, k, d, n = (table[column] for column in ("alpha", "K_a", "d", "n"))
    # At equal K the margin is method.md's.
    np.testing.assert_allclose(table["margin"], alpha - (k + d + 1) / (k + n + 1))
    assert ((table["margin"] > 0) == (table["law"] > 0)).all()
    agreement = quantities.law_agreement(runs, a="nmnc", b="vnc")
    expected = (table["law"] > 0).groupby(table["seed"]).mean()  # NMNC's cosine is the higher one everywhere
    np.testing.assert_allclose(agreement, expected)


def test_dimension_slope_and_angles_from_the_tables_of_diagnose(tmp_path: Path) -> None:
    folder = claims_study.write(tmp_path / "study")
    rng = np.random.default_rng(1)
    runs = pd.read_csv(folder / "tables" / "runs.csv")
    rows = []
    for width, seed in [(width, seed) for width in (100, 200, 400, 800, 1600) for seed in claims_study.SEEDS]:
        network = f"w{width}"
        below = folder / "networks" / network / "backprop-width" / f"seed{seed}"
        below.mkdir(parents=True)
        alignment = pd.read_csv(folder / "networks" / "net" / "backprop" / f"seed{seed}" / "alignment.csv")
        alignment.assign(n=width).to_csv(below / "alignment.csv", index=False)
        measured = [
            {
                "layer": layer,
                "quantity": "two_nn",
                "fraction": 1.0,
                "n_units": width,
                "value": 3 * width**0.3 * np.exp(0.01 * rng.standard_normal()),
            }
            for layer in ("conv1", "fc1")
        ]
        degrees = [("principal", 0.0), ("principal", 60.0), ("random", 90.0), ("random", 90.0)]
        measured += [{"layer": "conv1", "quantity": "principal_angle", "subspace": s, "d": 64, "axis": i % 2,
                      "value": v} for i, (s, v) in enumerate(degrees)]  # fmt: skip
        measured += [{"layer": "conv1", "quantity": "cosine_weight", "signal": s, "value": v}
                     for s, v in (("gradient", 0.9), ("mean_jacobian", 0.5))]  # fmt: skip
        (folder / "manifold" / network / "backprop-width").mkdir(parents=True, exist_ok=True)
        pd.DataFrame(measured).to_csv(folder / "manifold" / network / "backprop-width" / f"seed{seed}.csv", index=False)
        rows.append({"network": network, "rule": "backprop-width", "kind": "backprop", "seed": seed})
    pd.concat([runs, pd.DataFrame(rows)]).to_csv(folder / "tables" / "runs.csv", index=False)
    found = quantities.dimension_slope(Runs(folder), rules=["backprop-width"], estimator="two_nn")
    assert len(found) == 6
    np.testing.assert_allclose(found, 0.3, atol=0.03)
    (row,) = slopes(Runs(folder), 0.95).to_dict("records")
    assert (row["rule"], row["estimator"], row["n"]) == ("backprop-width", "two_nn", 6)
    assert (row["mean"], row["ci_low"] < 0.3 < row["ci_high"]) == (pytest.approx(found.mean()), True)
    angles_found = quantities.angle_difference(
        Runs(folder), network="w100", rule="backprop-width", layers=["conv1"], d=64
    )
    np.testing.assert_allclose(angles_found, (1 + 0.25) / 2)
    # Seeds are what is counted: axes and signals have rows of their own.
    of_layers = dimension(Runs(folder), 0.95)
    assert set(of_layers["n"]) == {6}
    by_signal = of_layers[of_layers["quantity"].eq("cosine_weight") & of_layers["network"].eq("w100")]
    assert dict(zip(by_signal["signal"], by_signal["mean"], strict=True)) == {"gradient": 0.9, "mean_jacobian": 0.5}
    shared = angles(Runs(folder), 0.95).set_index(["network", "subspace"])["mean"]
    assert shared["w100"].to_dict() == {"principal": pytest.approx(0.625), "random": pytest.approx(0)}
    # While a width is missing there is no slope.
    (folder / "manifold" / "w1600" / "backprop-width" / "seed1.csv").unlink()
    assert len(quantities.dimension_slope(Runs(folder), rules=["backprop-width"], estimator="two_nn")) == 5
    for file in (folder / "manifold" / "w1600" / "backprop-width").iterdir():
        file.unlink()
    assert quantities.dimension_slope(Runs(folder), rules=["backprop-width"], estimator="two_nn").empty


def test_losses_of_exact_signals_and_of_the_estimation(tmp_path: Path) -> None:
    folder = claims_study.write(tmp_path / "study")
    exact = {("mean_jacobian", ""): 0.95, ("gradient", "principal"): 0.8, ("mean_jacobian", "principal"): 0.75,
             ("gradient", "random"): 0.3, ("mean_jacobian", "random"): 0.2}  # fmt: skip
    rows = [
        {"layer": layer, "quantity": f"cosine_{space}", "signal": signal, "subspace": subspace, "value": value,
         "d": 64 if subspace else None}
        for (signal, subspace), value in exact.items()
        for layer in ("conv1", "fc1")
        for space in ("activity", "weight")
    ]  # fmt: skip
    other = [row | {"d": 32, "value": 0.1} for row in rows if row["d"]]
    below = folder / "manifold" / "net" / "nmnc"
    below.mkdir(parents=True)
    for seed in claims_study.SEEDS:
        pd.DataFrame(rows + other).to_csv(below / f"seed{seed}.csv", index=False)
    runs = Runs(folder)
    arguments: dict[str, Any] = {
        "network": "net",
        "rule": "nmnc",
        "space": "weight",
        "layers": ["conv1", "fc1"],
        "d": 64,
    }
    np.testing.assert_allclose(quantities.signal_loss_difference(runs, **arguments), 0.15)
    # The study's own weight-space cosine is its rule's cosine less .05.
    close(quantities.estimation_loss(runs, **arguments), 0.75 - 0.45)
    found = signals.losses(runs)
    assert set(found["signal"]) == {*signals.EXACT, "the rule's own"}
    assert set(found["rule"]) == {"nmnc"}
    assert quantities.signal_loss_difference(runs, **(arguments | {"rule": "vnc"})).empty


@pytest.mark.parametrize(
    ("low", "high", "n", "side", "threshold", "expected"),
    [
        (0.1, 0.3, 6, "above", 0.05, "supported"),
        (0.1, 0.3, 5, "above", 0.05, "undecided"),
        (0.0, 0.3, 6, "above", 0.05, "undecided"),
        (-0.2, 0.04, 6, "above", 0.05, "refuted"),
        (0.1, 0.3, 6, "below", 0.05, "refuted"),
        (-0.2, 0.04, 6, "below", 0.05, "supported"),
        (None, None, 1, "below", 0.05, "undecided"),
    ],
)
def test_verdicts(low: float | None, high: float | None, n: int, side: str, threshold: float, expected: str) -> None:
    assert verdict(low, high, n, side, threshold) == expected


def prediction(**changes: Any) -> dict[str, Any]:
    arguments = {"network": "net", "a": "nmnc", "b": "vnc"}
    one = {"says": "it is better", "quantity": "accuracy_difference", "arguments": arguments, "above": 0.0} | changes
    return {"C4": {"title": "a claim", "predictions": {"C4.1": one}}}


def test_the_interval_and_p_are_scipys(runs: Runs) -> None:
    (row,) = verdicts(runs, prediction(above=0.05), "CPU")
    effects = quantities.accuracy_difference(runs, network="net", a="nmnc", b="vnc")
    test = stats.ttest_1samp(effects, 0.05)
    interval = stats.ttest_1samp(effects, 0.0).confidence_interval()
    assert row["p"] == pytest.approx(test.pvalue)
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert (row["verdict"], row["n"], row["n_missing"], row["tier"]) == ("supported", 6, 0, "CPU")
    (refuted,) = verdicts(runs, prediction(above=0.3), "CPU")
    assert refuted["verdict"] == "refuted"


def test_an_unfinished_study_is_undecided_and_says_how_many_seeds_there_are(tmp_path: Path) -> None:
    folder = claims_study.write(tmp_path / "study")
    (folder / "networks" / "net" / "vnc" / "seed4" / "epochs.csv").unlink()
    (row,) = verdicts(Runs(folder), prediction(), "CPU")
    assert (row["verdict"], row["n"], row["n_missing"]) == ("undecided", 5, 1)
    nothing = prediction(quantity="dimension_slope", arguments={"rules": ["nmnc"], "estimator": "two_nn"})
    (empty,) = verdicts(Runs(folder), nothing, "CPU")
    assert (empty["verdict"], empty["n"], empty["interval_method"]) == ("undecided", 0, "no finished runs")


@pytest.mark.parametrize(
    ("arguments", "foreign"),
    [
        ({"network": "net", "a": "nmcn", "b": "vnc"}, "'nmcn'"),
        ({"network": "nett", "a": "nmnc", "b": "vcn"}, "'vcn', 'nett'"),
    ],
)
def test_labels_that_the_study_does_not_have_are_named(runs: Runs, arguments: dict[str, str], foreign: str) -> None:
    (row,) = verdicts(runs, prediction(arguments=arguments), "CPU")
    assert (row["verdict"], row["interval_method"]) == ("undecided", f"not in this study: {foreign}")


def test_tables_and_figures_are_written_and_the_same_each_time(tmp_path: Path) -> None:
    folder = claims_study.write(tmp_path / "study")
    file = tmp_path / "predictions.yaml"
    file.write_text(yaml.safe_dump({"claims": prediction()}), encoding="utf-8")
    write_claims(folder, file, "CPU")
    first = {path.name: path.read_bytes() for path in sorted((folder / "tables").rglob("*.csv"))}
    assert pd.read_csv(folder / "tables" / "claims.csv")["verdict"].tolist() == ["supported"]
    assert len(pd.read_csv(folder / "tables" / "claims" / "effects.csv")) == 6
    swept = pd.read_csv(folder / "tables" / "claims" / "C4_sweeps.csv")
    assert swept.loc[swept["label"] == "vnc-images-1", "mean"].item() == pytest.approx(0.25, abs=0.03)
    assert (folder / "figures" / "claims" / "claims_verdicts.png").exists()
    write_claims(folder, file, "CPU")
    assert first == {path.name: path.read_bytes() for path in sorted((folder / "tables").rglob("*.csv"))}


def test_verdicts_follow_from_what_is_published_without_the_networks(tmp_path: Path) -> None:
    folder, published = claims_study.write(tmp_path / "study"), tmp_path / "published"
    file = tmp_path / "predictions.yaml"
    file.write_text(yaml.safe_dump({"claims": prediction()}), encoding="utf-8")
    write_claims(folder, file, "CPU")
    shutil.copytree(folder / "tables", published / "tables")
    shutil.copy(folder / "dataset.json", published)
    records = published / "tables" / "claims" / "runs"
    (records / "epochs.csv.gz").write_bytes(gzip.compress((records / "epochs.csv").read_bytes()))
    (records / "epochs.csv").unlink()
    claims = load_predictions(file)
    of_both = [
        (
            pd.DataFrame(verdicts(runs, claims, "CPU")),
            law.points(runs, "nmnc", "vnc"),
            runs.scores.reset_index(drop=True),
        )
        for runs in (Runs(published), Runs(folder))
    ]
    for read, first in zip(*of_both, strict=True):
        pd.testing.assert_frame_equal(read, first, rtol=1e-7)  # tables are written with ten digits
    (records / "scores.csv").unlink()
    with pytest.raises(UserError, match=r"neither networks/ nor tables/claims/runs/scores\.csv; run the study first"):
        _ = Runs(published).scores


def test_networks_of_all_widths_are_points_of_a_sweep(tmp_path: Path) -> None:
    folder = claims_study.write(tmp_path / "study")
    runs = pd.read_csv(folder / "tables" / "runs.csv")
    of_vnc = runs[runs["rule"].eq("vnc")]
    for width in (50, 100):
        shutil.copytree(folder / "networks" / "net" / "vnc", folder / "networks" / f"w{width}" / "vnc")
        for path in (folder / "networks" / f"w{width}" / "vnc").rglob("*.csv"):
            table = pd.read_csv(path)
            changes = {"n": width} if path.name == "alignment.csv" else {"test_accuracy": width / 1000}
            table.assign(**changes).to_csv(path, index=False)
        runs = pd.concat([runs, of_vnc.assign(network=f"w{width}")])
    runs.to_csv(folder / "tables" / "runs.csv", index=False)
    found = sweeps(Runs(folder), 0.95).set_index(["sweep", "value"]).loc["width"]
    assert found["mean"].to_dict() == {
        50.0: pytest.approx(0.05), 100.0: pytest.approx(0.1), 400.0: pytest.approx(0.4, abs=0.03),
    }  # fmt: skip
    assert set(found["rule"]) == {"vnc"}


def test_effects_of_a_whole_sweep_wait_for_all_of_its_points(tmp_path: Path) -> None:
    folder = claims_study.write(tmp_path / "study")
    (folder / "networks" / "net" / "nmnc-images-1" / "seed4" / "epochs.csv").unlink()
    (folder / "networks" / "net" / "nmnc-images-1" / "seed4" / "alignment.csv").unlink()
    found = quantities.perturbations_ratio(Runs(folder), sweep="images", a="vnc", b="nmnc", accuracy=0.21)
    assert sorted(found.dropna().index) == [1, 2, 3, 5, 6]
    assert sorted(quantities.law_agreement(Runs(folder), a="nmnc", b="vnc").index) == [1, 2, 3, 5, 6]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("claims: [", "not valid YAML"),
        ("claims: {}\nclaims: {}", "the key 'claims' is given twice"),
        ("x: 1", "no readable file of predictions"),
        (yaml.safe_dump({"claims": prediction(quantity="luck")}), r"C4\.1: unknown quantity 'luck'; choose from"),
        (yaml.safe_dump({"claims": {"C4": {"title": "a claim"}}}), r"C4: no predictions; add them, or delete"),
        (yaml.safe_dump({"claims": {"C4": {"predictions": {"C4.1": {"says": "x"}}}}}), r"C4\.1: quantity is missing"),
        (yaml.safe_dump({"claims": prediction(below=1)}), r"C4\.1: give one threshold, either above or below"),
    ],
)
def test_unusable_predictions_are_refused(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "predictions.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load_predictions(file)


def test_arguments_that_do_not_fit_and_missing_tables_are_named(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"C4\.1: accuracy_difference: .*(unexpected keyword argument|missing a required)"
    ):
        verdicts(runs, prediction(arguments={"c": 1}), "CPU")
    swept = {"sweep": "images", "rule": "nmnc", "first": 1, "second": 3}
    with pytest.raises(UserError, match=r"C4\.1: sweep images has no value 3 for nmnc"):
        verdicts(runs, prediction(quantity="sweep_step", arguments=swept), "CPU")
    with pytest.raises(UserError, match=r"runs\.csv is missing; make it with: python -m nmnc runs"):
        verdicts(Runs(tmp_path), prediction(), "CPU")


#: Not of the GPU tier: where all networks have batch norm, and what is about the CPU tier's step sizes.
CPU_ONLY = {"C6.13", "C6.44", "C4.15", "C4.16", "C4.17", "C6.24", "C6.25", "C6.26"} | {
    *(f"C4.{number}" for number in range(23, 36)),
    *(f"C6.{number}" for number in range(27, 39)),
}


@pytest.mark.parametrize(("config", "left_out"), [("claims", set()), ("claims_gpu", CPU_ONLY)])
def test_the_projects_own_predictions_name_known_rules_and_sweeps(config: str, left_out: set[str]) -> None:
    content = load_predictions(ROOT / "docs" / "predictions.yaml")
    study = load_study(ROOT / "config" / f"{config}.yaml")
    for claim in content.values():
        for name, one in claim["predictions"].items():
            if name in left_out:
                continue
            arguments = one["arguments"]
            named = [arguments.get(key) for key in ("a", "b", "rule", "floor", "ceiling")]
            labels = [label for value in [*named, arguments.get("rules")] for label in np.atleast_1d(value or [])]
            assert set(labels) <= set(study.labels()), name
            assert set(np.atleast_1d(arguments.get("sweep") or [])) <= set(study.sweeps), name
            assert arguments.get("network") in {None, *study.networks}, name
