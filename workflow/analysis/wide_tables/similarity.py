"""Tables of rule x region: raw scores layer by layer, and of the layer chosen on held-out images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from brain_eval.benchmarks import MODULES, module_of
from brain_eval.benchmarks.whole_regions import whole_regions
from brain_eval.codes import UNEXPLAINED, Codebook
from brain_eval.inference.comparisons import ScoredRun
from brain_eval.inference.draws import Recordings
from brain_eval.inference.layer_choice import CHOSEN
from brain_eval.metrics.labels import metric_note
from workflow.analysis.wide_tables.intervals import by_region, chosen_interval, over_seeds
from workflow.analysis.wide_tables.page import Ceiling, Cell, Page, Section, file_stem, listed, methods_of

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


def layer_pages(
    means: Sequence[Mapping[str, Any]], runs: Sequence[ScoredRun], codebook: Codebook = UNEXPLAINED
) -> Iterator[Page]:
    """Yield a page per metric and network: a table per layer, a row per rule, and pixels in each.

    Args:
        means: rows of means.csv.
        runs: with their rows of scores.csv, for ceilings and numbers of stimuli.
        codebook: of the codes in both.
    """
    shown = list(whole_regions(means))
    pixels = [row for row in shown if row["kind"] == "pixels"]
    trained = [row for row in shown if row["kind"] != "pixels"]
    whole = [row for run in runs for row in whole_regions(run.scores)]
    for metric in dict.fromkeys(row["metric"] for row in trained or pixels):
        for network in dict.fromkeys(row["network"] for row in trained or pixels):
            here = [row for row in trained or pixels if (row["network"], row["metric"]) == (network, metric)]
            reference = [row for row in pixels if row["metric"] == metric] if trained else []
            scored = [row for row in whole if (row["network"], row["metric"]) == (network, metric)]
            if here:
                yield _layer_page((metric, network), here, reference, scored, codebook)


def _layer_page(
    of: tuple[str, str], here: Sequence[Mapping[str, Any]], pixels: Sequence[Mapping[str, Any]], scored: list[Row],
    codebook: Codebook,
) -> Page:  # fmt: skip
    metric, network = of
    regions = list(dict.fromkeys(_region(row) for row in here))
    ceilings = tuple(_ceiling(scored, region) for region in regions)
    cells = {(row["rule"], row["layer"], _region(row)): _mean(row, codebook) for row in here}
    beside = {_region(row): _mean(row, codebook) for row in pixels}
    sections = []
    for layer in dict.fromkeys(row["layer"] for row in here):
        rules = dict.fromkeys(row["rule"] for row in here if row["layer"] == layer)
        rows = [((rule,), tuple(cells.get((rule, layer, region)) for region in regions)) for rule in rules]
        rows += [(("pixels",), tuple(beside.get(region) for region in regions))] if pixels else []
        sections.append(Section(layer, tuple(rows), ceilings))
    made = _made(regions, [cells for section in sections for _, cells in section.rows])
    note = (
        f"Raw {metric} of {network}'s layers with each region, mean over seeds. {metric_note(metric)}"
        + f"Interval: {made}. " * bool(made)
        + _about(scored, regions, codebook)
    )
    title = f"Similarity, every layer: {network}, {metric}"
    columns = tuple(region.title for region in regions)
    name = file_stem("layers", metric, network)
    return Page(name, title, note, "layer", ("rule",), columns, tuple(sections))


def _made(regions: Sequence[Region], rows: Sequence[Sequence[Cell | None]]) -> str:
    """Return how the intervals were made, by region if they differ; rows have a cell per region."""
    columns = zip(regions, zip(*rows, strict=True), strict=True)
    return by_region((region.title, made) for region, column in columns if (made := methods_of(column)))


def _mean(row: Mapping[str, Any], codebook: Codebook) -> Cell | None:
    """Return the cell of a row of means.csv; None without a score."""
    if row["mean"] in ("", None):
        return None
    low, high = (None if row[end] in ("", None) else float(row[end]) for end in ("ci_low", "ci_high"))
    method = codebook.find("interval_method", row["interval_method"])
    return Cell(float(row["mean"]), low, high, int(row["n_seeds"]), method)


def chosen_pages(
    layers: Sequence[Row], runs: Sequence[ScoredRun], confidence: float = 0.95, codebook: Codebook = UNEXPLAINED
) -> Iterator[Page]:
    """Yield a page per metric: rules of all networks, each at the layer chosen on held-out images.

    The interval is over seeds, stimuli and recordings jointly where the scores' draws are known, the
    layers in the shares in which they were chosen; else over seeds alone.

    Args:
        layers: rows of layers.csv.
        runs: with their rows of scores.csv, for ceilings and numbers of stimuli, and their draws.
        confidence: coverage of the intervals.
        codebook: of the codes in these rows.
    """
    chosen = [row for row in layers if row["layer"] == CHOSEN and row["half"] != ""]
    whole = list(whole_regions([row for run in runs for row in run.scores]))
    for metric in dict.fromkeys(row["metric"] for row in chosen):
        here = [row for row in layers if row["metric"] == metric]
        shown = [row for row in chosen if row["metric"] == metric]
        regions = list(dict.fromkeys(_region(row) for row in shown))
        rows = []
        for network, rule in dict.fromkeys((row["network"], row["rule"]) for row in shown):
            group = [row for row in here if (row["network"], row["rule"]) == (network, rule)]
            members = [run for run in runs if (run.network, run.rule) == (network, rule)]
            cells = tuple(_chosen(group, members, region, metric, confidence) for region in regions)
            rows.append(((network, rule), cells))
        scored = [row for row in whole if row["metric"] == metric]
        made = _made(regions, [cells for _, cells in rows])
        note = (
            f"Mean {metric} over seeds of the layer that scores best on one half of the stimuli, scored on the other "
            f"half, over many random halves, with the layer chosen most often. {metric_note(metric)}"
            + f"Interval: {made}; it includes the uncertainty of choosing the layer. " * bool(made)
            + f"Ceilings are those of all stimuli. {_about(scored, regions, codebook)}"
        )
        ceilings = tuple(_ceiling(scored, region) for region in regions)
        title = f"Similarity at the layer chosen on held-out images: {metric}"
        columns = tuple(region.title for region in regions)
        section = Section("", tuple(rows), ceilings)
        yield Page(file_stem("chosen", metric), title, note, "", ("network", "rule"), columns, (section,))


def _region(row: Mapping[str, Any]) -> Region:
    return Region(row["benchmark"], row["species"], row["region"])


def _chosen(
    rows: Sequence[Row], runs: Sequence[ScoredRun], region: Region, metric: str, confidence: float
) -> Cell | None:
    """Return the held-out score of a rule with a region, with the layer chosen most often.

    Args:
        rows: of layers.csv, of the rule and the metric.
        runs: of the rule.
        region, metric, confidence: see `chosen_pages`.
    """
    in_region = [row for row in rows if _region(row) == region]
    held_out = {row["seed"]: float(row["half"]) for row in in_region if row["layer"] == CHOSEN and row["half"] != ""}
    if not held_out:
        return None
    shares: dict[str, dict[str, float]] = {seed: {} for seed in held_out}
    for row in in_region:
        if row["layer"] != CHOSEN and row["chosen"] != "" and row["seed"] in shares:
            shares[row["seed"]][row["layer"]] = float(row["chosen"])
    layers = dict.fromkeys(layer for seed in shares.values() for layer in seed)
    mean_share = {layer: math.fsum(seed.get(layer, 0.0) for seed in shares.values()) / len(shares) for layer in layers}
    most = max(mean_share, key=lambda layer: mean_share[layer], default="")
    note = f"{most} {100 * mean_share[most]:.0f} %" if len(mean_share) > 1 else ""
    values = list(held_out.values())
    drawn = {run.seed: run.draws.get((region.benchmark, metric)) for run in runs}
    found = [drawn.get(seed) for seed in held_out]
    which = Recordings(region.species, region.region)
    joint = chosen_interval(found, list(shares.values()), which, confidence, values)
    if joint is not None:
        return Cell(float(np.mean(values)), joint.low, joint.high, len(values), joint.method, note)
    mean, low, high, method = over_seeds(values, confidence)
    return Cell(mean, low, high, len(values), method, note)


def _ceiling(rows: Sequence[Row], region: Region) -> Ceiling:
    """Return the mean of the known ceilings of a region's rows (for RDMs all equal); None if unknown."""
    in_region = [row for row in rows if _region(row) == region]
    ends = ({float(row[key]) for row in in_region if row[key] != ""} for key in ("ceiling_lower", "ceiling_upper"))
    lower, upper = (math.fsum(end) / len(end) if end else None for end in ends)
    return lower, upper


def _about(rows: Sequence[Row], regions: Sequence[Region], codebook: Codebook) -> str:
    """Return text on each region's stimuli and neuroids, and on how ceilings are defined."""
    sizes: dict[str, list[str]] = {}
    definitions: list[str] = []
    for region in regions:
        in_region = [row for row in rows if _region(row) == region]
        stimuli = listed((row["n_stimuli"] for row in in_region), " / ") or "unknown number of"
        neuroids = listed((row["n_neuroids"] for row in in_region), " / ") or "unknown number of"
        sizes.setdefault(f"{stimuli} stimuli, {neuroids} neuroids", []).append(region.title)
        codes = (codebook.find("ceiling_definition", row["ceiling_definition"]) for row in in_region)
        definitions += [code.meaning for code in codes if code]
    known = listed(definitions)
    ceiling = f"Noise ceiling, lower to upper: {known}." if known else "Noise ceiling: unknown."
    parts = [f"{', '.join(titles)}: {size}" for size, titles in sizes.items()]
    explained = " Neuroids are recorded units: neurons, sites or voxels."
    return f"{'; '.join(parts)}.{explained} {ceiling}{_notes(regions)}"


def _notes(regions: Sequence[Region]) -> str:
    """Return the benchmarks' notes for readers of scores, e.g. that the data are very noisy."""
    ours = [name for name in dict.fromkeys(region.benchmark for region in regions) if name in MODULES]
    notes = {name: module_of(name).DESCRIPTION.note for name in ours}
    return "".join(f" {name}: {note}." for name, note in notes.items() if note)
