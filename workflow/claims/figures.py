"""The figures of the claims, one per claim and one of all verdicts, from the tables in tables/claims."""

from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workflow.analysis.figures import save_all
from workflow.analysis.figures.style import KNOWN, CaptionedFigure, legend_below, panel_grid, plain, styled
from workflow.claims.cause_figures import cause_figure, signal_figure
from workflow.claims.figure_parts import INTERVAL, band, bars, logarithmic, number_of_seeds, rule_legend, style_of
from workflow.claims.sweep_figures import border_figure, perturbation_figure, sweep_figure

LineStyle = Literal["-", "--", ":", "-."]
DASHES: tuple[LineStyle, ...] = ("-", "--", ":", "-.")
VERDICT_COLORS = {"supported": "#009E73", "refuted": "#D55E00", "undecided": "#7F7F7F"}


def draw_claims(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write every figure that the tables have rows for, with captions.json, into `folder`."""
    parts = [verdict_figure(tables["claims"])]
    parts += [layer_figure(tables["C1_alignment"], "activity"), layer_figure(tables["C1_alignment"], "weight")]
    parts += [row_space_figure(tables["C2_row_space"]), angle_figure(tables["C2_angles"])]
    parts += [dimension_figure(tables["C3_dimension"])]
    parts += [sweep_figure(tables["C4_sweeps"]), perturbation_figure(tables["C4_accuracy"])]
    parts += [border_figure(tables["C4_border"])]
    parts += [similarity_figure(tables["C5_similarity"])]
    parts += [signal_figure(tables["C6_signals"]), cause_figure(tables["C6_accuracy"])]
    save_all([part for part in parts if part is not None], folder)


def _centre(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the network that most rules trained: the centre of the sweeps."""
    return table[table["network"].eq(str(table.groupby("network", sort=False)["rule"].nunique().idxmax()))]


def _line(label: str, dashes: LineStyle) -> Line2D:
    """Entry of a legend."""
    return Line2D([], [], color="black", linestyle=dashes, label=label)


def _over_epochs(rows: pd.DataFrame, ylabel: str, sharey: bool) -> tuple[Figure, dict[str, Axes]]:
    """A panel per layer with every rule's mean and interval against the epoch; the panels by layer."""
    layers = list(dict.fromkeys(rows["layer"]))
    figure, axes = panel_grid(len(layers), 4, (3.0, 2.6), sharey=sharey)
    panels = dict(zip(layers, axes, strict=True))
    for layer, axis in panels.items():
        for rule, own in rows[rows["layer"].eq(layer)].groupby("rule", sort=False):
            band(axis, own, "epoch", str(rule))
        axis.set(title=plain(layer), xlabel="epoch", ylabel=ylabel)
    return figure, panels


@styled
def verdict_figure(claims: pd.DataFrame) -> CaptionedFigure | None:
    """Every prediction's effect in half-widths of its interval from its threshold."""
    rows = claims.dropna(subset=["ci_low"])
    if rows.empty:
        return None
    figure, (axis,) = panel_grid(1, 1, (7.5, 0.24 * len(rows) + 0.6))
    half = ((rows["ci_high"] - rows["ci_low"]) / 2).clip(lower=1e-12)
    sign = np.where(rows["side"].eq("above"), 1.0, -1.0)
    distance = np.clip(sign * (rows["effect"] - rows["threshold"]) / half, -6, 6)
    for y, (place, verdict) in enumerate(zip(distance, rows["verdict"], strict=True)):
        axis.plot([place - 1, place + 1], [y, y], color=VERDICT_COLORS[str(verdict)])
        axis.plot(place, y, "o", color=VERDICT_COLORS[str(verdict)], markersize=4)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [f"{row.prediction}" for row in rows.itertuples()])
    axis.invert_yaxis()
    axis.set_xlabel("effect less threshold, in half-widths of the interval (predicted side: right; cut at 6)")
    legend_below(figure, [Line2D([], [], color=c, marker="o", label=v) for v, c in VERDICT_COLORS.items()])
    caption = (
        "Each prediction's effect relative to its threshold; the bar is its 95 % interval over seeds (Student's t, "
        f"{number_of_seeds(rows)}). A bar wholly right of the line is supported, wholly left refuted; with fewer than "
        "6 seeds a prediction is undecided wherever its bar lies."
    )
    return CaptionedFigure("claims_verdicts", "Verdicts", caption, "Verdicts of all predictions.", figure)


@styled
def layer_figure(table: pd.DataFrame, space: str) -> CaptionedFigure | None:
    """C1: cosine with backprop's gradient per layer over training, rules of the centre."""
    shown = [rule for rule in KNOWN if rule not in ("backprop", "untrained")]
    rows = table[table["space"].eq(space)]
    rows = rows if rows.empty else _centre(rows)
    rows = rows[rows["rule"].isin(shown)]
    if rows.empty:
        return None
    figure, _ = _over_epochs(rows, "cosine with backprop's gradient", sharey=True)
    rule_legend(figure, list(rows["rule"]))
    caption = (
        f"Cosine between each rule's gradient and backprop's in {space} space, {INTERVAL} ({number_of_seeds(rows)})."
    )
    return CaptionedFigure(f"claims_C1-{space}", f"C1: alignment in {space} space", caption, caption, figure)


@styled
def row_space_figure(table: pd.DataFrame) -> CaptionedFigure | None:
    """C2: alpha of the Jacobian against d/n per layer over training."""
    if table.empty:
        return None
    rows = _centre(table)
    rows = rows[rows["rule"].isin(["backprop", "nmnc", "vnc", "random_subspace"])]
    alpha = rows[rows["quantity"].eq("alpha_jacobian")]
    if alpha.empty:
        return None
    figure, panels = _over_epochs(alpha, "|J U|² / |J|²", sharey=False)
    for layer, axis in panels.items():
        chance = rows[rows["quantity"].eq("chance") & rows["layer"].eq(layer)]["mean"].max()
        axis.axhline(chance, color="black", linestyle=":", linewidth=1.0)
        axis.set(ylim=(0, None))
    rule_legend(figure, list(alpha["rule"]), [_line("d / n", ":")])
    caption = (
        "Part of the Jacobian (squared) within the manifold's leading d axes (for random_subspace: within its random "
        f"subspace); dotted: d/n, what a random subspace holds. Lines: {INTERVAL} ({number_of_seeds(alpha)})."
    )
    return CaptionedFigure("claims_C2", "C2: the Jacobian's row space and the manifold", caption, caption, figure)


@styled
def angle_figure(table: pd.DataFrame) -> CaptionedFigure | None:
    """C2: mean squared cosine of principal angles with the Jacobian's row space against d, per layer."""
    if table.empty:
        return None
    rows = _centre(table)
    rows = rows[rows["rule"].isin(["backprop", "nmnc"])]
    if rows.empty:
        return None
    layers = list(dict.fromkeys(rows["layer"]))
    figure, axes = panel_grid(len(layers), 4, (3.0, 2.6))
    for layer, axis in zip(layers, axes, strict=True):
        for (rule, subspace), own in rows[rows["layer"].eq(layer)].groupby(["rule", "subspace"], sort=False):
            band(axis, own, "d", str(rule), "-" if subspace == "principal" else ":")
        axis.set(title=plain(str(layer)), xlabel="d", ylabel="mean squared cosine", ylim=(0, 1))
        logarithmic(axis, rows["d"])
    lines: dict[str, LineStyle] = {"principal components": "-", "random subspace": ":"}
    rule_legend(figure, ["backprop", "nmnc"], [_line(*entry) for entry in lines.items()])
    caption = (
        "Mean squared cosine of the principal angles between the Jacobian's leading right singular vectors and the "
        "leading d principal components of the activity (dotted: random subspaces of d dimensions), trained networks. "
        f"Lines: {INTERVAL} ({number_of_seeds(rows)})."
    )
    return CaptionedFigure("claims_C2-angles", "C2: principal angles with the manifold", caption, caption, figure)


@styled
def dimension_figure(table: pd.DataFrame) -> CaptionedFigure | None:
    """C3: manifold dimension per layer against the layer's units, networks of all widths."""
    if table.empty:
        return None
    layers = list(_centre(table)["layer"].unique())  # networks of another family have other layers
    family = table.groupby("network")["layer"].transform(lambda found: set(found) == set(layers))
    rows = table[table["fraction"].astype(str).isin(["1.0", "1"]) & family.astype(bool)]
    rows = rows[rows["rule"].isin(["backprop-width", "nmnc-width"])]  # all after the same number of epochs
    if rows.empty:
        return None
    estimators = list(dict.fromkeys(rows["quantity"]))
    dashes = dict(zip(map(str, layers), cycle(DASHES), strict=False))
    figure, axes = panel_grid(len(estimators), 3, (3.6, 2.8), sharey=False)
    for axis, estimator in zip(axes, estimators, strict=True):
        own = rows[rows["quantity"].eq(estimator)].assign(family=rows["rule"].str.partition("-")[0])
        for (name, layer), line in own.groupby(["family", "layer"], sort=False):
            line = line.assign(units=line["n_units"].astype(float)).sort_values("units")
            style = style_of(str(name))
            axis.errorbar(
                line["units"], line["mean"], yerr=bars(line),
                color=style.color, marker=style.marker, markersize=3, linewidth=1.0, linestyle=dashes[str(layer)],
            )  # fmt: skip
        axis.set(
            title=plain(str(estimator)), xlabel="units of the layer", ylabel="dimension", xscale="log", yscale="log"
        )
    rule_legend(figure, ["backprop", "nmnc"], [_line(*entry) for entry in dashes.items()])
    caption = (
        f"Manifold dimension against the number of units, one line per layer and rule, {INTERVAL} "
        f"({number_of_seeds(rows)})."
    )
    return CaptionedFigure("claims_C3", "C3: manifold dimension against width", caption, caption, figure)


@styled
def similarity_figure(table: pd.DataFrame) -> CaptionedFigure | None:
    """C5: similarity to recorded regions per layer and rule."""
    if table.empty:
        return None
    table = _centre(table)
    parts = list(table.groupby(["benchmark", "species", "region", "metric"], sort=False))
    figure, axes = panel_grid(len(parts), 2, (4.4, 2.8), sharey=False)
    for axis, (region, own) in zip(axes, parts, strict=True):
        layers = list(dict.fromkeys(own["layer"]))
        rules = list(dict.fromkeys(own["rule"]))
        for shift, rule in enumerate(rules):
            rows = own[own["rule"].eq(rule)].set_index("layer").reindex(layers)
            at = np.arange(len(layers)) + (shift - (len(rules) - 1) / 2) * 0.1
            style = style_of(str(rule))
            axis.errorbar(
                at, rows["mean"], yerr=bars(rows),
                fmt=style.marker, color=style.color, markersize=3.5, linewidth=1.0,
            )  # fmt: skip
        axis.set_xticks(range(len(layers)), [plain(str(layer)) for layer in layers])
        axis.set(title=plain(f"{region[1]} {region[2]} ({region[0]})"), ylabel=f"{region[3]} with recorded RDM")
    rule_legend(figure, list(dict.fromkeys(table["rule"])))
    caption = f"Raw similarity of each layer's RDM to the recorded RDM, {INTERVAL} ({number_of_seeds(table)})."
    return CaptionedFigure("claims_C5", "C5: similarity to the primate visual system", caption, caption, figure)
