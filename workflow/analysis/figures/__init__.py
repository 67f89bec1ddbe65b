"""Every figure of a study, from its tables."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from brain_eval.benchmarks.base import Benchmark
from nmnc.files.writing import replacing
from workflow.analysis.figures.maps import maps_figure
from workflow.analysis.figures.models import models_figure
from workflow.analysis.figures.parts import chunks, in_parts, numbered
from workflow.analysis.figures.rdms import ModelRdms, model_rdms_figure, recorded_rdms_figure
from workflow.analysis.figures.sessions import has_sessions, sessions_figure
from workflow.analysis.figures.similarity import similarity_figure
from workflow.analysis.figures.style import CaptionedFigure, RuleStyle, palette
from workflow.analysis.figures.summary import groups
from workflow.analysis.figures.sweeps import points_of, sweeps_figure
from workflow.analysis.figures.training import (
    accuracy_figure,
    alignment_figure,
    alpha_figure,
    margin_figure,
    with_images,
)

__all__ = [
    "CaptionedFigure",
    "ModelRdms",
    "RuleStyle",
    "draw_rdms",
    "draw_similarity",
    "draw_training",
    "palette",
    "save_all",
]


def draw_training(
    tables: dict[str, pd.DataFrame], styles: dict[str, RuleStyle], provenance: Sequence[Mapping[str, Any]] = ()
) -> list[CaptionedFigure]:
    """Draw accuracy, alignment, alpha and margin; a figure with nothing to show is left out.

    The points of sweeps (tables/sweeps.csv, where given) have a separate figure and no curves;
    figures of many rules are split in parts. Captions state the number of images if the runs'
    provenance is given.
    """
    sweeps = tables.get("sweeps", pd.DataFrame(columns=["rule", "label"]))
    points = points_of(sweeps)
    epochs, alignment = (tables[name][~tables[name]["rule"].isin(points)] for name in ("epochs", "alignment"))
    figures = list(in_parts(epochs, lambda rows: accuracy_figure(rows, styles)))
    swept = sweeps_figure(tables["accuracy"], sweeps, styles) if len(sweeps) else None
    figures += [swept] if swept is not None else []
    figures = [with_images(figure, provenance) for figure in figures]
    for network in alignment["network"].unique():
        rows = alignment[alignment["network"].eq(network)]
        learning = rows[rows["kind"].ne("untrained")]
        alphas = rows[rows[["alpha_gradient", "alpha_jacobian"]].notna().any(axis=1)]
        margins = rows[rows["margin"].notna()]
        runs = [run for run in provenance if run["network"] == network]
        for draw, shown in ((alignment_figure, learning), (alpha_figure, alphas), (margin_figure, margins)):
            parts = in_parts(shown, partial(draw, network=network, styles=styles))
            figures += [with_images(figure, runs, diagnosed=True) for figure in parts]
    return figures


def draw_similarity(scores: pd.DataFrame, means: pd.DataFrame, styles: dict[str, RuleStyle]) -> list[CaptionedFigure]:
    """Draw a figure per benchmark, metric and network, and by recording if there are several.

    By recording only a benchmark's first metric is drawn: rho-a differs from Spearman by the treatment of ties
    alone, and the tables have both. Figures of many rules are split in parts, each with the pixels.

    Args:
        scores, means: tables/scores.csv and means.csv.
        styles: of every rule.
    """
    figures: list[CaptionedFigure] = []
    trained = scores[scores["kind"].ne("pixels")]
    first_metrics = trained.groupby("benchmark")["metric"].first()
    parts = list(groups(trained, ["benchmark", "network", "metric"]))
    for (benchmark, network, metric), rows in tqdm(parts, desc="similarity figures", disable=None):
        where: dict[str, Any] = {"benchmark": benchmark, "metric": metric, "network": network, "styles": styles}
        figures += in_parts(rows, partial(similarity_figure, means=means, **where))
        if metric == first_metrics[benchmark] and has_sessions(rows):
            figures += in_parts(rows, partial(sessions_figure, means=means, **where))
    return figures


def draw_rdms(
    benchmark: Benchmark, models: list[ModelRdms], styles: dict[str, RuleStyle], layers: dict[tuple[str, str], str]
) -> list[CaptionedFigure]:
    """Draw one benchmark: RDMs per network (alone, and with the recorded RDMs), maps, similarity between models.

    Models of a single layer (pixels) are in every figure of a network.

    Args:
        benchmark: with its stimuli and recordings.
        models: of all networks.
        styles: of every rule.
        layers: (network, rule) -> the layer to show where only one can be shown.
    """
    networks = dict.fromkeys(model.network for model in models if len(model.layers) > 1)
    singles = [model for model in models if len(model.layers) == 1] if networks else []
    figures = []
    for network in networks or dict.fromkeys(model.network for model in models):
        members = [model for model in models if model.network == network]
        parts = chunks([model.rule for model in members])
        for number, rules in enumerate(parts, start=1):
            shown = [model for model in members if model.rule in rules] + singles
            drawn = [model_rdms_figure(benchmark, shown, styles), recorded_rdms_figure(benchmark, shown, styles)]
            drawn.append(maps_figure(benchmark, shown, styles, layers))
            figures += [numbered(figure, number, len(parts)) for figure in drawn if figure is not None]
    beside = models_figure(benchmark, models, styles, layers)
    return figures + ([beside] if beside is not None else [])


def save_all(figures: list[CaptionedFigure], folder: Path) -> list[Path]:
    """Write every figure and FOLDER/captions.json; return the PNGs' paths in the given order.

    captions.json maps each file name to title, caption and alt; local figures are in
    local/captions.json. Figures of an earlier captions.json that are no longer drawn are deleted.
    """
    paths = [figure.save(folder) for figure in figures]
    for place, local in ((folder, False), (folder / "local", True)):
        captions = {
            path.name: {"title": figure.title, "caption": figure.caption, "alt": figure.alt}
            for path, figure in zip(paths, figures, strict=True)
            if figure.local == local
        }
        _remove_stale(place, set(captions))
        with replacing(place / "captions.json") as temporary:
            temporary.write_text(json.dumps(captions, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return paths


def _remove_stale(folder: Path, drawn: set[str]) -> None:
    """Delete figures named in an earlier captions.json that are no longer drawn; only PNG files of the folder."""
    try:
        earlier = set(json.loads((folder / "captions.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return
    for path in folder.glob("*.png"):
        if path.name in earlier - drawn:
            path.unlink()
