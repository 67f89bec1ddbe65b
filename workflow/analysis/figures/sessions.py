"""Figures of the spread over recordings: the score with each session, subject and animal."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from brain_eval.benchmarks.whole_regions import ALL, MEAN
from brain_eval.metrics.labels import metric_name, metric_note
from workflow.analysis.figures.ceilings import ceiling_handles, ceiling_text, draw_on_line
from workflow.analysis.figures.similarity import means_text, reach, region_title, simulated_note
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
from workflow.analysis.figures.summary import count_text, groups, recordings_text, unit_text

COLUMNS = 5


def has_sessions(rows: pd.DataFrame) -> bool:
    """Return whether some region of these scores was recorded in more than one session."""
    single = rows[rows["session"].ne(MEAN)]
    pairs = single[["species", "region", "session", "animal"]].drop_duplicates()
    return bool(pairs.groupby(["species", "region"]).size().gt(1).any())


def _row_order(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (session, animal) of each line of the figure: animal by animal, each with its mean, then all."""
    pairs = list(rows[["session", "animal"]].drop_duplicates().itertuples(index=False, name=None))
    animals = list(dict.fromkeys(animal for _, animal in pairs if animal != ALL))
    order = {MEAN: 1}
    return sorted(
        pairs,
        key=lambda pair: (
            len(animals) if pair[1] == ALL else animals.index(pair[1]),
            order.get(pair[0], 0),
        ),
    )


def _label(session: str, animal: str) -> str:
    """Return the tick label of a recording or mean."""
    if session != MEAN:
        return plain(f"{session} ({animal})" if animal and animal != session else session)
    return "mean of all" if animal == ALL else plain(f"mean {animal}")


def _draw_layer(
    axis: Axes, rows: pd.DataFrame, means: pd.DataFrame, order: list[tuple[str, str]], styles: dict[str, RuleStyle]
) -> list[str | None]:
    """Draw a layer: a line per recording with a mark and the mean's interval per rule; return kinds of ceilings."""
    rules = [rule for rule in styles if rows["rule"].eq(rule).any()]
    shifts = np.linspace(-0.3, 0.3, len(rules)) if len(rules) > 1 else [0.0]
    places = {pair: place for place, pair in enumerate(order)}
    ceilings = []
    for (session, animal), here in groups(rows, ["session", "animal"]):
        place = places[session, animal]
        ceilings.append(draw_on_line(axis, here, place))
        if session == MEAN:
            axis.axhspan(place - 0.46, place + 0.46, color="#f3f3f3", zorder=-1, linewidth=0)
    for rule, shift in zip(rules, shifts, strict=True):
        mean = means[means["rule"].eq(rule)].set_index(["session", "animal"]).reindex(order)
        axis.errorbar(mean["mean"], np.arange(len(order)) + shift, xerr=reach(mean), linestyle="", elinewidth=1.0,
                      color=styles[rule].color, marker=styles[rule].marker, markersize=3.2)  # fmt: skip
    axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axis.axvline(0, color="#444444", linewidth=0.8)
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.set_yticks(range(len(order)), [_label(*pair) for pair in order])
    return ceilings


@styled
def sessions_figure(
    scores: pd.DataFrame, means: pd.DataFrame, benchmark: str, metric: str, network: str, styles: dict[str, RuleStyle]
) -> CaptionedFigure:
    """Draw the score with each recording, each animal's mean and the mean of all, a panel per region and layer.

    Args:
        scores: tables/scores.csv, with the rules to show.
        means: tables/means.csv.
        benchmark, metric, network: which rows to show; `has_sessions` must be true for the benchmark.
    """
    chosen = scores[scores["benchmark"].eq(benchmark) & scores["metric"].eq(metric)]
    chosen = chosen[chosen["network"].eq(network)]
    means = means[means["benchmark"].eq(benchmark) & means["metric"].eq(metric) & means["network"].eq(network)]
    means = means[means["rule"].isin(chosen["rule"])]
    regions = [
        (species, region, rows)
        for (species, region), rows in groups(chosen, ["species", "region"])
        if has_sessions(rows)
    ]
    layers = list(chosen["layer"].unique())
    columns = min(COLUMNS, len(layers))
    slots = -(-len(layers) // columns) * columns
    lines = max(len(_row_order(rows)) for _, _, rows in regions)
    n_rules = chosen["rule"].nunique()
    figure, axes = panel_grid(
        slots * len(regions), columns, (2.3, 0.9 + lines * (0.1 + 0.065 * n_rules)), sharex=True, sharey=False
    )
    counts: list[str] = []
    ceilings: list[str | None] = []
    for start, (species, region, rows) in enumerate(regions):
        order = _row_order(rows)
        beside = means[means["species"].eq(species) & means["region"].eq(region)]
        block = axes[start * slots : (start + 1) * slots]
        for place, (axis, layer) in enumerate(zip(block, layers, strict=False)):
            layer_rows, layer_means = (part[part["layer"].eq(layer)] for part in (rows, beside))
            ceilings += _draw_layer(axis, layer_rows, layer_means, order, styles)
            axis.set_title(plain(f"{region_title(species, region)}: {layer}"))
            axis.set_xlabel(metric_name(metric) if len(layers) == 1 else metric)
            if place % columns:
                axis.tick_params(labelleft=False)
        for unused in block[len(layers) :]:
            unused.remove()
        single = rows[rows["session"].ne(MEAN)]
        animals = f"{single['animal'].nunique()} animals or subjects"
        title = region_title(species, region)
        counts.append(f"{title}: {recordings_text(rows)}, {animals}, {unit_text(single)} each")
    handles: list[Artist] = [*rule_handles(styles, list(chosen["rule"].unique()))]
    legend_below(figure, handles + ceiling_handles(ceilings))
    title = f"{benchmark}, {metric}, by recording: {network}{simulated_note(chosen)}"
    figure.suptitle(plain(title), fontsize=10)
    caption = (
        f"{metric_name(metric)}: {network} with each recording of {benchmark}{simulated_note(chosen)} (animal in "
        "brackets), the mean of each animal with several, and the mean of all. The spread over lines shows how much a "
        f"score depends on the animal and the session. {metric_note(metric)}"
        f"Marks: mean over seeds ({count_text(chosen)}); bars: {means_text(means)}. "
        f"{ceiling_text(chosen)} {'; '.join(counts)}."
    )
    alt = f"Scores of {network} with the single recordings of {benchmark}."
    return CaptionedFigure(file_name("sessions", benchmark, metric, network), title, caption, alt, figure, benchmark)
