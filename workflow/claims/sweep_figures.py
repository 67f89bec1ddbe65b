"""The figures of C4: accuracy along the sweeps and against perturbations, and where NMNC's signal is the better one."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from workflow.analysis.figures.style import CaptionedFigure, legend_below, panel_grid, plain, styled
from workflow.claims.figure_parts import INTERVAL, band, logarithmic, number_of_seeds, rule_legend, style_of

#: What stands on the x axis of a sweep's panel.
MEANINGS = {
    "perturbed_images": "M, perturbed images per refresh",
    "refresh": "b, batches between refreshes",
    "dimensions": "d, dimension of the noise",
    "width": "units of the first layer",
}


@styled
def sweep_figure(table: pd.DataFrame) -> CaptionedFigure | None:
    """Test accuracy along every sweep, and over networks of all widths."""
    if table.empty:
        return None
    table = table.assign(sweep=table["sweep"].replace({"many_dimensions": "dimensions"}))
    sweeps = list(dict.fromkeys(table["sweep"]))
    figure, axes = panel_grid(len(sweeps), 2, (4.4, 2.8))
    for axis, sweep in zip(axes, sweeps, strict=True):
        own = table[table["sweep"].eq(sweep)]
        for rule, rows in own.groupby("rule", sort=False):
            band(axis, rows, "value", str(rule))
        label = MEANINGS.get(str(sweep), "value")
        axis.set(title=plain(str(sweep)), xlabel=label, ylabel="test accuracy (fraction)")
        logarithmic(axis, own["value"])
    rule_legend(figure, list(table["rule"]))
    caption = (
        "Test accuracy (mean of the last two epochs) against the swept value. All else is as at the centre, but for "
        "refresh (eta = .5, 2 epochs) and d = 512 (1,024 basis images), where the study says so. "
        f"Lines: {INTERVAL} ({number_of_seeds(table)})."
    )
    return CaptionedFigure("claims_C4-sweeps", "C4: accuracy along the sweeps", caption, caption, figure)


@styled
def perturbation_figure(table: pd.DataFrame) -> CaptionedFigure | None:
    """Test accuracy against the number of perturbations spent, a line for every M and b of the sweeps."""
    if table.empty:
        return None
    parts = {"perturbed_images": r"(nmnc|vnc)(-images-\d+)?", "refresh": r"(nmnc|vnc)-refresh_every-\d+"}
    chosen = {sweep: table[table["rule"].str.fullmatch(pattern)] for sweep, pattern in parts.items()}
    chosen = {sweep: rows[rows["perturbations"] > 0] for sweep, rows in chosen.items()}
    chosen = {sweep: rows for sweep, rows in chosen.items() if not rows.empty}
    if not chosen:
        return None
    figure, axes = panel_grid(len(chosen), 2, (4.4, 3.2))
    for axis, (sweep, rows) in zip(axes, chosen.items(), strict=True):
        for rule, line in rows.groupby("rule", sort=False):
            band(axis, line, "perturbations", str(rule))
        axis.set(
            title=plain(MEANINGS[sweep]), xscale="log", xlabel="perturbations spent", ylabel="test accuracy (fraction)"
        )
    rule_legend(figure, ["nmnc", "vnc"])
    shown = pd.concat(list(chosen.values()))
    chosen_words = [{"perturbed_images": "values of M", "refresh": "values of b"}[sweep] for sweep in chosen]
    caption = (
        "Test accuracy after every epoch against the perturbations spent until then (perturbed images x layers); the "
        f"points of a line are epochs, the lines {' and '.join(chosen_words)}. Lines: {INTERVAL} "
        f"({number_of_seeds(shown)})."
    )
    return CaptionedFigure("claims_C4-perturbations", "C4: sample efficiency", caption, caption, figure)


@styled
def border_figure(table: pd.DataFrame) -> CaptionedFigure | None:
    """Where NMNC's signal is the better one: measured against the law, and as a map of alpha over what the law asks."""
    if table.empty:
        return None
    keys = ["network", "setting", "layer"]
    columns = ["law", "cosine_difference", "alpha", "margin"]
    rows = table.groupby(keys, sort=False)[columns].mean().reset_index()
    figure, (against, over) = panel_grid(2, 2, (4.6, 3.8), sharey=False)
    for number, (layer, own) in enumerate(rows.groupby("layer", sort=False)):
        against.scatter(own["law"], own["cosine_difference"], s=14, label=str(layer), marker="os^Dv"[number % 5])
    against.axhline(0, color="black", linewidth=0.8)
    against.axvline(0, color="black", linewidth=0.8)
    against.set(xlabel="law: expected squared cosine, NMNC less VNC", ylabel="measured cosine, NMNC less VNC")
    against.legend(title="layer", fontsize=8)
    _map(over, rows)
    handles = [
        Line2D([], [], color=style_of(rule).color, marker=style_of(rule).marker, linestyle="", label=f"{rule} better")
        for rule in ("nmnc", "vnc")
    ]
    legend_below(figure, handles)
    won = table["cosine_difference"] > 0
    agree = ((table["law"] > 0) == won).mean()
    caption = (
        f"Every point is a layer of one setting ({_settings(table)}), mean over its seeds. Left: right of the vertical "
        "line the law of docs/method.md expects NMNC's signal to be the better one. Right: the same law as a map; "
        "above the line alpha exceeds [1 + (d + 1) / K of NMNC] / [1 + (n + 1) / K of VNC], and NMNC should win (K: "
        "effective samples, which differ with eta); colour and marker say which rule's cosine was the higher. Signs "
        f"agree in {100 * agree:.0f} % of {len(table)} layer x setting x seed; NMNC's is the better one in "
        f"{100 * won.mean():.0f} %, which is what a guess without the law would reach."
    )
    return CaptionedFigure("claims_C4-border", "C4: where NMNC wins", caption, caption, figure)


def _settings(table: pd.DataFrame) -> str:
    """The kinds of settings that the points come from, in words."""
    words = {"perturbed_images": "M", "refresh": "b", "dimensions": "d", "many_dimensions": "d", "mlp": "an MLP"}
    kinds = (str(setting).split(" ")[0] for setting in table["setting"])
    return ", ".join(dict.fromkeys(words.get(kind, kind) for kind in kinds))


def _map(axis: Axes, rows: pd.DataFrame) -> None:
    """alpha against the least alpha at which the law lets NMNC win, by measured winner; the border is the diagonal."""
    asked = rows["alpha"] - rows["margin"]
    for rule, won in (("nmnc", rows["cosine_difference"] > 0), ("vnc", rows["cosine_difference"] <= 0)):
        style = style_of(rule)
        axis.scatter(asked[won], rows["alpha"][won], s=14, color=style.color, marker=style.marker)
    ends = np.array([min(asked.min(), rows["alpha"].min()), max(asked.max(), 1.0)])
    axis.plot(ends, ends, color="black", linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlabel="alpha that the law asks for", ylabel="alpha of the gradient, measured")
