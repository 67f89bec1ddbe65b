"""The figures of C6: what NMNC's signal loses on its way, and what changes its accuracy."""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from workflow.analysis.figures.style import CaptionedFigure, legend_below, panel_grid, plain, styled
from workflow.claims.figure_parts import INTERVAL, bars, number_of_seeds, style_of

#: Signals in the order of what is lost, with colour and marker.
SIGNALS = {
    "averaged": ("#0072B2", "^"),
    "projected": ("#E69F00", "D"),
    "averaged and projected": ("#009E73", "s"),
    "the rule's own": ("#D55E00", "o"),
    "projected at random": ("#7F7F7F", "v"),
}


@styled
def signal_figure(table: pd.DataFrame) -> CaptionedFigure | None:
    """Cosine of exact signals and of the rule's own with backprop's gradient, per layer; a panel per space and rule."""
    table = table[table["rule"].isin(["nmnc", "vnc"])]
    if table.empty:
        return None
    panels = list(table.groupby(["space", "rule"], sort=False))
    figure, axes = panel_grid(len(panels), 2, (4.2, 2.8))
    for axis, ((space, rule), own) in zip(axes, panels, strict=True):
        layers = list(dict.fromkeys(own["layer"]))
        for number, (signal, (color, marker)) in enumerate(SIGNALS.items()):
            rows = own[own["signal"].eq(signal)].set_index("layer").reindex(layers)
            at = np.arange(len(layers)) + (number - 2) * 0.12
            axis.errorbar(at, rows["mean"], yerr=bars(rows), fmt=marker, color=color, markersize=4, linewidth=1.0)
        axis.set_xticks(range(len(layers)), [plain(str(layer)) for layer in layers])
        axis.set(title=plain(f"trained by {rule}, {space} space"), ylabel="cosine with backprop's gradient")
    legend_below(
        figure,
        [Line2D([], [], color=c, marker=m, linestyle="", label=name) for name, (c, m) in SIGNALS.items()],
    )
    caption = (
        "Cosine with backprop's gradient of exact signals in trained networks: carried back by the Jacobian averaged "
        "over 1,000 images, projected on the leading 64 principal components, both, projected on a random subspace of "
        "as many dimensions; and of the signal that the rule itself had after its last epoch. What lies between "
        f"'averaged and projected' and NMNC's own is estimation: few noisy samples and lag. {_capital(INTERVAL)} "
        f"({number_of_seeds(table)})."
    )
    return CaptionedFigure("claims_C6-signals", "C6: what the signal loses on its way", caption, caption, figure)


@styled
def cause_figure(table: pd.DataFrame) -> CaptionedFigure | None:
    """Test accuracy of the experiments around the centre, beside those they are compared with."""
    if table.empty:
        return None
    networks = list(table.groupby("network", sort=False))
    figure, axes = panel_grid(
        len(networks), 2, (4.6, 0.24 * int(table["network"].value_counts().max()) + 0.9), sharey=False
    )
    for axis, (network, rows) in zip(axes, networks, strict=True):
        rows = rows.sort_values("mean")
        lengths = bars(rows).T
        for y, (rule, mean) in enumerate(zip(rows["rule"], rows["mean"].to_numpy(dtype=float), strict=True)):
            style = style_of(str(rule))
            axis.errorbar(mean, y, xerr=lengths[y][:, None], fmt=style.marker, color=style.color, markersize=4)
        axis.set_yticks(range(len(rows)), [plain(str(rule)) for rule in rows["rule"]])
        axis.set(title=plain(str(network)), xlabel="test accuracy (fraction)")
    caption = (
        "Test accuracy (mean of the last two of three epochs) of experiments around the centre; each changes one or "
        "more settings, which tables/runs.csv lists. Names ending in -width are the rules at the centre's settings "
        f"after three epochs. Bars: {INTERVAL} ({number_of_seeds(table)})."
    )
    return CaptionedFigure("claims_C6-accuracy", "C6: what changes NMNC's accuracy", caption, caption, figure)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
