"""Maps of the stimuli by their similarity in a network or a brain region (local only: stimuli are shown)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image
from scipy.linalg import orthogonal_procrustes

from brain_eval.benchmarks.base import Benchmark
from nmnc.data.images import as_uint8
from workflow.analysis.figures.rdms import ModelRdms, percentiles, recorded_means, seeds_of
from workflow.analysis.figures.similarity import region_title
from workflow.analysis.figures.style import (
    DPI,
    CaptionedFigure,
    RuleStyle,
    file_name,
    legend_below,
    panel_grid,
    plain,
    styled,
)

#: Maximum number of categories with frames: more colours cannot be distinguished.
MOST_CATEGORIES = 10
PANEL = 3.5
Positions = NDArray[np.float64]


@dataclass(frozen=True)
class StimulusMap:
    """Stimuli in the plane.

    Attributes:
        title: of the network or region.
        positions: (n, 2), centred, of unit root mean square.
        stress: Kruskal's stress-1, 0 where distances in the map are the dissimilarities.
        color: of the title.
    """

    title: str
    positions: Positions
    stress: float
    color: str = "#000000"


def classical_scaling(dissimilarities: NDArray[np.float64]) -> Positions:
    """Return positions (n, 2) for dissimilarities (n, n): leading axes of the doubly centred squares (Torgerson 1952).

    Each axis points to where its largest coordinate is positive, so that the result is unique.
    """
    squares = dissimilarities**2
    centred = -0.5 * (squares - squares.mean(axis=0) - squares.mean(axis=1, keepdims=True) + squares.mean())
    values, vectors = np.linalg.eigh(centred)
    axes = vectors[:, -2:][:, ::-1] * np.sqrt(np.clip(values[-2:][::-1], 0, None))
    largest = axes[np.abs(axes).argmax(axis=0), [0, 1]]
    return np.asarray(axes * np.where(largest < 0, -1.0, 1.0))


def scaled(dissimilarities: NDArray[np.float64]) -> tuple[Positions, float]:
    """Return metric multidimensional scaling to two dimensions, started at the classical solution.

    Args:
        dissimilarities: (n, n), symmetric, zero diagonal, no NaN.

    Returns:
        (n, 2) positions, centred, of unit root mean square; and Kruskal's (1964) stress-1 of the best
        scale: sqrt(sum (d - distance)^2 / sum distance^2) over pairs.
    """
    from sklearn.manifold import smacof

    start = classical_scaling(dissimilarities)
    positions, _ = smacof(dissimilarities, n_components=2, init=start, n_init=1, max_iter=500, eps=1e-7)
    positions = positions - positions.mean(axis=0)
    upper = np.triu_indices(len(positions), 1)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)[upper]
    target = dissimilarities[upper]
    # The scale of a map is arbitrary, so stress is computed at the scale that fits best.
    distances = distances * (target @ target) / max(target @ distances, 1e-300)
    stress = float(np.sqrt(((target - distances) ** 2).sum() / (distances @ distances)))
    return np.asarray(positions / np.sqrt((positions**2).sum(axis=1).mean())), stress


def turned(positions: Positions, reference: Positions) -> Positions:
    """Return positions rotated and mirrored to match the reference (orthogonal Procrustes)."""
    rotation, _ = orthogonal_procrustes(positions, reference)
    return np.asarray(positions @ rotation)


def thumbnails(benchmark: Benchmark, size: int) -> list[NDArray[np.uint8]]:
    """Return every stimulus, at most `size` pixels wide and high, with its aspect ratio."""
    images = benchmark.stimulus_set.read(np.arange(len(benchmark.stimulus_set.stimulus_ids)))
    small = []
    for values in images:
        image = Image.fromarray(as_uint8(values))
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
        small.append(np.asarray(image))
    return small


def _category_colors(categories: tuple[str, ...]) -> dict[str, str]:
    """Return a colour per category; none if there are too many."""
    names = list(dict.fromkeys(categories))
    if len(names) > MOST_CATEGORIES:
        return {}
    return {name: to_hex(colormaps["tab10"](place)) for place, name in enumerate(names)}


def _draw(axis: Axes, shown: StimulusMap, images: Sequence[NDArray[np.uint8]], frames: Sequence[str]) -> None:
    """Draw a map; each image with a frame in its category's colour."""
    for (x, y), image, frame in zip(shown.positions, images, frames, strict=True):
        picture = OffsetImage(image, zoom=72 / DPI, cmap="gray")
        edge = {"edgecolor": frame, "linewidth": 1.2 if frame != "none" else 0.0, "boxstyle": "square,pad=0.02"}
        box = AnnotationBbox(picture, (x, y), pad=0.02, bboxprops=edge)
        box.set_in_layout(False)
        axis.add_artist(box)
    reach = 1.12 * np.abs(shown.positions).max()
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_color("#dddddd")
    axis.spines[:].set_visible(True)
    axis.set_title(plain(f"{shown.title}  (stress {shown.stress:.2f})"), color=shown.color, fontsize=8.5)


def maps_of(
    benchmark: Benchmark, models: Sequence[ModelRdms], styles: dict[str, RuleStyle], layers: dict[tuple[str, str], str]
) -> list[StimulusMap]:
    """Return maps of the recorded regions, then of every model at one layer, all rotated to match the first.

    Args:
        benchmark: with its recordings; regions recorded with all stimuli have a map.
        models: their RDMs; one without values (a layer with identical responses to all stimuli) has no map.
        styles: of every rule.
        layers: (network, rule) -> the layer to show; the last one where not given.
    """
    shown = [(region_title(*key), rdm, "#000000") for key, (rdm, _) in recorded_means(benchmark).items()]
    for model in models:
        layer = layers.get((model.network, model.rule), model.layers[-1])
        layer = layer if layer in model.layers else model.layers[-1]
        name = f"{model.rule}, {layer}" if len(model.layers) > 1 else model.rule
        shown.append((name, percentiles(model.values[model.layers.index(layer)]), styles[model.rule].color))
    maps: list[StimulusMap] = []
    for title, rdm, color in shown:
        if np.isnan(rdm).any():
            continue
        positions, stress = scaled(rdm)
        positions = turned(positions, maps[0].positions) if maps else positions
        maps.append(StimulusMap(title, positions, stress, color))
    return maps


@styled
def maps_figure(
    benchmark: Benchmark, models: Sequence[ModelRdms], styles: dict[str, RuleStyle], layers: dict[tuple[str, str], str]
) -> CaptionedFigure | None:
    """Draw maps of the stimuli by metric multidimensional scaling, recorded regions first; None without any.

    Args:
        benchmark: with its stimuli and recordings.
        models: one network's, and pixels.
        styles: of every rule.
        layers: (network, rule) -> the layer to show.
    """
    maps = maps_of(benchmark, models, styles, layers)
    if not maps:
        return None
    n, categories = len(benchmark.stimulus_set.stimulus_ids), benchmark.stimulus_set.categories
    columns = 3 if len(maps) > 4 else 2
    figure, axes = panel_grid(len(maps), columns, (PANEL, PANEL), sharey=False)
    images = thumbnails(benchmark, int(np.clip(0.62 * PANEL * DPI / np.sqrt(n), 14, 44)))
    colors = _category_colors(categories)
    frames = [colors.get(category, "none") for category in categories] or ["none"] * n
    for axis, shown in zip(axes, maps, strict=True):
        _draw(axis, shown, images, frames)
    if colors:
        legend_below(figure, [Patch(facecolor="none", edgecolor=c, label=plain(name)) for name, c in colors.items()])
    name = benchmark.description.name
    network = next((model.network for model in models if len(model.layers) > 1), models[0].network)
    note = " (simulated, not recorded)" if benchmark.description.simulated else ""
    title = f"Maps of the stimuli of {name}{note}: {network}"
    figure.suptitle(plain(title), fontsize=10)
    caption = (
        f"Maps of the n = {n} stimuli of {name}{note}: stimuli are close if the representation treats them as similar. "
        "Groups that lie apart are distinguished by the representation. Metric multidimensional scaling (SMACOF, from "
        "the classical solution) of the RDMs in percentiles, rotated and mirrored to match the first map; stress: "
        f"Kruskal's stress-1, 0 for an exact map. Networks of seed {seeds_of(models)}; layer: the one chosen most "
        "often on held-out images over all regions (layers.csv), else the last. Maps have no intervals."
        + (" Frames: categories." if colors else "")
    )
    alt = f"Maps of the stimuli of {name} for {', '.join(shown.title for shown in maps)}."
    return CaptionedFigure(
        file_name("maps", name, network), title, caption, alt, figure, name, local=True, pictures=True
    )
