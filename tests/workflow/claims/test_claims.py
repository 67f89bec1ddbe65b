"""Effects and verdicts on a study whose effects are known."""

import gzip
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from brain_eval.inference.intervals import MeanInterval
from nmnc.errors import UserError
from nmnc.noise.averaging import averaged_samples
from tests.places import ROOT
from tests.workflow.claims import claims_study
from workflow.claims import signals
from workflow.claims.law import LawAgreement
from workflow.claims.panels import Request
from workflow.claims.predictions import QUANTITIES, FigureEntry, Names, Prediction, Predictions, load_predictions
from workflow.claims.runs import Runs
from workflow.claims.tables import angles, dimension, slopes, sweeps, write_claims
from workflow.claims.verdicts import verdict, verdicts
from workflow.study import load_study


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(claims_study.write(tmp_path_factory.mktemp("study")))


def effect(runs: Runs, quantity: str, **arguments: Any) -> "pd.Series[float]":
    return QUANTITIES[quantity](**arguments).effects(runs)


def close(found: "pd.Series[float]", expected: float) -> None:
    """Six seeds, their mean as expected to within the seeds' own spread."""
    assert len(found) == 6
    assert found.mean() == pytest.approx(expected, abs=0.03)


def test_effects_are_what_the_study_was_made_of(runs: Runs) -> None:
    net: dict[str, Any] = {"network": "net"}
    close(effect(runs, "accuracy_difference", **net, a="nmnc", b="vnc"), 0.1)
    close(effect(runs, "gap_closed", **net, rule="nmnc", floor="vnc", ceiling="backprop"), 0.5)
    layers = ["conv1", "fc1"]
    for space in ("activity", "weight"):
        close(effect(runs, "alignment_difference", **net, a="nmnc", b="vnc", space=space, layers=layers), 0.3)
    alpha: dict[str, Any] = net | {"rule": "backprop", "column": "alpha_jacobian", "layers": ["conv1"]}
    close(effect(runs, "alpha_level", **alpha), 0.5)
    close(effect(runs, "alpha_growth", **alpha), 0.4)
    assert effect(runs, "alpha_over_chance", **alpha).mean() == pytest.approx(np.log2(0.5 / 0.05), abs=0.1)
    similarity: dict[str, Any] = {"benchmark": "simulated", "species": "monkey", "region": "IT"}
    close(effect(runs, "similarity_difference", **net, a="nmnc", b="vnc", **similarity), 0.01)


def test_effects_along_a_sweep(runs: Runs) -> None:
    sweep: dict[str, Any] = {"sweep": "images", "a": "nmnc", "b": "vnc"}
    close(effect(runs, "sweep_difference", **sweep, values=[1]), 0.2)
    close(effect(runs, "sweep_difference", **sweep, values=[1, 8]), 0.15)
    close(effect(runs, "sweep_contrast", **sweep, first=[1], second=[8]), 0.1)
    close(effect(runs, "sweep_slope", sweep="images", rule="vnc", values=[1, 8]), 0.15 / 3)
    close(effect(runs, "sweep_step", sweep="images", rule="vnc", first=8, second=1), 0.15)
    with pytest.raises(UserError, match=r"sweep images has no value 3 for nmnc; fix the prediction"):
        effect(runs, "sweep_difference", **sweep, values=[3])
    with pytest.raises(UserError, match=r"no sweep \['image'\] over rule 'vnc'"):
        effect(runs, "sweep_step", sweep="image", rule="vnc", first=8, second=1)


def test_perturbations_needed_are_the_least_over_sweep_and_epochs(runs: Runs) -> None:
    # .2 is passed by nmnc-images-1 in epoch 1 (10 perturbations), by vnc-images-1 in epoch 3 or 4 (.2 and .25).
    found = effect(runs, "perturbations_ratio", sweep="images", a="vnc", b="nmnc", accuracy=0.21)
    assert found.between(np.log2(2.9), np.log2(4.1)).all()
    # Accuracy .55 is never reached by either: both count with the most they spent.
    never = effect(runs, "perturbations_ratio", sweep="images", a="vnc", b="nmnc", accuracy=0.9)
    assert never.eq(0).all()


def test_effective_samples_are_those_of_the_weights() -> None:
    for images, rate, refreshes in ((8, 0.2, 7), (3, 0.5, 1), (1, 0.02, 500)):
        weights = rate * (1 - rate) ** np.arange(refreshes)
        expected = images * weights.sum() ** 2 / (weights**2).sum()
        assert averaged_samples(images, rate, refreshes) == pytest.approx(expected)
    assert averaged_samples(8, 0.2, 10_000) == pytest.approx(8 * 1.8 / 0.2)


def test_the_law_tells_the_better_rule_from_alpha_d_n_and_samples(runs: Runs) -> None:
    table = LawAgreement(a="nmnc", b="vnc").points(runs)
    assert set(table["setting"]) == {"centre", "images 1"}
    assert len(table) == 2 * len(claims_study.LAYERS) * 6
    assert (table["K_a"] == table["K_b"]).all()
    alpha, k, d, n = (table[column] for column in ("alpha", "K_a", "d", "n"))
    # At equal K the margin is method.md's.
    np.testing.assert_allclose(table["margin"], alpha - (k + d + 1) / (k + n + 1))
    assert ((table["margin"] > 0) == (table["law"] > 0)).all()
    agreement = effect(runs, "law_agreement", a="nmnc", b="vnc")
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
    found = effect(Runs(folder), "dimension_slope", rules=["backprop-width"], estimator="two_nn")
    assert len(found) == 6
    np.testing.assert_allclose(found, 0.3, atol=0.03)
    (row,) = slopes(Runs(folder), 0.95).to_dict("records")
    assert (row["rule"], row["estimator"], row["n"]) == ("backprop-width", "two_nn", 6)
    assert (row["mean"], row["ci_low"] < 0.3 < row["ci_high"]) == (pytest.approx(found.mean()), True)
    angles_found = effect(
        Runs(folder), "angle_difference", network="w100", rule="backprop-width", layers=["conv1"], d=64
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
    assert len(effect(Runs(folder), "dimension_slope", rules=["backprop-width"], estimator="two_nn")) == 5
    for file in (folder / "manifold" / "w1600" / "backprop-width").iterdir():
        file.unlink()
    assert effect(Runs(folder), "dimension_slope", rules=["backprop-width"], estimator="two_nn").empty


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
    np.testing.assert_allclose(effect(runs, "signal_loss_difference", **arguments), 0.15)
    # The study's own weight-space cosine is its rule's cosine less .05.
    close(effect(runs, "estimation_loss", **arguments), 0.75 - 0.45)
    found = signals.losses(runs)
    assert set(found["signal"]) == {*signals.EXACT, "the rule's own"}
    assert set(found["rule"]) == {"nmnc"}
    assert effect(runs, "signal_loss_difference", **(arguments | {"rule": "vnc"})).empty


GAP = {"network": "net", "rule": "nmnc", "floor": "vnc", "ceiling": "backprop"}


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
    predicted = Prediction(says="", quantity="gap_closed", arguments=GAP, **{side: threshold})
    assert verdict(predicted, MeanInterval(0.0, low, high, None, n), 6) == expected


def prediction(**changes: Any) -> dict[str, Any]:
    """Return the content of a file with one prediction."""
    arguments = {"network": "net", "a": "nmnc", "b": "vnc"}
    given = {"says": "it is better", "quantity": "accuracy_difference", "arguments": arguments, "above": 0.0} | changes
    return {"fewest_seeds": 6, "claims": {"C4": {"title": "a claim", "predictions": {"C4.1": given}}}}


def judged(runs: Runs, **changes: Any) -> dict[str, Any]:
    """Return the verdict's row of a file with one prediction."""
    (row,) = verdicts(runs, Predictions.model_validate(prediction(**changes)), "CPU").to_dict("records")
    return {str(key): value for key, value in row.items()}


def test_the_interval_and_p_are_scipys(runs: Runs) -> None:
    row = judged(runs, above=0.05)
    effects = effect(runs, "accuracy_difference", network="net", a="nmnc", b="vnc")
    test = stats.ttest_1samp(effects, 0.05)
    interval = stats.ttest_1samp(effects, 0.0).confidence_interval()
    assert row["p"] == pytest.approx(test.pvalue)
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert (row["verdict"], row["n"], row["n_missing"], row["tier"]) == ("supported", 6, 0, "CPU")
    assert judged(runs, above=0.3)["verdict"] == "refuted"


def test_an_unfinished_study_is_undecided_and_says_how_many_seeds_there_are(tmp_path: Path) -> None:
    folder = claims_study.write(tmp_path / "study")
    (folder / "networks" / "net" / "vnc" / "seed4" / "epochs.csv").unlink()
    row = judged(Runs(folder))
    assert (row["verdict"], row["n"], row["n_missing"]) == ("undecided", 5, 1)
    empty = judged(Runs(folder), quantity="dimension_slope", arguments={"rules": ["nmnc"], "estimator": "two_nn"})
    assert (empty["verdict"], empty["n"], empty["interval_method"]) == ("undecided", 0, "no finished runs")


@pytest.mark.parametrize(
    ("arguments", "foreign"),
    [
        ({"network": "net", "a": "nmcn", "b": "vnc"}, "'nmcn'"),
        ({"network": "nett", "a": "nmnc", "b": "vcn"}, "'vcn', 'nett'"),
    ],
)
def test_labels_that_the_study_does_not_have_are_named(runs: Runs, arguments: dict[str, str], foreign: str) -> None:
    row = judged(runs, arguments=arguments)
    assert (row["verdict"], row["interval_method"]) == ("undecided", f"not in this study: {foreign}")


def test_tables_and_figures_are_written_and_the_same_each_time(tmp_path: Path) -> None:
    folder = claims_study.write(tmp_path / "study")
    file = tmp_path / "predictions.yaml"
    file.write_text(yaml.safe_dump(prediction()), encoding="utf-8")
    write_claims(folder, file, "CPU")
    first = {path.name: path.read_bytes() for path in sorted((folder / "tables").rglob("*.csv"))}
    assert pd.read_csv(folder / "tables" / "claims.csv")["verdict"].tolist() == ["supported"]
    assert len(pd.read_csv(folder / "tables" / "claims" / "effects.csv")) == 6
    swept = pd.read_csv(folder / "tables" / "claims" / "sweeps.csv")
    assert swept.loc[swept["label"] == "vnc-images-1", "mean"].item() == pytest.approx(0.25, abs=0.03)
    assert (folder / "figures" / "claims" / "claims_verdicts.png").exists()
    write_claims(folder, file, "CPU")
    assert first == {path.name: path.read_bytes() for path in sorted((folder / "tables").rglob("*.csv"))}


def test_verdicts_follow_from_what_is_published_without_the_networks(tmp_path: Path) -> None:
    folder, published = claims_study.write(tmp_path / "study"), tmp_path / "published"
    file = tmp_path / "predictions.yaml"
    file.write_text(yaml.safe_dump(prediction()), encoding="utf-8")
    write_claims(folder, file, "CPU")
    shutil.copytree(folder / "tables", published / "tables")
    shutil.copy(folder / "dataset.json", published)
    records = published / "tables" / "claims" / "runs"
    (records / "epochs.csv.gz").write_bytes(gzip.compress((records / "epochs.csv").read_bytes()))
    (records / "epochs.csv").unlink()
    claims = load_predictions(file)
    of_both = [
        (
            verdicts(runs, claims, "CPU"),
            LawAgreement(a="nmnc", b="vnc").points(runs),
            runs.scores.reset_index(drop=True),
        )
        for runs in (Runs(published), Runs(folder))
    ]
    for read, first in zip(*of_both, strict=True):
        pd.testing.assert_frame_equal(read, first, rtol=1e-7)  # tables are written with ten digits
    (records / "scores.csv").unlink()
    with pytest.raises(
        UserError, match=r"has neither networks/ nor tables/claims/runs/scores\.csv; run the study first"
    ):
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
    found = effect(Runs(folder), "perturbations_ratio", sweep="images", a="vnc", b="nmnc", accuracy=0.21)
    assert sorted(found.dropna().index) == [1, 2, 3, 5, 6]
    assert sorted(effect(Runs(folder), "law_agreement", a="nmnc", b="vnc").index) == [1, 2, 3, 5, 6]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("claims: [", "not valid YAML"),
        ("claims: {}\nclaims: {}", "the key 'claims' is given twice"),
        ("x: 1", "predictions.yaml: x: unknown key; known: claims, "),
        (yaml.safe_dump(prediction(quantity="luck")), r"C4\.1: unknown quantity 'luck'; known: "),
        (yaml.safe_dump({"claims": {"C4": {"title": "a claim"}}}), r"C4\.predictions: missing; add it"),
        (
            yaml.safe_dump({"claims": {"C4": {"title": "a claim", "predictions": {"C4.1": {"says": "x"}}}}}),
            r"C4\.1\.quantity: missing; add it",
        ),
        (yaml.safe_dump(prediction(below=1)), r"C4\.1: give one threshold, either above or below"),
        (yaml.safe_dump(prediction(arguments={"a": "nmnc"})), r"C4\.1: accuracy_difference: .*missing; add it"),
        (yaml.safe_dump(prediction(arguments=GAP)), r"C4\.1: accuracy_difference: ceiling: unknown key; known: a, b"),
        (yaml.safe_dump(prediction(above="high")), r"C4\.1\.above: .*valid number.*'high'"),
    ],
)
def test_unusable_predictions_are_refused(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "predictions.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load_predictions(file)


def test_values_that_do_not_fit_and_missing_tables_are_named(runs: Runs, tmp_path: Path) -> None:
    swept = {"sweep": "images", "rule": "nmnc", "first": 1, "second": 3}
    with pytest.raises(UserError, match=r"C4\.1: sweep images has no value 3 for nmnc"):
        judged(runs, quantity="sweep_step", arguments=swept)
    with pytest.raises(UserError, match=r"runs\.csv is missing; make it with: python -m nmnc runs"):
        judged(Runs(tmp_path))


#: Not of the GPU tier: where all networks have batch norm, and what is about the CPU tier's step sizes.
CPU_ONLY = {"C6.13", "C6.44", "C4.15", "C4.16", "C4.17", "C6.24", "C6.25", "C6.26"} | {
    *(f"C4.{number}" for number in range(23, 36)),
    *(f"C6.{number}" for number in range(27, 39)),
}


@pytest.mark.parametrize(("config", "left_out"), [("claims", set()), ("claims_gpu", CPU_ONLY)])
def test_the_projects_own_predictions_name_known_rules_and_sweeps(config: str, left_out: set[str]) -> None:
    content = load_predictions(ROOT / "docs" / "predictions.yaml")
    study = load_study(ROOT / "config" / f"{config}.yaml")
    for _, name, given in content.items():
        if name not in left_out:
            labels = {*given.measured.labels(), *itertools.chain(*given.arguments.get("others", {}).values())}
            assert labels <= set(study.labels()), name
            assert set(np.atleast_1d(given.arguments.get("sweep") or [])) <= set(study.sweeps), name
            assert given.arguments.get("network") in {None, *study.networks}, name
    for _, name, entry in content.figures() if config == "claims" else ():
        assert {*entry.bases, *entry.where.get("rule", ())} <= set(study.labels()), name
        assert set(entry.where.get("network", ())) <= set(study.networks), name


def test_figures_name_rules_in_words_and_take_numbers_from_the_runs() -> None:
    runs = pd.DataFrame(
        {"kind": ["nmnc", "nmnc", "vnc"], "noise.images": [8, 128, 8], "noise.feedback": ["full", "layerwise", "full"]},
        index=["nmnc", "half_layerwise", "vnc"],
    )
    words = {"noise.images": "M = {}", "noise.feedback=layerwise": "layer by layer"}
    names = Names(words={"nmnc": "NMNC"}, parameters=words)
    found = names.labels(runs, ["half_layerwise", "vnc"], ["nmnc"])
    assert found == {"half_layerwise": "NMNC, M = 128, layer by layer", "vnc": "vnc"}
    entry = FigureEntry(title="x", caption="{noise.images} and {half_layerwise:noise.images} images", table="accuracy")
    request = Request("C1", entry, {}, runs, names)
    assert request.caption(pd.DataFrame({"rule": ["vnc"]})) == "8 and 128 images"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"table": "sweep"}, r"C4\.figures\.luck: no table 'sweep'; did you mean 'sweeps'\?"),
        (
            {"table": "accuracy"},
            r"C4\.figures\.luck: panels and x are missing; give columns of accuracy: network, rule",
        ),
        (
            {"table": "border", "where": {"prediciton": ["C4.1"]}},
            r"border has no column 'prediciton'; did you mean 'pre",
        ),
        (
            {"table": "accuracy", "panels": ["network"], "x": "epcoh"},
            r"accuracy has no column 'epcoh'; did you mean 'ep",
        ),
    ],
)
def test_a_figure_of_what_does_not_exist_is_refused(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    content = prediction(quantity="law_agreement", arguments={"a": "nmnc", "b": "vnc"})
    content["claims"]["C4"]["figures"] = {"luck": {"title": "x", "caption": "x"} | entry}
    file = tmp_path / "predictions.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    folder = claims_study.write(tmp_path / "study")
    with pytest.raises(UserError, match=message):
        write_claims(folder, file, "CPU")
    assert not (folder / "tables" / "claims.csv").exists()
