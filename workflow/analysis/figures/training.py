"""Figures of training: accuracy, and the alignment of each layer's feedback, epoch by epoch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from workflow.analysis.figures.style import (
    CaptionedFigure,
    RuleStyle,
    file_name,
    legend_below,
    panel_grid,
    plain,
    rule_handles,
    styled,
)
from workflow.analysis.figures.summary import count_text, over_seeds

BAND = "Lines: mean over seeds; bands: lowest to highest seed"
UNTRAINED = "A horizontal line without markers is an untrained network."
#: Layers in a row of panels.
COLUMNS = 5


def draw_seeds(
    axis: Axes, frame: pd.DataFrame, value: str, styles: dict[str, RuleStyle], dashes: str = "-"
) -> list[str]:
    """Draw the mean over seeds of a column against the epoch, a line per rule with its min-max band.

    A rule with one epoch only (an untrained network) is drawn as a horizontal line without markers.

    Returns:
        the rules with values.
    """
    spread = over_seeds(frame, ["rule", "epoch"], value)
    rules = [rule for rule in styles if rule in set(spread["rule"])]
    for rule in rules:
        style, rows = styles[rule], spread[spread["rule"].eq(rule)].sort_values("epoch")
        if len(rows) == 1 and frame["epoch"].nunique() > 1:
            axis.axhspan(*rows[["low", "high"]].iloc[0], color=style.color, alpha=0.15, linewidth=0)
            axis.axhline(rows["mean"].iloc[0], color=style.color, linestyle=dashes, linewidth=1.0)
            continue
        axis.fill_between(rows["epoch"], rows["low"], rows["high"], color=style.color, alpha=0.15, linewidth=0)
        axis.plot(rows["epoch"], rows["mean"], dashes, color=style.color, marker=style.marker, markersize=3.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return rules


@styled
def accuracy_figure(epochs: pd.DataFrame, styles: dict[str, RuleStyle]) -> CaptionedFigure:
    """Draw test accuracy after each epoch, a panel per network.

    Args:
        epochs: tables/epochs.csv; columns network, rule, kind, seed, epoch, test_accuracy (fraction).
    """
    networks = list(epochs["network"].unique())
    figure, axes = panel_grid(len(networks), 3, (4.6, 3.2))
    drawn: list[str] = []
    for axis, network in zip(axes, networks, strict=True):
        rows = epochs[epochs["network"].eq(network)]
        drawn += draw_seeds(axis, rows, "test_accuracy", styles)
        axis.set(title=plain(network), xlabel="epoch", ylabel="test accuracy (fraction)")
    legend_below(figure, rule_handles(styles, drawn))
    caption = (
        "Fraction of test images classified correctly after each epoch (0: before training). Rules whose bands overlap "
        f"differ by no more than their seeds do. {BAND}; {count_text(epochs)}. {UNTRAINED}"
    )
    alt = f"Test accuracy against epoch for {', '.join(dict.fromkeys(drawn))}."
    return CaptionedFigure("accuracy", "Test accuracy", caption, alt, figure)


def _panel_title(rows: pd.DataFrame, layer: str) -> str:
    """Return the layer's name, its number of units n and the dimension d of the noise."""
    sizes = []
    for column in ("n", "d"):
        known = rows.loc[rows["layer"].eq(layer), column].dropna()
        if not known.empty:
            low, high = known.min(), known.max()
            sizes.append(f"{column} = {low:.0f}" + (f" to {high:.0f}" if high > low else ""))
    return plain(layer) + (f" ({', '.join(sizes)})" if sizes else "")


def _layer_figure(
    rows: pd.DataFrame, styles: dict[str, RuleStyle], groups: dict[str, dict[str, str]]
) -> tuple[Figure, list[str]]:
    """Draw a panel per layer for each group; a group (its y label) has columns, each with its dashes.

    Returns:
        the figure, without a legend, and the rules it shows.
    """
    layers = list(rows["layer"].unique())
    columns = min(COLUMNS, len(layers))
    slots = -(-len(layers) // columns) * columns
    figure, axes = panel_grid(slots * len(groups), columns, (2.35, 2.2), sharey=True if len(groups) == 1 else "row")
    drawn: list[str] = []
    for start, (label, curves) in enumerate(groups.items()):
        block = axes[start * slots : (start + 1) * slots]
        for place, (axis, layer) in enumerate(zip(block, layers, strict=False)):
            here = rows[rows["layer"].eq(layer)]
            for column, dashes in curves.items():
                drawn += draw_seeds(axis, here, column, styles, dashes)
            axis.axhline(0, color="#444444", linewidth=0.8)
            axis.set_title(_panel_title(rows, layer))
            axis.set_xlabel("epoch")
            if place % columns == 0:
                axis.set_ylabel(label)
        for unused in block[len(layers) :]:
            unused.remove()
    return figure, list(dict.fromkeys(drawn))


@styled
def alignment_figure(alignment: pd.DataFrame, network: str, styles: dict[str, RuleStyle]) -> CaptionedFigure:
    """Draw the cosine of each layer's learning signal with backprop's, in activity space and in weight space.

    Untrained networks have no learning signal and are left out.

    Args:
        alignment: tables/alignment.csv; columns network, rule, seed, epoch, layer, space, cosine, n, d.
        network: the network to show.
    """
    rows = alignment[alignment["network"].eq(network) & alignment["kind"].ne("untrained")]
    spaces = [space for space in ("activity", "weight") if rows["space"].eq(space).any()]
    wide = rows.assign(**{space: rows["cosine"].where(rows["space"].eq(space)) for space in spaces})
    figure, drawn = _layer_figure(wide, styles, {f"cosine, {space} space": {space: "-"} for space in spaces})
    legend_below(figure, rule_handles(styles, drawn))
    caption = (
        f"Cosine between each rule's learning signal and backprop's gradient in {network}, a panel per layer (n units, "
        "noise of dimension d). The closer to 1, the better the rule follows the gradient; 0 is orthogonal. Activity "
        "space: mean over held-out images; weight space: cosine of the weight updates. "
        f"{BAND}; {count_text(rows)}."
    )
    alt = f"Alignment with backprop in {network} against epoch, per layer, for {', '.join(drawn)}."
    return CaptionedFigure(file_name("alignment", network), f"Alignment with backprop: {network}", caption, alt, figure)


@styled
def alpha_figure(alignment: pd.DataFrame, network: str, styles: dict[str, RuleStyle]) -> CaptionedFigure:
    """Draw alpha - d/n per layer: how far the gradient and the Jacobian lie in the noise's subspace.

    Args:
        alignment: tables/alignment.csv; columns alpha_gradient, alpha_jacobian, d, n and the keys.
        network: the network to show.
    """
    rows = alignment[alignment["network"].eq(network) & alignment["space"].eq("activity")]
    chance = rows["d"] / rows["n"]
    rows = rows.assign(gradient=rows["alpha_gradient"] - chance, jacobian=rows["alpha_jacobian"] - chance).dropna(
        subset=["gradient", "jacobian"], how="all"
    )
    figure, drawn = _layer_figure(rows, styles, {"alpha \N{MINUS SIGN} d/n": {"gradient": "-", "jacobian": "--"}})
    kinds = [
        Line2D([], [], color="#444444", linestyle="-", label="gradient"),
        Line2D([], [], color="#444444", linestyle="--", label="Jacobian"),
    ]
    legend_below(figure, rule_handles(styles, drawn) + kinds)
    caption = (
        f"Fraction alpha of backprop's gradient (solid; median over held-out images) and of the Jacobian's rows "
        f"(dashed) of {network} in a d-dimensional subspace of a layer's n units, minus d/n. Above 0 the subspace "
        "captures more than a random one does on average. The subspace is that of the rule's noise, else of the "
        f"activity's leading d principal components. {BAND}; {count_text(rows)}. {UNTRAINED}"
    )
    alt = f"alpha minus d/n in {network} against epoch, per layer, for {', '.join(drawn)}."
    return CaptionedFigure(file_name("alpha", network), f"alpha - d/n: {network}", caption, alt, figure)


@styled
def margin_figure(alignment: pd.DataFrame, network: str, styles: dict[str, RuleStyle]) -> CaptionedFigure:
    """Draw the margin (see `nmnc.measure.diagnostics.margin`) per layer: above 0 NMNC should align better than VNC.

    Args:
        alignment: tables/alignment.csv; column margin and the keys.
        network: the network to show.
    """
    rows = alignment[alignment["network"].eq(network) & alignment["space"].eq("activity")]
    rows = rows.dropna(subset=["margin"])
    figure, drawn = _layer_figure(rows, styles, {"margin": {"margin": "-"}})
    legend_below(figure, rule_handles(styles, drawn))
    caption = (
        f"Margin alpha - (1 + e_d)/(1 + e_n) per layer of {network}; e_d and e_n are the predicted errors of feedback "
        "learned from noise along d and along all n directions. Above 0, noise in the d-dimensional subspace should "
        "align better with the gradient than noise in all n directions; below 0, worse. "
        f"{BAND}; {count_text(rows)}. {UNTRAINED}"
    )
    alt = f"Margin in {network} against epoch, per layer, for {', '.join(drawn)}."
    return CaptionedFigure(file_name("margin", network), f"Margin: {network}", caption, alt, figure)


def with_images(
    figure: CaptionedFigure, provenance: Sequence[Mapping[str, Any]], diagnosed: bool = False
) -> CaptionedFigure:
    """Return the figure with the numbers of images at the end of its caption.

    Args:
        figure: of training.
        provenance: of its runs; without any the caption is unchanged.
        diagnosed: made from the first test images alone (diagnostics.images).
    """
    if not provenance:
        return figure
    numbers = f"Test images: {_range(run['dataset']['n_test'] for run in provenance)}"
    if diagnosed:
        seen = (min(run["dataset"]["n_test"], run["config"]["diagnostics"]["images"]) for run in provenance)
        numbers += f", of which the first {_range(seen)} are behind this figure"
    return replace(figure, caption=f"{figure.caption} {numbers}.")


def _range(numbers: Iterable[int]) -> str:
    different = sorted(set(numbers))
    low, high = different[0], different[-1]
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
