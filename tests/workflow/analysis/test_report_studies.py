"""The report of studies that are not the usual one: with claims, unscored rules, no benchmark, dozens of rules."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from brain_eval.inference.layer_choice import CHOSEN
from nmnc.errors import UserError
from workflow.analysis.figures import CaptionedFigure, draw_similarity, draw_training, palette, save_all
from workflow.analysis.report import render, write_report
from workflow.analysis.report.claims import read_claims
from workflow.analysis.report.rows import readable_tables
from workflow.analysis.report.study import read_study
from workflow.analysis.results import TABLES, Results
from workflow.claims.verdicts import COLUMNS as CLAIMS


def page_of(study: Any) -> str:
    read = read_study(study.results, study.config, study.data)
    return render(read, palette(read.tables["runs"]), [])


def write(study: Any, name: str, table: pd.DataFrame) -> None:
    table.to_csv(study.results / f"tables/{name}.csv", index=False, float_format="%.10g", lineterminator="\n")


def add_claims(study: Any) -> pd.DataFrame:
    """Three predictions as `workflow.analysis claims` writes them, one without a finished run, and a figure."""
    row = {"claim": "C1", "quantity": "q", "side": "above", "threshold": 0.05, "effect": 0.1234, "ci_low": 0.1,
           "ci_high": 0.15, "n": 6, "n_missing": 0, "interval_method": "Student's t 95 % interval over 6 seeds",
           "p": 0.001, "p_holm": 0.003, "verdict": "supported", "tier": "CPU"}  # fmt: skip
    unknown = dict.fromkeys(("effect", "ci_low", "ci_high", "p", "p_holm"))
    claims = pd.DataFrame(
        [
            row | {"prediction": "C1.a", "says": "more than <b>nothing</b>"},
            row | {"prediction": "C1.b", "says": "less", "side": "below", "verdict": "refuted"},
            row | unknown | {"prediction": "C2.a", "says": "later", "verdict": "undecided", "n": 0, "n_missing": 6,
                             "interval_method": "no finished runs"},
        ],
        columns=list(CLAIMS),
    )  # fmt: skip
    write(study, "claims", claims)
    picture = CaptionedFigure("claims_verdicts", "Verdicts", "Every prediction & its bar.", "Bars.", Figure((3, 2)))
    save_all([picture], study.results / "figures/claims")
    return claims


# Claims


def test_verdicts_stand_in_the_report_with_their_figures(fake_study: Any) -> None:
    add_claims(fake_study)
    html = page_of(fake_study)
    section = html[html.index('<h2 id="claims">') : html.index('<h2 id="accuracy">')]
    assert '<a href="#claims">' in html
    assert "1 supported, 1 refuted, 1 undecided" in section
    assert "more than &lt;b&gt;nothing&lt;/b&gt;" in section
    assert "<b>0.123</b><small>[0.100, 0.150]</small>" in section
    assert "above 0.05" in section
    assert "below 0.05" in section
    assert "6 missing" in section
    assert "Every prediction &amp; its bar." in section
    assert section.count('src="data:image/png;base64,') == 1
    assert 'class="verdict refuted">refuted' in section


def test_the_columns_read_are_those_the_claims_write() -> None:
    assert set(TABLES["claims"].columns) <= set(CLAIMS)


def test_without_verdicts_there_is_no_such_section(fake_study: Any) -> None:
    assert read_claims(Results(fake_study.results)) is None
    assert 'id="claims"' not in page_of(fake_study)


def test_drawing_the_report_leaves_the_claims_figures(fake_study: Any) -> None:
    add_claims(fake_study)
    figures = fake_study.results / "figures/claims"
    before = {path.name: path.read_bytes() for path in figures.glob("*.*")}
    study = read_study(fake_study.results, fake_study.config, fake_study.data)
    save_all(draw_training(study.tables, palette(study.tables["runs"])), fake_study.results / "figures")
    assert {path.name: path.read_bytes() for path in figures.glob("*.*")} == before


def test_verdicts_without_figures_are_shown_alone(fake_study: Any) -> None:
    add_claims(fake_study)
    shutil.rmtree(fake_study.results / "figures/claims")
    assert "1 supported" in page_of(fake_study)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (
            "tables/claims.csv",
            "prediction,claim\na,b\n",
            r"claims\.csv lacks the column says; .*workflow.analysis claims",
        ),
        ("tables/claims.csv", "", r"claims\.csv: empty; it needs a header line"),
        ("figures/claims/captions.json", "{", r"captions\.json: not JSON .*workflow.analysis claims"),
        ("figures/claims/captions.json", "[1]", r"captions\.json has no captions"),
        ("figures/claims/captions.json", '{"claims_verdicts.png": {}}', r"captions\.json has no captions"),
    ],
)
def test_damaged_claims_are_named(fake_study: Any, path: str, content: str, message: str) -> None:
    add_claims(fake_study)
    (fake_study.results / path).write_text(content)
    with pytest.raises(UserError, match=message):
        read_study(fake_study.results, fake_study.config, fake_study.data)


def test_captions_lead_nowhere_else(fake_study: Any) -> None:
    add_claims(fake_study)
    captions = fake_study.results / "figures/claims/captions.json"
    words = json.loads(captions.read_text())["claims_verdicts.png"]
    captions.write_text(json.dumps({"../../../secret.png": words}))
    (fake_study.results.parent.parent / "secret.png").write_bytes(b"")
    claims = read_claims(Results(fake_study.results))
    assert claims is not None
    assert claims.figures == ()


# The layer chosen on held-out images


def test_rule_by_region_shows_the_held_out_score_and_layer(fake_study: Any) -> None:
    html = page_of(fake_study)
    start = html.index("Similarity at the layer chosen on held-out images: spearman")
    table = html[start : html.index("</table>", start)]
    layers = fake_study.table("layers").query("layer == @CHOSEN and rule == 'vnc' and species == 'human'")
    assert CHOSEN in set(layers["layer"])
    assert f"<b>{layers['half'].mean():.3f}</b>" in table
    assert "<small>conv2 70 %</small>" in table
    assert "0.310 to 0.420" in table
    study = read_study(fake_study.results, fake_study.config, fake_study.data)
    [shown] = readable_tables(study)
    assert [row["rule"] for row in shown["rows"]] == list(study.tables["runs"]["rule"].unique())
    assert [row["seeds"] for row in shown["rows"]] == ["2"] * 5 + ["1"]
    assert "Student's t 95 % interval over seeds" in shown["note"]


def test_the_studys_confidence_reaches_the_table(fake_study: Any) -> None:
    fake_study.config.write_text("study: fake\nevaluation: {confidence: 0.8}\n")
    [shown] = readable_tables(read_study(fake_study.results, fake_study.config, fake_study.data))
    assert "Student's t 80 % interval over seeds" in shown["note"]


# Other studies


def test_rules_that_are_not_scored_need_no_rdms(fake_study: Any) -> None:
    runs, unscored = fake_study.table("runs"), ["vnc", "untrained"]
    runs.loc[runs["rule"].isin(unscored), "scored"] = "no"
    write(fake_study, "runs", runs)
    for name in ("scores", "means", "layers"):
        write(fake_study, name, fake_study.table(name).query("rule not in @unscored"))
    for rule in unscored:
        shutil.rmtree(fake_study.results / "scores/convnet" / rule)
    study = read_study(fake_study.results, fake_study.config, fake_study.data)
    assert {model.rule for _, models in study.rdms for model in models}.isdisjoint(unscored)
    html = render(study, palette(study.tables["runs"]), [])
    assert "of the trained networks, those of backprop, nmnc, " in html


def unscored_study(study: Any) -> None:
    """The same networks, compared with nothing (evaluation.benchmarks: [])."""
    runs = study.table("runs").query("kind != 'pixels'").assign(scored="no")
    write(study, "runs", runs)
    for name in ("scores", "means", "layers", "comparisons"):
        write(study, name, study.table(name).iloc[:0])
    shutil.rmtree(study.results / "scores")
    study.config.write_text("study: fake\nevaluation: {benchmarks: []}\n")


def test_no_scored_model_makes_a_whole_report(fake_study: Any) -> None:
    unscored_study(fake_study)
    for name in ("epochs", "alignment"):  # fewer figures: only what is said of similarity matters here
        write(fake_study, name, fake_study.table(name).query("rule in ['backprop', 'nmnc']"))
    write_report(fake_study.results, fake_study.config, fake_study.data)
    html = (fake_study.results / "report.html").read_text()
    assert "are not compared with recordings (evaluation.benchmarks is empty)" in html
    assert html.count("no network of this study is compared with recordings") == 2
    assert "Every recording in this study is simulated" not in html
    assert "Similarity, every layer" not in html
    assert "Test accuracy" in html
    drawn = {path.name.partition("_")[0].partition(".")[0] for path in (fake_study.results / "figures").glob("*.png")}
    assert drawn == {"accuracy", "alignment", "alpha", "margin"}
    tables = read_study(fake_study.results, fake_study.config, fake_study.data).tables
    assert draw_similarity(tables["scores"], tables["means"], {}) == []


def test_runs_of_sweeps_are_counted(fake_study: Any) -> None:
    write(
        fake_study,
        "sweeps",
        pd.DataFrame([{"sweep": "images", "rule": "nmnc", "label": "vnc", "value": 8, "values": "8"}]),
    )
    study = read_study(fake_study.results, fake_study.config, fake_study.data)
    assert study.tables["sweeps"]["value"].tolist() == [8]
    figures = [
        figure for figure in draw_training(study.tables, palette(study.tables["runs"])) if "sweeps" in figure.name
    ]
    paths = save_all(figures, fake_study.results / "figures")
    html = render(study, palette(study.tables["runs"]), list(zip(figures, paths, strict=True)))
    assert "The 2 runs of the sweeps are in this figure" in html
    (fake_study.results / "tables/sweeps.csv").write_text("sweep,rule\na,b\n")
    with pytest.raises(UserError, match=r"sweeps\.csv lacks the column label; .*python -m nmnc runs"):
        read_study(fake_study.results, fake_study.config, fake_study.data)


@pytest.mark.slow
def test_dozens_of_rules_keep_their_tables_within_the_page(fake_study: Any) -> None:
    for name in ("runs", "epochs", "accuracy", "scores", "layers"):
        table = fake_study.table(name)
        own = table[table["rule"].eq("nmnc")]
        write(fake_study, name, pd.concat([table, *(own.assign(rule=f"nmnc_{i}") for i in range(40))]))
    here = fake_study.results
    for i in range(40):
        for stage in ("networks", "scores"):
            shutil.copytree(here / stage / "convnet/nmnc", here / stage / f"convnet/nmnc_{i}")
        for path in (here / f"networks/convnet/nmnc_{i}").rglob("provenance.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"rule": f"nmnc_{i}"}))
    html = page_of(fake_study)
    for heading in ("Accuracy after training", "Similarity at the layer chosen on held-out images: spearman"):
        assert html[html.index(heading) :].partition("<table")[0].endswith('<div class="scroll tall">')
    assert html.count("nmnc_39") > 3


@pytest.mark.parametrize(
    "names", [["notes.txt", "../notes.txt", "", "..", "old.png"], {"old.png": {}, "notes.txt": {}}]
)
def test_captions_name_nothing_but_figures_to_replace(names: Any, tmp_path: Path) -> None:
    for name in ("notes.txt", "figures/notes.txt", "figures/old.png", "figures/own.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "figures/captions.json").write_text(json.dumps(names))
    save_all([], tmp_path / "figures")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*") if "captions" not in path.name}
    assert left == {"notes.txt", "figures/notes.txt", "figures/own.png"}
