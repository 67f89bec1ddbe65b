"""Pictures of RDMs: a network's layers, alone (may be shared) or with the recorded RDMs (local only)."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from brain_eval.benchmarks.base import Benchmark
from workflow.analysis.figures.similarity import region_title
from workflow.analysis.figures.style import CaptionedFigure, RuleStyle, file_name, plain, styled

#: 32 steps: finer ones are not visible and double the file's size.
COLOR_MAP = matplotlib.colormaps["cividis"].resampled(32)
#: Maximum number of categories with names next to a picture, and with borders.
MOST_CATEGORIES = 14
MOST_BORDERS = 40
#: More recorded RDMs than this make a second row, unless the network has more layers.
MOST_COLUMNS = 6


@dataclass(frozen=True)
class ModelRdms:
    """One network's RDMs on one benchmark.

    Attributes:
        network, rule, seed: whose they are.
        layers: names, in the network's order.
        values: (layers, n, n) dissimilarities, the stimulus set's order.
        n_seeds: how many seeds of that network and rule were scored; this is one of them.
    """

    network: str
    rule: str
    seed: int
    layers: tuple[str, ...]
    values: NDArray[np.float64]
    n_seeds: int = 1


def percentiles(rdm: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, n) RDM -> percentile of each dissimilarity among all pairs (0 to 100), zero diagonal.

    Spearman and rho-a see ranks only, so the picture shows what the score compares. A pair without a
    value (a layer with identical responses to all stimuli) stays NaN.
    """
    pairs = squareform(np.asarray(rdm, dtype=np.float64), checks=False)
    if pairs.size < 2 or np.isnan(pairs).any():
        return np.full(rdm.shape, np.nan)
    return squareform(100 * (rankdata(pairs) - 1) / (pairs.size - 1))


def category_order(categories: tuple[str, ...], n: int) -> NDArray[np.intp]:
    """Return positions that sort stimuli by category, categories in order of first appearance."""
    if not categories:
        return np.arange(n)
    first = {category: place for place, category in reversed(list(enumerate(categories)))}
    return np.argsort([first[category] for category in categories], kind="stable")


def recorded_means(benchmark: Benchmark) -> dict[tuple[str, str], tuple[NDArray[np.float64], int]]:
    """Return the mean RDM of each (species, region) over n recordings of the whole stimulus set, and n.

    The mean is of percentiles, and in percentiles again: (n, n) float64, 0 to 100.
    """
    n = len(benchmark.stimulus_set.stimulus_ids)
    totals: dict[tuple[str, str], NDArray[np.float64]] = {}
    counts: dict[tuple[str, str], int] = {}
    for recording in benchmark.recordings:
        if len(recording.stimuli) == n and recording.rdm is not None:
            key = (recording.species, recording.region)
            total = totals.setdefault(key, np.zeros((n, n)))
            total[np.ix_(recording.stimuli, recording.stimuli)] += percentiles(recording.rdm)
            counts[key] = counts.get(key, 0) + 1
    return {key: (percentiles(total), counts[key]) for key, total in totals.items()}


def _draw(
    axis: Axes, rdm: NDArray[np.float64], order: NDArray[np.intp], categories: tuple[str, ...], named: bool
) -> None:
    """Draw an RDM of percentiles, stimuli in the given order, lines between categories."""
    axis.grid(False)
    axis.set_facecolor("#cccccc")
    axis.imshow(rdm[np.ix_(order, order)], cmap=COLOR_MAP, vmin=0, vmax=100, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    if not categories:
        return
    ordered = [categories[i] for i in order]
    starts = [i for i in range(len(ordered)) if i == 0 or ordered[i] != ordered[i - 1]]
    if len(starts) > MOST_BORDERS:
        return
    for start in starts[1:]:
        axis.axhline(start - 0.5, color="white", linewidth=0.4)
        axis.axvline(start - 0.5, color="white", linewidth=0.4)
    if named and len(starts) <= MOST_CATEGORIES:
        ends = [*starts[1:], len(ordered)]
        middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
        axis.set_yticks(middles, [plain(ordered[start]) for start in starts], fontsize=6)
        axis.tick_params(axis="y", length=0)


def _rows_of_models(models: list[ModelRdms], styles: dict[str, RuleStyle]) -> tuple[list[ModelRdms], list[ModelRdms]]:
    """Return the models with several layers, in the palette's order, and those with a single one (pixels)."""
    ranked = sorted(models, key=lambda model: list(styles).index(model.rule))
    return [m for m in ranked if len(m.layers) > 1], [m for m in ranked if len(m.layers) == 1]


def _picture(
    benchmark: Benchmark,
    models: list[ModelRdms],
    styles: dict[str, RuleStyle],
    recorded: dict[tuple[str, str], tuple[NDArray[np.float64], int]],
) -> Figure:
    """Draw recorded RDMs and single-layer models in the first rows, then a row of layers per model."""
    rows, singles = _rows_of_models(models, styles)
    top = [(region_title(*key), rdm) for key, (rdm, _) in recorded.items()]
    top += [(model.rule, percentiles(model.values[0])) for model in singles]
    columns = max([len(row.layers) for row in rows] + [min(len(top), MOST_COLUMNS), 1])
    top_rows = -(-len(top) // columns)
    n_rows = top_rows + len(rows)
    figure = Figure(figsize=(max(5.0, columns * 1.6 + 1.2), n_rows * 1.55 + 1.0), layout="compressed")
    grid = figure.subplots(n_rows, columns, squeeze=False)
    categories = benchmark.stimulus_set.categories
    order = category_order(categories, len(benchmark.stimulus_set.stimulus_ids))
    for place, (title, rdm) in enumerate(top):
        axis = grid[divmod(place, columns)]
        _draw(axis, rdm, order, categories, named=place % columns == 0)
        axis.set_title(plain(title), fontweight="bold", fontsize=8)
    above: tuple[str, ...] = ()
    for row, model in enumerate(rows, start=top_rows):
        for axis, layer, values in zip(grid[row], model.layers, model.values, strict=False):
            _draw(axis, percentiles(values), order, categories, named=False)
            if model.layers != above:
                axis.set_title(plain(layer), fontsize=8)
        above = model.layers
        grid[row, 0].set_ylabel(plain(model.rule), color=styles[model.rule].color, fontweight="bold")
    for axis in grid.ravel():
        if not axis.images:
            axis.remove()
    image = next(axis.images[0] for axis in figure.axes if axis.images)
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.4, aspect=30)
    bar.set_label("percentile of dissimilarity")
    return figure


def seeds_of(models: Sequence[ModelRdms]) -> str:
    """Return which seeds are shown, of how many per rule: "10 (one of each rule's 6)"."""
    layered = [model for model in models if len(model.layers) > 1] or models
    seeds = ", ".join(str(seed) for seed in sorted({model.seed for model in layered}))
    low, high = (pick(model.n_seeds for model in layered) for pick in (min, max))
    return f"{seeds} (one of each rule's {low if low == high else f'{low} to {high}'})"


def _caption_parts(benchmark: Benchmark, models: list[ModelRdms]) -> tuple[str, str]:
    """Return the note on simulated data, and the sentences that all RDM captions share."""
    n = len(benchmark.stimulus_set.stimulus_ids)
    ordered = ", ordered by category (white lines: borders)" if benchmark.stimulus_set.categories else ""
    note = " (simulated, not recorded)" if benchmark.description.simulated else ""
    text = (
        "RDMs with similar patterns represent the stimuli similarly. "
        f"n = {n} stimuli{ordered}. Dissimilarity is 1 - Pearson correlation over neuroids, shown as "
        f"percentile among all {n * (n - 1) // 2} pairs, since the scores compare ranks. "
        f"Networks of seed {seeds_of(models)}, one network per row. Grey: no value."
    )
    return note, text


@styled
def model_rdms_figure(benchmark: Benchmark, models: list[ModelRdms], styles: dict[str, RuleStyle]) -> CaptionedFigure:
    """Draw the RDM of every layer of every rule of one network, without any recorded data.

    Args:
        benchmark: for the number and the categories of its stimuli.
        models: one network's, and pixels.
    """
    note, text = _caption_parts(benchmark, models)
    network = next((model.network for model in models if len(model.layers) > 1), models[0].network)
    name = benchmark.description.name
    title = f"RDMs of {network} on the stimuli of {name}{note}"
    figure = _picture(benchmark, models, styles, {})
    figure.suptitle(plain(title), fontsize=10)
    caption = f"RDMs of every layer of {network} on the stimuli of {name}{note}. {text}"
    return CaptionedFigure(
        file_name("modelrdms", name, network),
        title,
        caption,
        f"Grid of RDMs of {network} on {name}.",
        figure,
        name,
        pictures=True,
    )


@styled
def recorded_rdms_figure(
    benchmark: Benchmark, models: list[ModelRdms], styles: dict[str, RuleStyle]
) -> CaptionedFigure | None:
    """Draw the recorded RDMs with every layer's; None if no recording covers the whole stimulus set.

    Args:
        benchmark: with its recordings.
        models: one network's, and pixels.
    """
    recorded = recorded_means(benchmark)
    if not recorded:
        return None
    note, text = _caption_parts(benchmark, models)
    network = next((model.network for model in models if len(model.layers) > 1), models[0].network)
    name = benchmark.description.name
    title = f"RDMs of {name}{note} and of {network}"
    figure = _picture(benchmark, models, styles, recorded)
    figure.suptitle(plain(title), fontsize=10)
    means = "; ".join(
        f"{region_title(*key)}: mean of {count} recordings' percentiles" if count > 1
        else f"{region_title(*key)}: one recording" for key, (_, count) in recorded.items()
    )  # fmt: skip
    source = "Simulated" if benchmark.description.simulated else "Recorded"
    caption = f"{source} RDMs of {name} (first row, {means}) above every layer of {network}. {text}"
    alt = f"{source} RDMs of {name} and RDMs of {network}'s layers."
    return CaptionedFigure(
        file_name("rdms", name, network), title, caption, alt, figure, name, local=True, pictures=True
    )
