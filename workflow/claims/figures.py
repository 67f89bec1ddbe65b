"""The figures of the claims as docs/predictions.yaml lists them, and the figure of all verdicts."""

from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nmnc.errors import UserError, did_you_mean
from workflow.analysis.figures import save_all
from workflow.analysis.figures.style import CaptionedFigure, legend_below, plain, styled
from workflow.claims.panels import Request, bars, draw_panels, page
from workflow.claims.predictions import FigureEntry, Predictions

VERDICT_COLORS = {"supported": "#009E73", "undecided": "#BBBBBB", "refuted": "#D55E00", "not run": "#FFFFFF"}


@styled
def draw_claims(
    tables: dict[str, pd.DataFrame], runs: pd.DataFrame, predictions: Predictions, confidence: float, folder: Path
) -> None:
    """Write every figure that the tables have rows for, with captions.json, into `folder`.

    Args:
        tables: by name, with `claims`, the verdicts.
        runs: tables/runs.csv.
        predictions: with the list of figures.
        confidence: coverage of the intervals.
        folder: figures/claims of the study.

    Raises:
        UserError: the predictions list a figure of a table or column that does not exist.
    """
    figures = [verdict_figure(tables["claims"], predictions)]
    runs = runs.drop_duplicates("rule").set_index("rule")
    for claim, name, entry in predictions.figures():
        _check(f"{claim}.figures.{name}", entry, tables)
        draw = SPECIAL.get(entry.table, draw_panels)
        request = Request(claim, entry, tables, runs, predictions.names)
        drawn = draw(request)
        if drawn is not None:
            figure, rows = drawn
            shows = request.caption(rows)
            seeds = " to ".join(map(str, sorted({int(rows["n"].min()), int(rows["n"].max())})))
            interval = f" with Student's t {100 * confidence:g} % interval" if "ci_low" in rows else ""
            caption = f"{shows} {_conclusion(tables['claims'], claim)} Mean over seeds{interval} (n = {seeds} seeds)."
            figures.append(CaptionedFigure(f"claims_{claim}-{name}", f"{claim}: {entry.title}", caption, shows, figure))
    save_all(figures, folder)


def _check(place: str, entry: FigureEntry, tables: dict[str, pd.DataFrame]) -> None:
    """Raise UserError for a figure of a table or column that does not exist."""
    if entry.table not in tables:
        raise UserError(f"{place}: no table {entry.table!r}{did_you_mean(entry.table, tables)}")
    columns = list(map(str, tables[entry.table]))
    if entry.table not in SPECIAL and not (entry.panels and entry.x):
        raise UserError(f"{place}: panels and x are missing; give columns of {entry.table}: {', '.join(columns)}")
    optional = () if entry.table in SPECIAL else (*entry.panels, entry.x, entry.colours, entry.dashes, entry.lines)
    for column in filter(None, (*entry.where, *optional)):
        if columns and column not in columns:
            raise UserError(f"{place}: table {entry.table} has no column {column!r}{did_you_mean(column, columns)}")


def _conclusion(verdicts: pd.DataFrame, claim: str) -> str:
    """Return how many of a claim's predictions have which verdict."""
    counts = verdicts.loc[verdicts["claim"].eq(claim), "verdict"].value_counts()
    found = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICT_COLORS if verdict in counts)
    return f"Predictions of {claim}: {found}."


def verdict_figure(verdicts: pd.DataFrame, predictions: Predictions) -> CaptionedFigure:
    """Draw the verdicts on every claim's predictions, a bar per claim."""
    shown = verdicts["verdict"].mask(verdicts["n"].eq(0), "not run")
    counts = pd.crosstab(verdicts["claim"], shown)
    counts = counts.reindex(index=list(predictions.claims), columns=list(VERDICT_COLORS), fill_value=0)
    figure, (axis,) = page(1, 1, 0.5 * len(counts))
    shares = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
    for (verdict, share), start in zip(shares.items(), (shares.cumsum(axis=1) - shares).to_numpy().T, strict=True):
        drawn = axis.barh(range(len(shares)), share, left=start, color=VERDICT_COLORS[str(verdict)], edgecolor="white")
        axis.bar_label(drawn, [str(count or "") for count in counts[verdict]], label_type="center")
    names = [fill(f"{key}: {claim.short or claim.title}", 36) for key, claim in predictions.claims.items()]
    axis.set_yticks(range(len(names)), [plain(name) for name in names])
    axis.set(
        xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), xlabel="share of the claim's predictions (numbers: predictions)"
    )
    axis.grid(False)
    legend_below(figure, [Patch(facecolor=VERDICT_COLORS[v], label=v) for v in VERDICT_COLORS if counts[v].any()])
    total = ", ".join(f"{count} {verdict}" for verdict, count in counts.sum().items() if count)
    shows = f"Verdicts on the {len(verdicts)} predictions by claim: {total}."
    caption = (
        f"{shows} A prediction is supported or refuted where the whole interval of its effect over seeds lies on one "
        f"side of its threshold, given at least {predictions.fewest_seeds} seeds."
    )
    return CaptionedFigure("claims_verdicts", "Verdicts by claim", caption, shows, figure)


def compared_figure(request: Request) -> tuple[Figure, pd.DataFrame] | None:
    """Draw a quantity of the rules that a claim's predictions compare, a row per rule."""
    rows = request.rows().sort_values("mean")
    rows = rows[rows["claim"].eq(request.claim)]
    if rows.empty:
        return None
    named = request.names.labels(request.runs, list(rows["rule"]), request.entry.bases)
    figure, (axis,) = page(1, 1, 0.19 * len(rows) + 0.2)
    for y, (label, mean, lengths) in enumerate(zip(rows["rule"], rows["mean"], bars(rows).T, strict=True)):
        style = request.style(label)
        axis.errorbar(mean, y, xerr=lengths[:, None], fmt=style.marker, color=style.color, markersize=4)
    axis.set_yticks(range(len(rows)), [plain(named[str(label)]) for label in rows["rule"]], fontsize=8)
    axis.set(ylim=(-0.7, len(rows) - 0.3), xlabel=request.entry.y)
    return figure, rows


def border_figure(request: Request) -> tuple[Figure, pd.DataFrame] | None:
    """Draw which rule's signal is better: measured against the law, and as a map of alpha over what that requires."""
    table = request.rows()
    if table.empty:
        return None
    kinds = [request.kind(table[column].iloc[0]) for column in ("rule_a", "rule_b")]
    a, b = (request.label(kind) for kind in kinds)
    groups = table.groupby(["network", "setting", "layer"], sort=False)
    rows = groups[["law", "cosine_difference", "alpha", "margin"]].mean()
    rows = rows.assign(n=groups.size(), rule=groups["rule_a"].first()).reset_index()
    figure, (against, over) = page(2, 2, 3.0, sharey=False)
    for number, (layer, part) in enumerate(rows.groupby("layer", sort=False)):
        style = request.style(layer, "layer", number)
        against.scatter(part["law"], part["cosine_difference"], s=10, c=style.color, marker=style.marker, label=layer)
    against.axhline(0, color="black", linewidth=0.8)
    against.axvline(0, color="black", linewidth=0.8)
    against.set(xlabel=f"{a} minus {b}: squared cosine by the law", ylabel=f"{a} minus {b}: measured cosine")
    against.legend(fontsize=8)
    required, won = rows["alpha"] - rows["margin"], rows["cosine_difference"] > 0
    handles = []
    for kind, better in zip(kinds, (won, ~won), strict=True):
        style, label = request.style(kind), f"{request.label(kind)} has the higher cosine"
        over.scatter(required[better], rows["alpha"][better], s=10, color=style.color, marker=style.marker)
        handles.append(Line2D([], [], color=style.color, marker=style.marker, linestyle="", label=label))
    ends = np.array([min(required.min(), rows["alpha"].min()), max(required.max(), 1.0)])
    over.plot(ends, ends, color="black", linewidth=0.8)
    over.set(xscale="log", yscale="log", xlabel="alpha that the law requires", ylabel="alpha measured")
    right = ((table["law"] > 0) == (table["cosine_difference"] > 0)).mean()
    against.set_title(f"law right in {100 * right:.0f} % of {len(table)} cases")
    over.set_title(f"{a} better in {100 * (table['cosine_difference'] > 0).mean():.0f} %")
    legend_below(figure, handles)
    return figure, rows


#: Tables with a figure of another form than `draw_panels` gives them.
SPECIAL = {"compared": compared_figure, "border": border_figure}
