"""Rule x region: raw scores layer by layer, and of the layer chosen on held-out images."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from brain_eval.benchmarks import MODULES, module_of
from brain_eval.comparisons import ScoredRun, whole_regions
from brain_eval.layers import CHOSEN
from brain_eval.score_draws import Drawn
from brain_eval.statistics import correlation_interval, t_interval
from brain_eval.variation import joint_variance
from brain_eval.wide_tables.page import Ceiling, Cell, Page, Section, file_stem, listed, readable_method

PREFIXES = ("layers_", "chosen_")
Row = Mapping[str, str]


class Region(NamedTuple):
    """A column of the tables."""

    benchmark: str
    species: str
    region: str

    @property
    def title(self) -> str:
        """ "macaque IT (kriegeskorte2008)"; a simulated region says so once."""
        where = f"{self.species} {self.region}"
        return where if self.species == self.benchmark else f"{where} ({self.benchmark})"


class Scored(NamedTuple):
    """One row of scores.csv for a whole region, and the run it is of."""

    run: ScoredRun
    row: Row


def layer_pages(runs: Sequence[ScoredRun], confidence: float = 0.95) -> Iterator[Page]:
    """Yield a page per metric and network: a table per layer, a row per rule, and pixels in each.

    The interval of a mean over seeds is over seeds, stimuli and recordings jointly (see
    variation.joint_variance) where the scores' draws are known, else over seeds alone; of one seed
    without draws it is that of scores.csv.

    Args:
        runs: with their rows of scores.csv and their draws.
        confidence: coverage of the intervals.
    """
    scored = [Scored(run, row) for run in runs for row in whole_regions(run.scores)]
    pixels = [one for one in scored if one.row["kind"] == "pixels"]
    own = [one for one in scored if one.row["kind"] != "pixels"]
    for metric in dict.fromkeys(one.row["metric"] for one in own or pixels):
        for network in dict.fromkeys(one.run.network for one in own or pixels):
            here = [one for one in own or pixels if (one.run.network, one.row["metric"]) == (network, metric)]
            reference = [one for one in pixels if one.row["metric"] == metric] if own else []
            if here:
                yield _layer_page(metric, network, here, reference, confidence)


def _layer_page(metric: str, network: str, here: Sequence[Scored], pixels: Sequence[Scored], confidence: float) -> Page:
    regions = list(dict.fromkeys(_region(one.row) for one in here))
    ceilings = tuple(_ceiling([one.row for one in here], region) for region in regions)
    sections = []
    for layer in dict.fromkeys(one.row["layer"] for one in here):
        members = [one for one in here if one.row["layer"] == layer]
        rules = dict.fromkeys(one.run.rule for one in members)
        groups = [(rule, [one for one in members if one.run.rule == rule]) for rule in rules]
        groups += [("pixels", list(pixels))] if pixels else []
        rows = [((rule,), tuple(_score(group, region, confidence) for region in regions)) for rule, group in groups]
        sections.append(Section(layer, tuple(rows), ceilings))
    methods = _methods(cell.method for section in sections for _, cells in section.rows for cell in cells if cell)
    note = (
        f"Raw {metric} of {network}'s layers with each region, mean over seeds. "
        + f"Interval: {methods}. " * bool(methods)
        + _about([one.row for one in here], regions)
    )
    title = f"Similarity, every layer: {network}, {metric}"
    columns = tuple(region.title for region in regions)
    name = file_stem("layers", metric, network)
    return Page(name, title, note, "layer", ("rule",), columns, tuple(sections))


def chosen_pages(layers: Sequence[Row], scores: Sequence[Row], confidence: float = 0.95) -> Iterator[Page]:
    """Yield a page per metric: rules of all networks, each at the layer chosen on held-out images.

    Args:
        layers: rows of layers.csv.
        scores: rows of scores.csv, for ceilings, numbers of stimuli, and the intervals of models of one seed.
        confidence: coverage of Student's t intervals over seeds.
    """
    own = [row for row in layers if row["layer"] == CHOSEN and row["half"] != ""]
    whole = list(whole_regions(scores))
    for metric in dict.fromkeys(row["metric"] for row in own):
        here = [row for row in own if row["metric"] == metric]
        regions = list(dict.fromkeys(_region(row) for row in here))
        rows = []
        for network, rule in dict.fromkeys((row["network"], row["rule"]) for row in here):
            group = [row for row in here if (row["network"], row["rule"]) == (network, rule)]
            every = [row for row in layers if (row["network"], row["rule"], row["metric"]) == (network, rule, metric)]
            own_scores = [
                row for row in whole if (row["network"], row["rule"], row["metric"]) == (network, rule, metric)
            ]
            cells = tuple(_chosen(group, every, own_scores, region, confidence) for region in regions)
            rows.append(((network, rule), cells))
        shown = [row for row in whole if row["metric"] == metric]
        covered, note = _covered([cell for _, cells in rows for cell in cells if cell])
        note = (
            f"Mean {metric} over seeds of the layer that scores best on one half of the stimuli, scored on the other "
            f"half, over many random halves; beside it the layer chosen most often. {note}"
            f"Ceilings are those of all stimuli. {_about(shown, regions)}"
        )
        ceilings = tuple(_ceiling(shown, region) for region in regions)
        title = f"Similarity at the layer chosen on held-out images: {metric}{covered}"
        columns = tuple(region.title for region in regions)
        section = Section("", tuple(rows), ceilings)
        yield Page(file_stem("chosen", metric), title, note, "", ("network", "rule"), columns, (section,))


def _region(row: Row) -> Region:
    return Region(row["benchmark"], row["species"], row["region"])


def _score(group: Sequence[Scored], region: Region, confidence: float) -> Cell | None:
    """The mean of one rule's seeds at one layer, None where it has no such score."""
    known = [one for one in group if _region(one.row) == region and one.row["raw"] != ""]
    if not known:
        return None
    values = [float(one.row["raw"]) for one in known]
    joint = _joint(known, region, confidence)
    if joint is not None:
        return Cell(float(np.mean(values)), *joint[:2], len(values), joint[2])
    if len(values) > 1:
        mean, low, high, _, n = t_interval(values, confidence)
        return Cell(mean, low, high, n, _words(confidence, ["seeds"]))
    row = known[0].row
    low, high = (float(row[key]) if row[key] != "" else None for key in ("ci_low", "ci_high"))
    return Cell(values[0], low, high, 1, readable_method(row["interval_method"]) if low is not None else "")


def _joint(known: Sequence[Scored], region: Region, confidence: float) -> tuple[float, float, str] | None:
    """Interval over seeds, stimuli and recordings, and its words; None where a seed's draws are missing."""
    row = known[0].row
    found = [one.run.draws.get((region.benchmark, row["metric"])) for one in known]
    drawn = [one for one in found if one is not None and row["layer"] in one.layers]
    if len(drawn) < len(known) or len({(one.sampling, one.labels) for one in drawn}) > 1:
        return None
    own = [i for i, label in enumerate(drawn[0].labels) if label[2:] == (region.species, region.region)]

    def stack(name: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        return np.stack([_of_layer(one, name, row["layer"])[own].astype(np.float64) for one in drawn])

    values = stack("raw")
    recorded = drawn[0].recorded[own]
    if not own or not np.isfinite(values).all():
        return None
    anywhere = recorded.any(axis=0)
    influence, smallest = stack("influence")[..., anywhere], int(recorded.sum(axis=1).min())
    spread = joint_variance(values, influence, stack("remainder"), smallest)
    over = ["seeds"] * (len(values) > 1) + ["stimuli"] + ["recordings"] * (len(own) > 1)
    return *correlation_interval(float(values.mean()), spread, confidence), _words(confidence, over, "(Fisher z) ")


def _of_layer(drawn: Drawn, name: str, layer: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    return np.asarray(getattr(drawn, name)[drawn.layers.index(layer)])


def _words(confidence: float, over: Sequence[str], scale: str = "") -> str:
    joined = " and ".join(filter(None, [", ".join(over[:-1]), over[-1]]))
    return f"Student's t {100 * confidence:g} % interval {scale}over {joined}"


def _methods(methods: Iterable[str]) -> str:
    """The different ways in which intervals were made; what they are over stands together."""
    over: dict[str, list[str]] = {}
    for method in dict.fromkeys(method for method in methods if method):
        how, _, what = method.partition(" over ")
        over.setdefault(how, []).append(what)
    return "; ".join(f"{how} over {', or '.join(whats)}" if any(whats) else how for how, whats in over.items())


def _covered(cells: Sequence[Cell]) -> tuple[str, str]:
    """What the intervals at chosen layers are over, for the title, and the sentences on it."""
    methods = _methods(cell.method for cell in cells)
    several, one = (any(cell.method and (cell.n > 1) == many for cell in cells) for many in (True, False))
    title = ", ".join(["over seeds"] * several + ["of one seed over stimuli"] * one)
    words = f"Interval: {methods}. " * bool(methods)
    words += "That over seeds holds what the seeds vary, not the stimuli. " * several
    words += "That of one seed holds neither other seeds nor the choice of the layer. " * one
    return f" (intervals {title})" * bool(title), words


def _chosen(
    group: Sequence[Row], every: Sequence[Row], scores: Sequence[Row], region: Region, confidence: float
) -> Cell | None:
    """The held-out score of one rule with one region, and the layer chosen most often."""
    values = [float(row["half"]) for row in group if _region(row) == region]
    if not values:
        return None
    shares: dict[str, float] = {}
    for row in every:
        if _region(row) == region and row["layer"] != CHOSEN and row["chosen"] != "":
            shares[row["layer"]] = shares.get(row["layer"], 0.0) + float(row["chosen"]) / len(values)
    most = max(shares, key=lambda layer: shares[layer], default="")
    note = f"{most} {100 * shares[most]:.0f} %" if len(shares) > 1 else ""
    mean, low, high, _, n = t_interval(values, confidence)
    if n > 1:
        return Cell(mean, low, high, n, _words(confidence, ["seeds"]), note)
    return Cell(mean, *_moved(mean, [row for row in scores if _region(row) == region and row["layer"] == most]), note)


def _moved(mean: float, scores: Sequence[Row]) -> tuple[float | None, float | None, int, str]:
    """Interval and words for a model of one seed: that of its layer in scores.csv, moved from `raw` to the mean."""
    if len(scores) != 1 or "" in (scores[0]["raw"], scores[0]["ci_low"], scores[0]["ci_high"]):
        return None, None, 1, ""
    raw, low, high = (float(scores[0][key]) for key in ("raw", "ci_low", "ci_high"))
    over = re.split("[,;]", scores[0]["interval_method"].partition(" over ")[2])[0] or "stimuli"
    words = (
        f"of one seed that of the layer's score on all stimuli (scores.csv), moved to the held-out score, over {over}"
    )
    return mean + low - raw, mean + high - raw, 1, words


def _ceiling(rows: Sequence[Row], region: Region) -> Ceiling:
    """Mean of the known ceilings of a region's rows (of RDMs all the same); None where unknown."""
    own = [row for row in rows if _region(row) == region]
    ends = ({float(row[key]) for row in own if row[key] != ""} for key in ("ceiling_lower", "ceiling_upper"))
    lower, upper = (math.fsum(end) / len(end) if end else None for end in ends)
    return lower, upper


def _about(rows: Sequence[Row], regions: Sequence[Region]) -> str:
    """Stimuli and neuroids of every region, those of equal numbers together, and how ceilings are defined."""
    sizes: dict[str, list[str]] = {}
    definitions = []
    for region in regions:
        own = [row for row in rows if _region(row) == region]
        stimuli = listed((row["n_stimuli"] for row in own), " / ") or "unknown number of"
        neuroids = listed((row["n_neuroids"] for row in own), " / ") or "unknown number of"
        sizes.setdefault(f"{stimuli} stimuli, {neuroids} neuroids", []).append(region.title)
        definitions += [row["ceiling_definition"].partition("; ceiled")[0] for row in own]
    known = listed(definitions)
    ceiling = f"Noise ceiling, lower to upper: {known}." if known else "Noise ceiling: unknown."
    parts = [f"{', '.join(titles)}: {size}" for size, titles in sizes.items()]
    explained = " Neuroids are recorded units: neurons, sites or voxels."
    return f"{'; '.join(parts)}.{explained} {ceiling}{_notes(regions)}"


def _notes(regions: Sequence[Region]) -> str:
    """What a reader of these benchmarks' scores must know, e.g. that the data are very noisy."""
    ours = [name for name in dict.fromkeys(region.benchmark for region in regions) if name in MODULES]
    notes = {name: module_of(name).DESCRIPTION.note for name in ours}
    return "".join(f" {name}: {note}." for name, note in notes.items() if note)
