"""The study's report: its figures as PNG files, and one HTML file that opens without a network."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from nmnc.files.writing import replacing
from workflow.analysis.figures import (
    CaptionedFigure,
    RuleStyle,
    draw_rdms,
    draw_similarity,
    draw_training,
    palette,
    save_all,
)
from workflow.analysis.figures.style import DPI
from workflow.analysis.figures.summary import chosen_layers
from workflow.analysis.figures.sweeps import points_of
from workflow.analysis.report.claims import ClaimFigure
from workflow.analysis.report.rows import (
    accuracy_interval,
    accuracy_rows,
    claim_rows,
    listing,
    readable_tables,
    score_listings,
    similarity_tables,
)
from workflow.analysis.report.study import Study, read_study
from workflow.study import REFERENCES

#: Resolution on the page, the same for all figures, so that their text has one size.
PIXELS_PER_INCH = 108
_TEMPLATES = Path(__file__).parent.parent / "templates"


def write_report(results: Path, config_path: Path, data: Path) -> None:
    """Draw RESULTS/figures and write RESULTS/report.html from the study's tables.

    The HTML includes its style, script and figures, and loads nothing. Figures that show
    recorded data go to RESULTS/figures/local; the HTML holds them too and says so.

    Args:
        results: the study's folder, with tables/, scores/, benchmarks/ and networks/ in it.
        config_path: the study's YAML file, shown verbatim.
        data: data folder; the recorded RDMs are read from there.

    Raises:
        UserError: a table or another file of the study is missing or lacks a column.
    """
    study = read_study(results, config_path, data)
    styles = palette(study.tables["runs"])
    figures = draw_training(study.tables, styles, study.provenance)
    figures += draw_similarity(study.tables["scores"], study.tables["means"], styles)
    for benchmark, models in study.rdms:
        layers = chosen_layers(study.tables["layers"], benchmark.description.name)
        figures += draw_rdms(benchmark, models, styles, layers)
    figures = [_with_note(figure, study.benchmarks) for figure in figures]
    paths = save_all(figures, results / "figures")
    html = render(study, styles, list(zip(figures, paths, strict=True)))
    with replacing(results / "report.html") as temporary:
        temporary.write_text(html, encoding="utf-8")


def render(study: Study, styles: dict[str, RuleStyle], figures: list[tuple[CaptionedFigure, Path]]) -> str:
    """Return the report's HTML.

    Args:
        study: everything read from the study's folder.
        styles: the style of each rule.
        figures: each figure with the PNG it was saved to.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a name the template misspells is an error, not an empty cell
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scores = study.tables["scores"]
    simulated = [about["name"] for about in study.benchmarks if about["simulated"]]
    trained = study.tables["runs"].loc[lambda runs: ~runs["kind"].isin(REFERENCES)]
    scored = trained["scored"].eq("yes")
    return environment.get_template("report.html").render(
        study=study,
        colors={rule: style.color for rule, style in styles.items()},
        simulated=simulated,
        scored_rules=list(trained.loc[scored, "rule"].unique()),
        unscored=bool((~scored).any()),
        swept=int(trained["rule"].isin(points_of(study.tables["sweeps"])).sum()) if "sweeps" in study.tables else 0,
        metrics=list(scores["metric"].unique()),
        networks=list(study.tables["runs"].loc[lambda runs: runs["kind"].ne("pixels"), "network"].unique()),
        claims=claim_rows(study.claims),
        claim_figures=[_embedded_claim(figure) for figure in study.claims.figures] if study.claims else [],
        chosen=readable_tables(study),
        accuracy=accuracy_rows(study),
        accuracy_interval=accuracy_interval(study.tables["accuracy"]),
        similarity=similarity_tables(scores, study.tables["means"]),
        figures=[_embedded(figure, path, simulated) for figure, path in figures],
        score_listings=score_listings(study.text_tables["scores"]),
        listings={name: listing(table, name) for name, table in study.text_tables.items() if name != "scores"},
        facts={key: _distinct(study.provenance, key) for key in ("git", "hardware", "versions", "dataset")},
    )


def _with_note(figure: CaptionedFigure, benchmarks: list[dict[str, Any]]) -> CaptionedFigure:
    """Return the figure with the benchmark's note for readers at the end of its caption."""
    note = next((about.get("note") for about in benchmarks if about["name"] == figure.benchmark), "")
    return replace(figure, caption=f"{figure.caption} {figure.benchmark}: {note}.") if note else figure


def _embedded(figure: CaptionedFigure, path: Path, simulated: list[str]) -> dict[str, Any]:
    """Return a figure's values for the template; the image as a data URI."""
    return {
        "group": figure.name.partition("_")[0],
        "benchmark": figure.benchmark,
        "title": figure.title,
        "width": round(figure.figure.get_figwidth() * PIXELS_PER_INCH),
        "caption": figure.caption,
        "alt": figure.alt,
        "recorded": figure.local and figure.benchmark not in simulated,
        "file": f"figures/{'local/' if figure.local else ''}{path.name}",
        "source": _data_uri(path),
    }


def _embedded_claim(figure: ClaimFigure) -> dict[str, Any]:
    """Return the same values for a figure that already exists as a file."""
    with Image.open(figure.path) as image:
        width = image.width
    return {
        "title": figure.title,
        "width": round(width / DPI * PIXELS_PER_INCH),
        "caption": figure.caption,
        "alt": figure.alt,
        "recorded": False,
        "file": f"figures/claims/{figure.path.name}",
        "source": _data_uri(figure.path),
    }


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _distinct(provenance: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Return the distinct values of an entry of the runs' provenance, each with its number of runs."""
    texts = [json.dumps(run.get(key), sort_keys=True) for run in provenance]
    return [{"value": json.loads(text), "runs": texts.count(text)} for text in dict.fromkeys(texts)]
