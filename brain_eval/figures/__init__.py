"""Every figure of a study, from its tables."""

import json
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from brain_eval.benchmarks.base import Benchmark
from brain_eval.figures.rdms import ModelRdms, model_rdms_figure, recorded_rdms_figure
from brain_eval.figures.sessions import has_sessions, sessions_figure
from brain_eval.figures.similarity import similarity_figure
from brain_eval.figures.style import CaptionedFigure, RuleStyle, palette
from brain_eval.figures.summary import groups
from brain_eval.figures.training import accuracy_figure, alignment_figure, alpha_figure, margin_figure
from brain_eval.files import replacing

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


def draw_training(tables: dict[str, pd.DataFrame], styles: dict[str, RuleStyle]) -> list[CaptionedFigure]:
    """Accuracy, alignment, alpha and margin; a figure with nothing to show is left out."""
    figures = [accuracy_figure(tables["epochs"], styles)] if len(tables["epochs"]) else []
    alignment = tables["alignment"]
    for network in alignment["network"].unique():
        rows = alignment[alignment["network"].eq(network)]
        if rows["kind"].ne("untrained").any():
            figures.append(alignment_figure(alignment, network, styles))
        if rows[["alpha_gradient", "alpha_jacobian"]].notna().any(axis=None):
            figures.append(alpha_figure(alignment, network, styles))
        if rows["margin"].notna().any():
            figures.append(margin_figure(alignment, network, styles))
    return figures


def draw_similarity(scores: pd.DataFrame, styles: dict[str, RuleStyle]) -> list[CaptionedFigure]:
    """A figure per benchmark, metric and network; by recording too, where there are several.

    By recording only the first metric is drawn: rho-a differs from Spearman by the treatment of ties
    alone, and the tables hold both.
    """
    figures = []
    own = scores[scores["kind"].ne("pixels")]
    first_metric = next(iter(own["metric"]), None)
    parts = list(groups(own, ["benchmark", "network", "metric"]))
    for (benchmark, network, metric), rows in tqdm(parts, desc="similarity figures", disable=None):
        figures.append(similarity_figure(scores, benchmark, metric, network, styles))
        if metric == first_metric and has_sessions(rows):
            figures.append(sessions_figure(scores, benchmark, metric, network, styles))
    return figures


def draw_rdms(benchmark: Benchmark, models: list[ModelRdms], styles: dict[str, RuleStyle]) -> list[CaptionedFigure]:
    """RDM pictures of one benchmark, a pair per network: the network's alone, and beside the recorded.

    Models of a single layer (pixels) stand in every figure.
    """
    networks = dict.fromkeys(model.network for model in models if len(model.layers) > 1)
    figures = []
    for network in networks or dict.fromkeys(model.network for model in models):
        shown = [model for model in models if model.network == network or len(model.layers) == 1]
        figures.append(model_rdms_figure(benchmark, shown, styles))
        beside = recorded_rdms_figure(benchmark, shown, styles)
        figures += [beside] if beside is not None else []
    return figures


def save_all(figures: list[CaptionedFigure], folder: Path) -> list[Path]:
    """Write every figure and FOLDER/captions.json; return the PNGs' paths in the given order.

    captions.json maps each file name to title, caption and alt; those of local figures stand in
    local/captions.json. Figures that an earlier captions.json names and that are no longer drawn are
    deleted.
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
    """Delete the figures of an earlier report that this one does not have."""
    try:
        earlier = set(json.loads((folder / "captions.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return
    for name in earlier - drawn:
        (folder / Path(name).name).unlink(missing_ok=True)
