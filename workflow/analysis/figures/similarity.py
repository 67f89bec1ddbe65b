"""Figures of similarity: each layer against each region, with intervals and noise ceilings."""

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from brain_eval.benchmarks.whole_regions import rows_of_whole_regions
from brain_eval.metrics.labels import metric_name, metric_note
from workflow.analysis.figures.ceilings import ceiling_handles, ceiling_text, draw_across, known_of
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
from workflow.analysis.figures.summary import count_text, distinct, groups, recorded_text, recordings_text
from workflow.analysis.wide_tables.intervals import by_region


def region_title(species: str, region: str) -> str:
    """Return the title of a region, e.g. "macaque IT"; species is "simulated" for simulated regions."""
    return f"{species} {region}"


def _draw_region(
    axis: Axes, rows: pd.DataFrame, means: pd.DataFrame, layers: list[str], styles: dict[str, RuleStyle]
) -> None:
    """Draw a region: a line per rule over the layers with the means' intervals, a point per seed; pixels across."""
    trained = [rule for rule in styles if rows["rule"].eq(rule).any()]
    shifts = np.linspace(-0.26, 0.26, len(trained)) if len(trained) > 1 else [0.0]
    for rule, shift in zip(trained, shifts, strict=True):
        style = styles[rule]
        reference = rows.loc[rows["rule"].eq(rule), "kind"].eq("untrained").any()
        mean = means[means["rule"].eq(rule)].set_index("layer").reindex(layers)
        x = np.arange(len(layers)) + shift
        axis.errorbar(x, mean["mean"], yerr=reach(mean), color=style.color, marker=style.marker, markersize=4.5,
                      linestyle="--" if reference else "-", linewidth=1.0, elinewidth=1.1, alpha=0.95)  # fmt: skip
        seeds = rows[rows["rule"].eq(rule) & rows["layer"].isin(layers)]
        places = np.array([layers.index(layer) for layer in seeds["layer"]]) + shift + 0.045
        axis.scatter(places, seeds["raw"], s=7, color=style.color, alpha=0.55, linewidths=0, zorder=3)
    for pixels in means[means["kind"].eq("pixels")].to_dict("records"):
        color = styles[pixels["rule"]].color
        axis.axhspan(pixels["ci_low"], pixels["ci_high"], color=color, alpha=0.12, linewidth=0)
        axis.axhline(pixels["mean"], color=color, linestyle=":", linewidth=1.6)
    axis.axhline(0, color="#444444", linewidth=0.8)
    axis.set_xticks(range(len(layers)), [plain(layer) for layer in layers])
    if max(map(len, layers)) * len(layers) > 36:
        axis.tick_params(axis="x", rotation=35)


def reach(means: pd.DataFrame) -> np.ndarray:
    """Return the lengths of the interval below and above each mean, (2, rows)."""
    return np.abs(means[["ci_low", "ci_high"]].to_numpy().T - means["mean"].to_numpy())


@styled
def similarity_figure(
    scores: pd.DataFrame, means: pd.DataFrame, benchmark: str, metric: str, network: str, styles: dict[str, RuleStyle]
) -> CaptionedFigure:
    """Draw the score of every layer of one network with every region of one benchmark.

    Args:
        scores: tables/scores.csv, with the rules to show.
        means: tables/means.csv.
        benchmark, metric, network: which rows to show. Pixels are a reference line.
    """
    every = scores[scores["benchmark"].eq(benchmark) & scores["metric"].eq(metric)]
    every = every[every["network"].eq(network) & every["kind"].ne("pixels")]
    whole = rows_of_whole_regions(every)
    means = rows_of_whole_regions(means[means["benchmark"].eq(benchmark) & means["metric"].eq(metric)])
    pixels = means[means["kind"].eq("pixels")]
    means = pd.concat([means[means["network"].eq(network) & means["rule"].isin(whole["rule"])], pixels])
    layers, empty = _with_scores(whole)
    regions = list(whole[["species", "region"]].drop_duplicates().itertuples(index=False, name=None))
    figure, axes = panel_grid(len(regions), 2, (4.6, 3.4), sharey=False)
    sizes, ceilings = [], []
    for axis, (species, region) in zip(axes, regions, strict=True):
        here, beside = (rows[rows["species"].eq(species) & rows["region"].eq(region)] for rows in (whole, means))
        _draw_region(axis, here, beside, layers, styles)
        title, label = region_title(species, region), fill(metric_name(metric), 30)
        recorded = every[every["species"].eq(species) & every["region"].eq(region)]
        ceilings.append(draw_across(axis, here, known_of(recorded)))
        axis.set(title=plain(f"{title} ({recordings_text(recorded)})"), ylabel=label, xlabel="layer")
        sizes.append(f"{title}: {recorded_text(recorded, here)}")
    handles: list[Artist] = [*rule_handles(styles, list(whole["rule"].unique()))]
    handles += [Line2D([], [], color=styles[str(rule)].color, linestyle=":", label=plain(str(rule)))
                for rule in pixels["rule"].unique()]  # fmt: skip
    legend_below(figure, handles + ceiling_handles(ceilings))
    title = f"{benchmark}, {metric}: {network}" + simulated_note(whole)
    figure.suptitle(plain(title), fontsize=10)
    caption = (
        f"{metric_name(metric)}: every layer of {network} with each region of {benchmark}{simulated_note(whole)}. "
        "Higher is more similar; a layer below the pixels is less similar to the region than the images themselves. "
        f"{metric_note(metric)}"
        f"Large marks: mean over seeds ({count_text(whole)}); small points: each seed. Bars: {_bars_text(means)}. "
        f"Dotted line and band: the images' pixels. {ceiling_text(whole)} {empty}{'; '.join(sizes)}."
    )
    names = ", ".join(region_title(*region) for region in regions)
    alt = f"Similarity of {network}'s layers with {benchmark} ({metric}): {names}."
    return CaptionedFigure(file_name("similarity", benchmark, metric, network), title, caption, alt, figure, benchmark)


def _with_scores(rows: pd.DataFrame) -> tuple[list[str], str]:
    """Return the layers with scores, and a sentence on the others; all layers if none has a score."""
    layers, known = (list(part["layer"].unique()) for part in (rows, rows.dropna(subset=["raw"])))
    missing = [layer for layer in layers if layer not in known]
    if not known or not missing:
        return layers, ""
    why = distinct(rows.loc[rows["layer"].isin(missing), "interval_method"])
    return known, f"Not scored: {', '.join(missing)} ({'; '.join(why) or 'no reason in the table'}). "


def _bars_text(means: pd.DataFrame) -> str:
    """Return how the intervals were made, by region and for pixels if these differ."""
    pixels = means["kind"].eq("pixels")
    texts = {"": _by_region(means[~pixels]), "pixels: ": _by_region(means[pixels])}
    if texts["pixels: "] == texts[""] or not pixels.any():
        return texts[""]
    return "; ".join(f"{whose}{text}" for whose, text in texts.items())


def _by_region(means: pd.DataFrame) -> str:
    methods = ((region_title(*key), means_text(rows)) for key, rows in groups(means, ["species", "region"]))
    return by_region(methods) or means_text(means)


def simulated_note(rows: pd.DataFrame) -> str:
    """Return " (simulated, not recorded)" if the rows come from a simulation, else ""."""
    return " (simulated, not recorded)" if rows["species"].eq("simulated").any() else ""


def means_text(means: pd.DataFrame) -> str:
    """Return how the intervals of some rows of means.csv were made."""
    return "; ".join(distinct(means["interval_method"])) or "no interval in the table"
