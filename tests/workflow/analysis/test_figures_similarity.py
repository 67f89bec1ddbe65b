"""Figures and tables of similarity: what they show is what the tables say, with honest intervals and ceilings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from brain_eval.benchmarks.whole_regions import rows_of_whole_regions
from workflow.analysis.figures import draw_similarity, palette
from workflow.analysis.figures.sessions import has_sessions, sessions_figure
from workflow.analysis.figures.similarity import metric_name, similarity_figure
from workflow.analysis.report.rows import similarity_tables

Tables = dict[str, pd.DataFrame]
MeansOf = Callable[[pd.DataFrame], pd.DataFrame]
MeanLines = Callable[[Axes], dict[str, np.ndarray]]


def test_one_row_speaks_for_a_region(tables: Tables) -> None:
    chosen = rows_of_whole_regions(tables["scores"])
    keys = ["network", "rule", "seed", "layer", "benchmark", "species", "region", "metric"]
    assert not chosen.duplicated(keys).any()
    assert len(chosen) == len(tables["scores"].drop_duplicates(keys))
    several = chosen[chosen["benchmark"].ne("objects") | chosen["species"].eq("human")]
    assert several["session"].eq("mean").all()
    assert several["animal"].eq("all").all()


def test_a_metric_of_one_recording_alone_has_its_row_though_others_have_a_mean(
    tables: Tables, means_of: MeansOf
) -> None:
    """As crossnobis in cowley2023: repetitions of one session only, so that no mean is formed."""
    scores = tables["scores"]
    one = scores[scores["benchmark"].eq("scenes") & scores["session"].eq("190923") & scores["metric"].eq("spearman")]
    both = pd.concat([scores, one.assign(metric="crossnobis-spearman")])
    shown = rows_of_whole_regions(both).query("benchmark == 'scenes'").groupby("metric")["session"].unique()
    assert {metric: list(sessions) for metric, sessions in shown.items()} == {
        "spearman": ["mean"], "rho-a": ["mean"], "crossnobis-spearman": ["190923"],
    }  # fmt: skip
    assert [t["metric"] for t in similarity_tables(both, means_of(both)) if t["benchmark"] == "scenes"] == list(
        both["metric"].unique()
    )


def test_encoding_models_show_the_uncorrected_correlation_and_say_so(tables: Tables, means_of: MeansOf) -> None:
    scores = tables["scores"].query("metric == 'rho-a'").assign(metric="ridge")
    styles = palette(tables["runs"])
    means = means_of(scores)
    figure = similarity_figure(scores, means, "scenes", "ridge", "convnet", styles)
    assert metric_name("ridge") == "ridge regression, median r over neuroids"
    assert figure.figure.axes[0].get_ylabel() == "ridge regression, median r\nover neuroids"
    for caption in (figure.caption, sessions_figure(scores, means, "scenes", "ridge", "convnet", styles).caption):
        assert "not corrected for their reliability" in caption
    assert (
        "not corrected"
        not in similarity_figure(tables["scores"], tables["means"], "scenes", "rho-a", "convnet", styles).caption
    )


def test_scores_are_means_over_seeds_of_the_regions_row(tables: Tables, mean_lines: MeanLines) -> None:
    styles = palette(tables["runs"])
    figure = similarity_figure(tables["scores"], tables["means"], "objects", "spearman", "convnet", styles).figure
    axis = next(axis for axis in figure.axes if axis.get_title() == "human IT (2 recordings)")
    rows = tables["scores"].query(
        "benchmark == 'objects' and metric == 'spearman' and rule == 'nmnc' and species == 'human' "
        "and session == 'mean' and animal == 'all'"
    )
    expected = rows.groupby("layer", sort=False)["raw"].mean()
    color = to_hex(styles["nmnc"].color)
    np.testing.assert_allclose(mean_lines(axis)[color], expected)
    [bars] = [
        bars for bars in axis.collections if isinstance(bars, LineCollection) and to_hex(bars.get_color()[0]) == color
    ]
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, expected.to_numpy()[:, None] + [[-0.0412, 0.0513]])
    assert [tick.get_text() for tick in axis.get_xticklabels()] == list(expected.index)


def test_unknown_ceiling_is_said_and_never_drawn(tables: Tables) -> None:
    figure = similarity_figure(
        tables["scores"], tables["means"], "objects", "spearman", "convnet", palette(tables["runs"])
    )
    monkey, human = figure.figure.axes
    assert "ceiling unknown" in [text.get_text() for text in monkey.texts]
    assert monkey.get_ylim()[1] < 0.6
    assert not human.texts
    spans = [patch.get_extents().transformed(human.transData.inverted()) for patch in human.patches]
    assert any(np.allclose([span.y0, span.y1], [0.31, 0.42]) for span in spans)
    assert "a stated definition." in figure.caption
    assert "ceiled" not in figure.caption


def test_caption_takes_n_and_interval_from_the_table(tables: Tables) -> None:
    scores, means = tables["scores"], tables["means"]
    caption = similarity_figure(scores, means, "objects", "rho-a", "convnet", palette(tables["runs"])).caption
    assert (
        "macaque IT: 1 recording (average, 2 animals), 24 stimuli, 674 neuroids; human IT: 2 recordings of" in caption
    )
    assert "human IT: 2 recordings of 24 stimuli, 316 neuroids, in all 24 stimuli, 400 neuroids; with two" in caption
    assert "recordings the interval's width is itself unreliable." in caption
    assert "It credits no ties of distances; where there are none it is Spearman's correlation. Large marks" in caption
    assert "Bars: Student's t 88 % interval over seeds and stimuli." in caption
    unknown = similarity_figure(
        scores.assign(n_neuroids=np.nan, ceiling_lower=np.nan, ceiling_upper=np.nan),
        means.assign(ci_low=np.nan, ci_high=np.nan, interval_method=np.nan),
        "objects", "rho-a", "convnet", palette(tables["runs"]),
    ).caption  # fmt: skip
    assert "unknown number of neuroids" in unknown
    assert "no interval in the table" in unknown
    assert "Noise ceiling: unknown." in unknown


def test_caption_tells_the_intervals_of_regions_and_pixels_apart(tables: Tables) -> None:
    scores, means, styles = tables["scores"], tables["means"].copy(), palette(tables["runs"])
    means.loc[means["region"].eq("IT") & means["species"].eq("human"), "interval_method"] = "its own way over seeds"
    means.loc[means["kind"].eq("pixels"), "interval_method"] = "the pixels' way over stimuli"
    caption = similarity_figure(scores, means, "objects", "rho-a", "convnet", styles).caption
    own = "Student's t 88 % interval over seeds and stimuli (macaque IT); its own way over seeds (human IT)"
    assert f"Bars: {own}; pixels: the pixels' way over stimuli. Dotted" in caption


def test_a_layer_that_nothing_scores_is_named_and_takes_no_place(tables: Tables) -> None:
    scores = tables["scores"].copy()
    dead = scores["layer"].eq("fc") & scores["metric"].eq("rho-a")
    scores.loc[dead, ["raw", "ci_low", "ci_high"]] = np.nan
    scores.loc[dead, "interval_method"] = "none: PLS needs at least 25 features"
    figure = similarity_figure(scores, tables["means"], "objects", "rho-a", "convnet", palette(tables["runs"]))
    ticks = [tick.get_text() for tick in figure.figure.axes[0].get_xticklabels()]
    assert ticks == ["conv1", "conv2"]
    assert "Not scored: fc (none: PLS needs at least 25 features). macaque IT: 1 recording" in figure.caption


def test_a_ceiling_of_some_recordings_only_says_of_how_many(tables: Tables) -> None:
    scores, styles = tables["scores"].copy(), palette(tables["runs"])
    single = scores["species"].eq("human") & scores["session"].ne("mean")
    first, _ = scores.loc[single, "animal"].unique()
    scores.loc[single & scores["animal"].ne(first), ["ceiling_lower", "ceiling_upper"]] = np.nan
    scores.loc[single & scores["animal"].eq(first), "ceiling_upper"] = 0.4
    figure = similarity_figure(scores, tables["means"], "objects", "spearman", "convnet", styles).figure
    _, human = figure.axes
    assert [text.get_text() for text in human.texts] == ["ceiling of 1 of 2 recordings"]


@pytest.mark.parametrize(
    ("ends", "label", "dashes"), [((0.3, 0.5), "noise ceiling", None), ((0.3, np.nan), "lower ceiling", "--"),
                                  ((np.nan, 0.5), "upper ceiling", "-")],
)  # fmt: skip
def test_what_is_known_of_a_ceiling_can_be_seen(
    tables: Tables, ends: tuple[float, float], label: str, dashes: str | None
) -> None:
    scores, means, styles = tables["scores"], tables["means"], palette(tables["runs"])
    known = scores.assign(ceiling_lower=ends[0], ceiling_upper=ends[1], ceiling_definition="halves")
    for draw, benchmark in ((similarity_figure, "objects"), (sessions_figure, "scenes")):
        figure = draw(known, means, benchmark, "spearman", "convnet", styles)
        legend = figure.figure.legends[0]
        assert [text.get_text() for text in legend.get_texts()][-1] == label
        handle: Any = legend.legend_handles[-1]
        assert (handle.get_linestyle() if dashes else None) == dashes
        assert "Grey: noise ceiling (a line if only one end is known), halves. " in figure.caption
        unknown = draw(scores.assign(ceiling_lower=np.nan, ceiling_upper=np.nan), means, benchmark, "spearman",
                       "convnet", styles)  # fmt: skip
        assert "ceiling" not in unknown.figure.legends[0].get_texts()[-1].get_text()
        assert "Noise ceiling: unknown." in unknown.caption


def test_recordings_are_drawn_by_each_benchmarks_first_metric(tables: Tables) -> None:
    scores, means = tables["scores"], tables["means"]
    own = scores["benchmark"].eq("objects") | scores["metric"].eq("rho-a")  # scenes have no Spearman
    figures = draw_similarity(scores[own], means, palette(tables["runs"]))
    drawn = [figure.name for figure in figures if figure.name.startswith("sessions")]
    assert "sessions_scenes_rho-a_convnet" in drawn
    assert "sessions_objects_spearman_convnet" in drawn
    assert "sessions_objects_rho-a_convnet" not in drawn


def test_simulated_is_said_where_it_is_and_only_there(tables: Tables) -> None:
    figures = draw_similarity(
        tables["scores"].query("metric == 'spearman' and layer in ['fc', 'pixels']"),
        tables["means"],
        palette(tables["runs"]),
    )
    assert {figure.benchmark for figure in figures} == {"objects", "scenes", "simulated"}
    for figure in figures:
        expected = figure.benchmark == "simulated"
        said = (figure.title, figure.caption, figure.figure.get_suptitle())
        assert all(("simulated, not recorded" in text) == expected for text in said)


def test_layer_without_scores_leaves_a_gap(tables: Tables, means_of: MeansOf, mean_lines: MeanLines) -> None:
    scores = tables["scores"].copy()
    dead = scores["layer"].eq("conv2") & scores["rule"].eq("vnc")
    scores.loc[dead, ["raw", "ci_low", "ci_high"]] = np.nan
    scores.loc[dead, "interval_method"] = "none: RDM is constant"
    styles = palette(tables["runs"])
    figure = similarity_figure(scores, means_of(scores), "scenes", "spearman", "convnet", styles)
    assert np.isnan(mean_lines(figure.figure.axes[0])[to_hex(styles["vnc"].color)]).tolist() == [False, True, False]
    assert "constant" not in figure.caption
    assert sessions_figure(scores, means_of(scores), "scenes", "spearman", "convnet", styles).alt


def test_sessions_and_animals_each_have_a_line(tables: Tables) -> None:
    scores, means, styles = tables["scores"], tables["means"], palette(tables["runs"])
    figure = sessions_figure(scores, means, "scenes", "spearman", "convnet", styles)
    labels = [tick.get_text() for tick in figure.figure.axes[0].get_yticklabels()]
    assert labels == ["190923 (WE)", "201025 (PE)", "210325 (PE)", "mean PE", "mean of all"]
    assert "3 recordings, 2 animals" in figure.caption
    assert "bars: Student's t 88 % interval over seeds and stimuli." in figure.caption
    # The bars are the table's intervals, recording by recording: the first layer's, of one rule.
    color = to_hex(styles["vnc"].color)
    [bars] = [
        part for part in figure.figure.axes[0].collections
        if isinstance(part, LineCollection) and to_hex(part.get_color()[0]) == color
    ]  # fmt: skip
    own = means.query("benchmark == 'scenes' and metric == 'spearman' and rule == 'vnc' and layer == 'conv1'")
    own = own.set_index(["session", "animal"]).loc[
        [("190923", "WE"), ("201025", "PE"), ("210325", "PE"), ("mean", "PE"), ("mean", "all")]
    ]
    ends = [segment[:, 0] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, own[["ci_low", "ci_high"]])
    assert not has_sessions(tables["scores"].query("species == 'macaque' and region == 'IT'"))
