"""Similarity between models: correlations of the RDMs of networks, layers and recorded regions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from brain_eval.benchmarks.base import Benchmark
from workflow.analysis.figures.rdms import COLOR_MAP, ModelRdms, percentiles, recorded_means, seeds_of
from workflow.analysis.figures.similarity import region_title
from workflow.analysis.figures.style import CaptionedFigure, RuleStyle, file_name, plain, styled

#: Maximum number of RDMs to compare all layers; above it one layer of each model is compared.
MOST_RDMS = 44
#: Maximum number of RDMs with numbers in the cells.
MOST_WRITTEN = 24


@dataclass(frozen=True)
class NamedRdm:
    """An RDM as percentiles of its pairs, (pairs,), with its label and colour; recorded ones in bold."""

    label: str
    pairs: NDArray[np.float64]
    color: str = "#000000"
    recorded: bool = False


def compared_rdms(
    benchmark: Benchmark, models: Sequence[ModelRdms], styles: dict[str, RuleStyle], layers: dict[tuple[str, str], str]
) -> tuple[list[NamedRdm], bool]:
    """Return the RDMs to compare, without undefined ones, and whether all layers are among them.

    Args:
        benchmark: recorded regions with all stimuli come first.
        models: of all networks.
        styles: of every rule.
        layers: (network, rule) -> the layer shown where not all can be; the last one where not given.
    """
    named = [
        NamedRdm(region_title(*key), squareform(rdm, checks=False), recorded=True)
        for key, (rdm, _) in recorded_means(benchmark).items()
    ]
    every = len(named) + sum(len(model.layers) for model in models) <= MOST_RDMS
    networks = {model.network for model in models if len(model.layers) > 1}
    for model in models:
        choice = layers.get((model.network, model.rule), model.layers[-1])
        for layer, values in zip(model.layers, model.values, strict=True):
            if every or layer == (choice if choice in model.layers else model.layers[-1]):
                parts = ([model.network] if len(networks) > 1 and model.network in networks else []) + [model.rule]
                label = " ".join(parts) + (f" {layer}" if len(model.layers) > 1 else "")
                named.append(NamedRdm(label, squareform(percentiles(values), checks=False), styles[model.rule].color))
    return [rdm for rdm in named if not np.isnan(rdm.pairs).any()], every


def spearman_matrix(rdms: Sequence[NamedRdm]) -> NDArray[np.float64]:
    """Return the Spearman correlations (k, k): Pearson's of percentiles, which are ranks."""
    return np.clip(np.atleast_2d(np.corrcoef(np.stack([rdm.pairs for rdm in rdms]))), -1, 1)


def clustered(matrix: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return an order with similar RDMs adjacent: average linkage of 1 - correlation, optimal leaf order."""
    distances = 1 - (matrix + matrix.T) / 2
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(np.clip(distances, 0, None), checks=False), "average", optimal_ordering=True)
    return np.asarray(leaves_list(tree), dtype=np.intp)


def _picture(matrix: NDArray[np.float64], rdms: Sequence[NamedRdm]) -> Figure:
    k = len(rdms)
    side = max(3.6, 0.2 * k + 0.17 * min(k, MOST_WRITTEN))
    figure = Figure(figsize=(side + 2.6, side + 1.6), layout="constrained")
    axis = figure.subplots()
    axis.grid(False)
    lowest = min(0.0, float(matrix.min()))
    image = axis.imshow(matrix, cmap=COLOR_MAP, vmin=lowest, vmax=1, interpolation="nearest")
    labels = [plain(rdm.label) for rdm in rdms]
    axis.set_xticks(range(k), labels, rotation=90, fontsize=7)
    axis.set_yticks(range(k), labels, fontsize=7)
    for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
        for tick, rdm in zip(ticks, rdms, strict=True):
            tick.set(color=rdm.color, fontweight="bold" if rdm.recorded else "normal")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if k <= MOST_WRITTEN:
        for row in range(k):
            for column in range(k):
                value = matrix[row, column]
                dark = value < lowest + 0.55 * (1 - lowest)
                number = f"{value.round(2) + 0.0:.2f}".replace("0.", ".", 1)  # no -.00
                axis.text(column, row, number, ha="center", va="center", fontsize=6, color="white" if dark else "black")
    figure.colorbar(image, ax=axis, shrink=0.5, aspect=25, label="Spearman correlation of RDMs")
    return figure


@styled
def models_figure(
    benchmark: Benchmark, models: Sequence[ModelRdms], styles: dict[str, RuleStyle], layers: dict[tuple[str, str], str]
) -> CaptionedFigure | None:
    """Draw the Spearman correlation of every two RDMs on one benchmark, in clustered order; None below three RDMs.

    Args:
        benchmark: with its recordings.
        models: of all networks.
        styles: of every rule.
        layers: (network, rule) -> the layer shown where not all can be.
    """
    rdms, every = compared_rdms(benchmark, models, styles, layers)
    if len(rdms) < 3:
        return None
    matrix = spearman_matrix(rdms)
    order = clustered(matrix)
    figure = _picture(matrix[np.ix_(order, order)], [rdms[i] for i in order])
    name, n = benchmark.description.name, len(benchmark.stimulus_set.stimulus_ids)
    note = " (simulated, not recorded)" if benchmark.description.simulated else ""
    title = f"Similarity between models: RDMs on {name}{note}"
    figure.suptitle(plain(title), fontsize=10)
    choice = "the layer chosen most often on held-out images over all regions (layers.csv), else the last layer,"
    chosen = "every layer" if every else choice
    caption = (
        f"Spearman correlation between the RDMs of {chosen} of every model and each region recorded with all stimuli "
        f"(bold) on the n = {n} stimuli of {name}{note} ({n * (n - 1) // 2} pairs). Blocks of high values are groups "
        "that represent the stimuli similarly. A region's RDM is the mean over its recordings, each in percentiles. "
        "Order: average linkage of 1 - correlation, with optimal leaf order. Networks of seed "
        f"{seeds_of(models)}. Values have no intervals; scores.csv has scores with intervals, averaged over recordings."
    )
    alt = f"Matrix of correlations between {len(rdms)} RDMs on {name}."
    return CaptionedFigure(file_name("models", name), title, caption, alt, figure, name, pictures=True)
