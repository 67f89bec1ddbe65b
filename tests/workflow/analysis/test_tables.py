"""The study's tables against numbers computed here from the same files."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from brain_eval.codes import CODEBOOK, CODED
from brain_eval.inference import intervals as statistics
from brain_eval.inference.draws import Drawn
from brain_eval.scoring.scores import COLUMNS as SCORE_COLUMNS
from nmnc.errors import UserError
from nmnc.files.digests import check_content, digest_file
from nmnc.files.writing import sha256_of_file, write_text
from workflow.analysis import results as reader
from workflow.analysis.results import ALIGNMENT
from workflow.analysis.tables import write_tables

RULES = {"backprop": "backprop", "nmnc b=1": "nmnc", "vnc": "vnc", "untrained": "untrained"}
SEEDS = (0, 1, 2)
LAYERS = ("conv2", "conv10", "fc")
TABLES = ("means", "scores", "accuracy", "epochs", "alignment", "comparisons", "layers", "timing")
#: session, animal, species, region
RECORDINGS = (
    ("210322", "PE", "macaque", "V4"),
    ("210325", "PE", "macaque", "V4"),
    ("190923", "WE", "macaque", "V4"),
    ("mean", "PE", "macaque", "V4"),
    ("mean", "all", "macaque", "V4"),
    ("average", "2 animals", "macaque", "IT"),
)


def write(path: Path, columns: tuple[Any, ...], rows: Iterator[Any] | list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def score_rows(identity: Any, layers: Any, rng: Any) -> Iterator[Any]:
    for layer in layers:
        for session, animal, species, region in RECORDINGS:
            for metric in ("spearman", "rho-a"):
                yield identity | {
                    "layer": layer, "benchmark": "bench", "version": 1, "session": session, "animal": animal,
                    "species": species, "region": region, "metric": metric, "raw": f"{rng.normal(0.2, 0.05):.10g}",
                    "ceiling_definition": 'a,code,with:"quotes"', "n_stimuli": 92,
                }  # fmt: skip


def write_run(results: Path, identity: dict[str, Any], rng: np.random.Generator) -> None:
    below = f"{identity['network']}/{identity['rule']}/seed{identity['seed']}"
    layers = ("pixels",) if identity["kind"] == "pixels" else LAYERS
    write(results / f"scores/{below}.csv", SCORE_COLUMNS, score_rows(identity, layers, rng))
    if identity["kind"] in ("pretrained", "pixels"):
        return
    folder = results / "networks" / below
    epochs = range(1) if identity["kind"] == "untrained" else range(3)
    write(
        folder / "epochs.csv",
        ("epoch", "train_loss", "test_accuracy", "perturbations", "forward_passes"),
        [
            {"epoch": e, "test_accuracy": rng.uniform(0.1, 0.6), "perturbations": 80 * e, "forward_passes": e}
            for e in epochs
        ],
    )
    write(folder / "alignment.csv", ALIGNMENT, [{"epoch": e, "layer": "fc", "cosine": "0.50"} for e in epochs])
    write(folder / "timing.csv", ("stage", "seconds"), [{"stage": "train", "seconds": "12.5"}])
    provenance = {"seconds": 13.25, "device": "cpu", "threads": 1, "hardware": {"cpu": "EPYC, 2 GHz", "gpu": None}}
    (folder / "provenance.json").write_text(json.dumps(provenance))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A finished study: one network, four rules, three seeds, a reference model and the pixels."""
    rng = np.random.default_rng(0)
    runs = [
        {"network": "net", "rule": rule, "kind": kind, "seed": seed} for rule, kind in RULES.items() for seed in SEEDS
    ]
    runs += [{"network": name, "rule": rule, "kind": rule, "seed": 0}
             for name, rule in (("resnet20", "pretrained"), ("pixels", "pixels"))]  # fmt: skip
    folder = tmp_path / "study"
    listed = [run | {"scored": "yes"} for run in runs]
    write(folder / "tables/runs.csv", ("network", "rule", "kind", "seed", "scored", "noise.d"), listed)
    for identity in runs:
        write_run(folder, identity, rng)
    return folder


def table(results: Path, name: str) -> Any:
    return pd.read_csv(results / "tables" / f"{name}.csv")


def test_same_inputs_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    write_tables(results)
    first = {name: (results / f"tables/{name}.csv").read_bytes() for name in TABLES}
    moved = tmp_path / "elsewhere"
    shutil.copytree(results, moved)
    write_tables(moved)
    assert {name: (moved / f"tables/{name}.csv").read_bytes() for name in TABLES} == first
    assert not any(str(tmp_path).encode() in content for content in first.values())


def test_scores_stand_in_the_order_of_the_runs_unchanged(results: Path) -> None:
    write_tables(results)
    written = (results / "tables/scores.csv").read_text().splitlines()
    parts = [
        (results / "scores" / row.network / row.rule / f"seed{row.seed}.csv").read_text().splitlines()
        for row in table(results, "runs").itertuples()
    ]
    assert written == [parts[0][0], *(line for part in parts for line in part[1:])]
    assert list(dict.fromkeys(table(results, "scores")["layer"])) == [*LAYERS, "pixels"]


def test_accuracy_is_the_mean_over_seeds_with_students_interval(results: Path) -> None:
    write_tables(results)
    accuracy, epochs = table(results, "accuracy"), table(results, "epochs")
    assert len(accuracy) == 3 * 3 + 1
    for row in accuracy.itertuples():
        chosen = epochs[epochs["rule"].eq(row.rule) & epochs["epoch"].eq(row.epoch)]
        values = chosen["test_accuracy"]
        low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
        assert (row.mean, row.ci_low, row.ci_high) == pytest.approx((values.mean(), low, high), abs=1e-9)
        assert (row.min, row.max, row.n_seeds) == (pytest.approx(values.min()), pytest.approx(values.max()), 3)
        assert row.perturbations == 80 * row.epoch
    assert set(epochs["network"]) == {"net"}
    assert list(epochs.columns[:5]) == ["network", "rule", "kind", "seed", "epoch"]


@pytest.mark.parametrize("confidence", [0.9, 0.995])
def test_the_confidence_asked_for_reaches_both_tables(results: Path, confidence: float) -> None:
    write_tables(results, confidence)
    accuracy, comparisons = table(results, "accuracy"), table(results, "comparisons")
    percent = f"{100 * confidence:g}"
    for row in accuracy[accuracy["rule"].eq("nmnc b=1")].itertuples():
        error = (row.ci_high - row.mean) / stats.t.ppf((1 + confidence) / 2, 2)
        epochs = table(results, "epochs").query("rule == 'nmnc b=1' and epoch == @row.epoch")
        assert error == pytest.approx(stats.sem(epochs["test_accuracy"]), abs=1e-8)
        assert row.interval_method == f"t:{percent}:seeds"
    known = comparisons.dropna(subset=["ci_low"])
    assert known["interval_method"].str.startswith(f"t-paired:{percent}:").all()
    half = (known["ci_high"] - known["ci_low"]) / 2
    t = stats.t.ppf((1 + confidence) / 2, 2)
    p = 2 * stats.t.sf(known["mean_difference"].abs() / (half / t), 2)
    np.testing.assert_allclose(p, known["p"], atol=1e-6)


def test_one_seed_has_a_mean_and_no_interval(results: Path) -> None:
    runs = table(results, "runs")
    runs[runs["seed"].eq(0)].to_csv(results / "tables/runs.csv", index=False)
    write_tables(results)
    accuracy, comparisons = table(results, "accuracy"), table(results, "comparisons")
    assert accuracy["mean"].notna().all()
    assert accuracy["n_seeds"].eq(1).all()
    assert accuracy[["ci_low", "ci_high", "interval_method"]].isna().all(axis=None)
    assert comparisons["n"].eq(1).all()
    assert comparisons["mean_difference"].notna().all()
    unknown = ["ci_low", "ci_high", "interval_method", "p", "p_holm"]
    assert comparisons[unknown].isna().all(axis=None)


def test_means_are_those_of_the_seeds_and_stand_in_the_wide_tables(results: Path) -> None:
    write_tables(results)
    scores, means = table(results, "scores"), table(results, "means")
    region = ["benchmark", "species", "region", "metric"]
    where = ["network", "rule", "kind", "layer", "session", "animal", *region]
    expected = scores.groupby(where)["raw"].agg(["mean", "count"])
    found = means.set_index(where).loc[expected.index]
    np.testing.assert_allclose(found["mean"], expected["mean"], atol=1e-9)
    assert found["n_seeds"].tolist() == expected["count"].tolist()
    assert len(found) == len(means)
    overall = means[means["session"].eq("mean") & means["animal"].eq("all")]
    rest = means[means["session"].ne("mean")].merge(overall[region].drop_duplicates(), how="left", indicator=True)
    whole = pd.concat([overall, rest[rest["_merge"].eq("left_only")]])
    for row in whole[whole["kind"].ne("pixels")].itertuples():
        page = pd.read_csv(results / f"tables/wide/layers_{row.metric}_{row.network}.csv")
        line = page[page["layer"].eq(row.layer) & page["rule"].eq(row.rule)].iloc[0]
        [column] = page.filter(regex=rf"^{row.species} {row.region}.*: mean$").columns
        assert line[column] == pytest.approx(row.mean, abs=1e-9)


def test_alignment_keeps_its_cells(results: Path) -> None:
    write_tables(results)
    lines = (results / "tables/alignment.csv").read_text().splitlines()
    assert lines[1] == "net,backprop,backprop,0,0,fc,,0.50,,,,,,,,"
    assert len(lines) == 1 + 3 * 3 * 3 + 3


def test_timing_has_every_stage_the_total_and_the_machine(results: Path) -> None:
    write_tables(results)
    timing = table(results, "timing")
    assert timing.groupby("stage")["seconds"].unique().to_dict() == {"total": [13.25], "train": [12.5]}
    assert timing["cpu"].eq("EPYC, 2 GHz").all()
    assert timing["gpu"].isna().all()
    assert len(timing) == 2 * 12


def test_comparisons_are_paired_t_tests_of_a_minus_b(results: Path) -> None:
    write_tables(results)
    scores, comparisons = table(results, "scores"), table(results, "comparisons")
    rows = comparisons[comparisons["quantity"].eq("score")]
    assert len(rows) == 6 * len(LAYERS) * 2 * 2  # pairs, layers, regions, metrics
    for row in rows.itertuples():
        session = "mean" if row.region == "V4" else "average"
        animal = "all" if row.region == "V4" else "2 animals"
        chosen = scores[
            scores["session"].eq(session) & scores["animal"].eq(animal) & scores["region"].eq(row.region)
            & scores["metric"].eq(row.metric) & scores["layer"].eq(row.layer)
        ].set_index("seed")  # fmt: skip
        a, b = (chosen.loc[chosen["rule"].eq(rule), "raw"] for rule in (row.rule_a, row.rule_b))
        oracle = stats.ttest_rel(a, b)
        interval = oracle.confidence_interval(0.95)
        found = (row.mean_difference, row.ci_low, row.ci_high, row.p)
        assert found == pytest.approx(((a - b).mean(), interval.low, interval.high, oracle.pvalue), abs=1e-8)
        assert row.n == 3
        assert list(RULES).index(row.rule_a) < list(RULES).index(row.rule_b)
        assert row.interval_method == "t-paired:95:seeds"


def test_final_accuracy_is_compared_at_the_last_epoch_of_each_run(results: Path) -> None:
    write_tables(results)
    epochs, comparisons = table(results, "epochs"), table(results, "comparisons")
    last = epochs.groupby(["rule", "seed"]).last()["test_accuracy"]
    rows = comparisons[comparisons["quantity"].eq("test_accuracy")]
    assert len(rows) == 6
    for row in rows.itertuples():
        assert row.mean_difference == pytest.approx((last[row.rule_a] - last[row.rule_b]).mean(), abs=1e-9)


def test_p_values_are_corrected_within_their_family_only(results: Path) -> None:
    write_tables(results)
    comparisons = table(results, "comparisons")
    families = comparisons.groupby("family", sort=False)
    assert len(families) == 1 + 2 * 2
    for name, rows in families:
        assert rows["p_holm"].to_list() == pytest.approx(statistics.holm(rows["p"].to_list()), abs=1e-8)
        assert rows["n_family"].eq(len(rows)).all()
        assert len(rows[["benchmark", "species", "region", "metric"]].drop_duplicates()) == 1
        assert "net" in name


def test_only_seeds_that_both_rules_have_are_paired(results: Path) -> None:
    runs = table(results, "runs")
    runs[~(runs["rule"].eq("vnc") & runs["seed"].eq(1))].to_csv(results / "tables/runs.csv", index=False)
    write_tables(results)
    comparisons = table(results, "comparisons")
    with_vnc = comparisons["rule_a"].eq("vnc") | comparisons["rule_b"].eq("vnc")
    assert comparisons.loc[with_vnc, "n"].eq(2).all()
    assert comparisons.loc[~with_vnc, "n"].eq(3).all()


def test_an_undefined_score_leaves_its_seed_out(results: Path) -> None:
    path = results / "scores/net/vnc/seed1.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for row in rows:
        if row["layer"] == "fc" and row["region"] == "IT":
            row["raw"] = ""
    write(path, SCORE_COLUMNS, rows)
    write_tables(results)
    comparisons = table(results, "comparisons")
    few = comparisons[comparisons["n"].eq(2)]
    assert set(few["layer"]) == {"fc"}
    assert set(few["region"]) == {"IT"}
    assert len(few) == 3 * 2  # pairs with vnc, metrics


def test_a_study_of_reference_models_only_has_scores_and_empty_tables(results: Path) -> None:
    runs = table(results, "runs")
    runs[runs["kind"].isin(["pretrained", "pixels"])].to_csv(results / "tables/runs.csv", index=False)
    write_tables(results)
    assert len(table(results, "scores")) == (len(LAYERS) + 1) * len(RECORDINGS) * 2
    assert all(
        table(results, name).empty for name in ("accuracy", "epochs", "alignment", "comparisons", "layers", "timing")
    )


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("tables/runs.csv", "python -m nmnc runs"),
        ("scores/net/vnc/seed1.csv", "python -m brain_eval score"),
        ("scores/pixels/pixels/seed0.csv", "python -m brain_eval score"),
        ("networks/net/vnc/seed1/epochs.csv", "python -m nmnc train"),
        ("networks/net/vnc/seed1/alignment.csv", "python -m nmnc train"),
        ("networks/net/untrained/seed2/timing.csv", "python -m nmnc train"),
        ("networks/net/vnc/seed1/provenance.json", "python -m nmnc train"),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(results: Path, missing: str, command: str) -> None:
    (results / missing).unlink()
    with pytest.raises(UserError, match=f"{missing} is missing; make it with: {command}"):
        write_tables(results)
    assert not (results / "tables/scores.csv").exists()


@pytest.mark.parametrize(
    ("path", "content", "complaint"),
    [
        ("scores/net/vnc/seed1.csv", "network,rule\nnet,vnc\n", "lacks the column kind"),
        ("networks/net/vnc/seed1/epochs.csv", "", "empty; it needs a header line"),
        ("networks/net/vnc/seed1/epochs.csv", b"\xff\xfe\x00", "not UTF-8 text"),
        ("networks/net/vnc/seed1/provenance.json", "{", "not JSON"),
        ("networks/net/vnc/seed1/provenance.json", "3", "not a JSON object"),
        (
            "networks/net/vnc/seed1/epochs.csv",
            "epoch,train_loss,test_accuracy,perturbations,forward_passes\n0,,high,0,0\n",
            "'high' in column test_accuracy is not a number",
        ),
        (
            "scores/net/vnc/seed1.csv",
            ",".join(SCORE_COLUMNS) + "\nnet,vnc,vnc,1,fc,b,1,s,a,m,IT,spearman,large" + "," * 11 + "\n",
            "'large' in column raw is not a number",
        ),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_the_old_tables_stay(
    results: Path, path: str, content: bytes | str, complaint: str
) -> None:
    write_tables(results)
    before = {name: (results / f"tables/{name}.csv").read_bytes() for name in TABLES}
    (results / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=complaint) as caught:
        write_tables(results)
    assert path in str(caught.value)
    assert {name: (results / f"tables/{name}.csv").read_bytes() for name in TABLES} == before


def doubled(lines: Any) -> Any:
    return [*lines, lines[-1]]


@pytest.mark.parametrize("change", [lambda lines: lines[: len(lines) // 2], doubled, lambda lines: lines[:1]])
@pytest.mark.parametrize(
    "path",
    ["scores/net/vnc/seed1.csv", "scores/pixels/pixels/seed0.csv", "networks/net/vnc/seed1/epochs.csv",
     "networks/net/vnc/seed1/alignment.csv", "networks/net/untrained/seed0/epochs.csv"],
)  # fmt: skip
def test_a_row_that_is_missing_or_doubled_is_refused(results: Path, path: str, change: Callable[..., Any]) -> None:
    runs = table(results, "runs").assign(**{"training.epochs": 2})
    runs.to_csv(results / "tables/runs.csv", index=False)
    write_tables(results)
    before = (results / "tables/scores.csv").read_bytes()
    lines = (results / path).read_text().splitlines()
    (results / path).write_text("\n".join(change(lines)) + "\n")
    with pytest.raises(
        UserError, match=rf"{path}: (the row of .* is (missing|there twice)|no rows); delete it and rerun"
    ):
        write_tables(results)
    assert (results / "tables/scores.csv").read_bytes() == before


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_that_other_seeds_have_is_missed(results: Path, layer: str) -> None:
    path = results / "scores/net/vnc/seed1.csv"
    rows = csv.DictReader(path.read_text().splitlines())
    write(path, SCORE_COLUMNS, [row for row in rows if row["layer"] != layer])
    with pytest.raises(UserError, match=rf"net/vnc/seed1\.csv: the row of {layer}, bench, .* is missing; delete it"):
        write_tables(results)


def test_tables_have_a_digest_and_an_edited_one_is_refused(results: Path) -> None:
    write_tables(results)
    for name in TABLES:
        content = (results / f"tables/{name}.csv").read_bytes()
        assert check_content(results / f"tables/{name}.csv", content) is None
        with pytest.raises(UserError, match=rf"{name}\.csv: damaged or edited, .*{name}\.csv\.sha256"):
            check_content(results / f"tables/{name}.csv", content + b" ")


def test_files_of_another_run_are_refused(results: Path) -> None:
    provenance = results / "networks/net/vnc/seed1/provenance.json"
    provenance.write_text(json.dumps(json.loads(provenance.read_text()) | {"rule": "vnc", "seed": 2}))
    with pytest.raises(UserError, match=r"vnc/seed1/provenance\.json: of another run; delete its folder"):
        write_tables(results)


def test_a_table_that_came_with_its_digest_from_another_run_is_refused(results: Path) -> None:
    folder = results / "networks/net/vnc/seed1"
    path = folder / "epochs.csv"
    write_text(path, path.read_text(), digest=True)
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["tables_sha256"] = {path.name: sha256_of_file(path)}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    write_tables(results)
    write_text(path, (results / "networks/net/vnc/seed2/epochs.csv").read_text(), digest=True)
    with pytest.raises(UserError, match=r"vnc/seed1/epochs\.csv: of another run than provenance\.json; delete it"):
        write_tables(results)
    digest_file(path).unlink()  # edited on purpose
    write_tables(results)


def test_scores_of_another_run_are_refused(results: Path) -> None:
    shutil.copy(results / "scores/net/vnc/seed0.csv", results / "scores/net/vnc/seed1.csv")
    with pytest.raises(UserError, match=r"net/vnc/seed1\.csv has scores of another run"):
        write_tables(results)


def test_draws_beside_the_scores_reach_comparisons_and_layers(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one recording of IT has draws: its rules are compared over stimuli too, and a layer is chosen."""

    def read_draws(path: Any, who: Any) -> Any:
        assert path.name == f"seed{who['seed']}_draws.nc"
        rng = np.random.default_rng(len(str(path)) + int(path.name[4]))
        raw, some = rng.uniform(0, 1, (3, 1)), 0.01 * rng.standard_normal((3, 1, 10))
        half, recorded = rng.uniform(0, 1, (3, 1, 4)), np.ones((1, 10), dtype=bool)
        labels = (("average", "2 animals", "macaque", "IT"),)
        return {("bench", "spearman"): Drawn("one", LAYERS, labels, raw, some, some, half, recorded)}

    monkeypatch.setattr(reader, "read_draws", read_draws)
    for path in list((results / "scores").rglob("seed*.csv")):
        path.with_name(f"{path.stem}_draws.nc").touch()
    write_tables(results)
    comparisons, layers = table(results, "comparisons"), table(results, "layers")
    with_draws = comparisons["region"].eq("IT") & comparisons["metric"].eq("spearman")
    assert comparisons.loc[with_draws, "interval_method"].eq("t-paired:95:seeds+stimuli").all()
    assert comparisons.loc[with_draws, "n_stimuli"].eq(92).all()
    assert comparisons.loc[~with_draws, "interval_method"].eq("t-paired:95:seeds").all()
    assert len(layers) == 14 * (len(LAYERS) + 1)  # the runs
    assert layers.groupby(["network", "rule", "seed"])["chosen"].sum().eq(1).all()


def test_every_code_in_the_tables_is_explained_once(results: Path) -> None:
    book = {"column": "ceiling_definition", "code": 'a,code,with:"quotes"', "meaning": "so and so"}
    for path in list((results / "scores").rglob("seed*.csv")):
        write(path.with_name(f"{path.stem}_codebook.csv"), CODEBOOK, [book])
    write_tables(results)
    codebook = table(results, "codebook").set_index(["column", "code"])["meaning"]
    assert codebook.index.is_unique
    for name in ("scores", "means", "accuracy", "comparisons"):
        found = table(results, name)
        for column in (column for column in CODED if column in found):
            assert {(column, code) for code in found[column].dropna()} <= set(codebook.index)
    assert codebook["ceiling_definition", book["code"]] == "so and so"
    assert codebook["interval_method", "t:95:seeds"] == "Student's t 95 % interval over seeds"


def test_scores_with_sentences_for_codes_name_the_command_to_rerun(results: Path) -> None:
    path = results / "scores/net/vnc/seed1.csv"
    rows = [row | {"interval_method": "over stimuli"} for row in csv.DictReader(path.read_text().splitlines())]
    write(path, SCORE_COLUMNS, rows)
    with pytest.raises(
        UserError, match=r"net/vnc/seed1\.csv: of an earlier version, .*; rerun: python -m brain_eval score"
    ):
        write_tables(results)
