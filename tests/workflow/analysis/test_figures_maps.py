"""Maps of stimuli and model x model similarity against SciPy and scikit-learn, and figures of many rules."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.offsetbox import AnnotationBbox
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from sklearn.manifold import MDS

import workflow.analysis.figures.parts
from brain_eval.benchmarks.base import Benchmark
from workflow.analysis.figures import draw_rdms, draw_similarity, draw_training, palette, save_all
from workflow.analysis.figures.maps import classical_scaling, maps_figure, maps_of, scaled, thumbnails, turned
from workflow.analysis.figures.models import NamedRdm, clustered, compared_rdms, models_figure, spearman_matrix
from workflow.analysis.figures.parts import MOST_RULES, chunks
from workflow.analysis.figures.rdms import MOST_BORDERS, MOST_CATEGORIES, ModelRdms, model_rdms_figure, percentiles
from workflow.analysis.figures.style import RuleStyle
from workflow.analysis.figures.summary import chosen_layers
from workflow.analysis.figures.sweeps import sweeps_figure

Tables = dict[str, pd.DataFrame]
RULES = ("nmnc", "vnc")
STYLES = palette(pd.DataFrame({"rule": [*RULES, "pixels"], "kind": [*RULES, "pixels"]}))


def some_models(n: int, rules: tuple[str, ...] = RULES, layers: tuple[str, ...] = ("conv1", "fc")) -> list[ModelRdms]:
    rng = np.random.default_rng(5)
    made = [
        ModelRdms("net", rule, 0, layers, np.stack([1 - np.corrcoef(rng.standard_normal((n, 9))) for _ in layers]))
        for rule in rules
    ]
    return [*made, ModelRdms("pixels", "pixels", 0, ("pixels",), made[0].values[:1])]


# Maps


def test_distances_of_points_in_a_plane_are_found_again() -> None:
    points = np.random.default_rng(0).standard_normal((30, 2))
    wanted = squareform(pdist(points))
    np.testing.assert_allclose(squareform(pdist(classical_scaling(wanted))), wanted, atol=1e-9)
    positions, stress = scaled(wanted)
    assert stress < 1e-4
    found = squareform(pdist(positions))
    np.testing.assert_allclose(found / found.max(), wanted / wanted.max(), atol=1e-3)
    np.testing.assert_allclose(positions.mean(axis=0), 0, atol=1e-12)
    assert (positions**2).sum(axis=1).mean() == pytest.approx(1)


def test_no_random_start_of_scikit_learn_finds_a_much_better_map() -> None:
    rdm: NDArray[Any] = 1 - np.corrcoef(np.random.default_rng(2).standard_normal((25, 6)))
    np.fill_diagonal(rdm, 0)
    rdm = (rdm + rdm.T) / 2
    random = MDS(dissimilarity="precomputed", n_init=8, random_state=0, max_iter=500, normalized_stress=False)
    distances, wanted = pdist(random.fit_transform(rdm)), squareform(rdm)
    distances = distances * (wanted @ wanted) / (wanted @ distances)
    oracle = np.sqrt(((wanted - distances) ** 2).sum() / (distances**2).sum())
    assert scaled(rdm)[1] < 1.1 * oracle


def test_maps_are_turned_to_the_first_and_keep_their_distances() -> None:
    points = np.random.default_rng(0).standard_normal((20, 2))
    angle = 2.1
    moved = points @ np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
    np.testing.assert_allclose(turned(moved, points), points, atol=1e-12)


def test_same_rdm_same_map(objects: Benchmark) -> None:
    first, second = (maps_of(objects, some_models(24), STYLES, {}) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.positions, other.positions)


def test_a_map_per_region_and_rule_at_the_layer_asked_for(objects: Benchmark) -> None:
    models = some_models(24)
    maps = maps_of(objects, models, STYLES, {("net", "nmnc"): "conv1", ("net", "vnc"): "not there"})
    assert [one.title for one in maps] == ["macaque IT", "human IT", "nmnc, conv1", "vnc, fc", "pixels"]
    assert maps[2].color == STYLES["nmnc"].color
    # The map of pixels is that of the RDM it has in common with conv1 of nmnc.
    np.testing.assert_allclose(maps[4].positions, maps[2].positions, atol=1e-9)


def test_thumbnails_stand_on_the_map_and_stay_local(objects: Benchmark) -> None:
    figure = maps_figure(objects, some_models(24), STYLES, {})
    assert figure is not None
    assert figure.local
    first = figure.figure.axes[0]
    boxes = [artist for artist in first.artists if isinstance(artist, AnnotationBbox)]
    [reference, *_] = maps_of(objects, some_models(24), STYLES, {})
    np.testing.assert_allclose([box.xy for box in boxes], reference.positions)
    edges = [to_hex(box.patch.get_edgecolor()) for box in boxes]
    assert edges[0] == edges[3] != edges[1]  # every third stimulus is of the same category
    assert "n = 24 stimuli" in figure.caption
    assert "Maps have no intervals" in figure.caption
    assert all(max(image.shape[:2]) <= 4 for image in thumbnails(objects, 4))


def test_a_layer_without_a_value_has_no_map(objects: Benchmark) -> None:
    [nmnc, *_] = some_models(24)
    dead = dataclasses.replace(nmnc, values=np.full_like(nmnc.values, np.nan))
    alone = Benchmark(objects.description, objects.stimulus_set, ())
    assert maps_figure(alone, [dead], STYLES, {}) is None


# Model x model


def test_cells_are_spearman_correlations_of_the_rdms(objects: Benchmark) -> None:
    models = some_models(24)
    rdms, every = compared_rdms(objects, models, STYLES, {})
    assert every
    assert [one.label for one in rdms] == [
        "macaque IT", "human IT", "nmnc conv1", "nmnc fc", "vnc conv1", "vnc fc", "pixels",
    ]  # fmt: skip
    matrix = spearman_matrix(rdms)
    upper = np.triu_indices(24, 1)
    columns = [objects.recordings[0].rdm[upper], models[0].values[1][upper], models[1].values[0][upper]]
    oracle = spearmanr(np.stack(columns, axis=1)).statistic
    np.testing.assert_allclose(matrix[np.ix_([0, 3, 4], [0, 3, 4])], oracle, atol=1e-10)


def test_order_puts_groups_together() -> None:
    rng = np.random.default_rng(0)
    groups = rng.permutation([0, 0, 0, 1, 1, 1, 2, 2])
    centres = rng.standard_normal((3, 200))
    rdms = [NamedRdm(str(group), centres[group] + 0.3 * rng.standard_normal(200)) for group in groups]
    order = clustered(spearman_matrix(rdms))
    assert sorted(order) == list(range(8))
    assert np.count_nonzero(np.diff(groups[order])) == 2


def test_many_layers_leave_one_each(objects: Benchmark) -> None:
    models = some_models(24, layers=tuple(f"layer{i}" for i in range(30)))
    rdms, every = compared_rdms(objects, models, STYLES, {("net", "vnc"): "layer7"})
    assert not every
    assert [one.label for one in rdms] == ["macaque IT", "human IT", "nmnc layer29", "vnc layer7", "pixels"]
    figure = models_figure(objects, models, STYLES, {})
    assert figure is not None
    assert "the layer chosen most often" in figure.caption
    assert not figure.local
    shown = np.asarray(figure.figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(np.diag(shown), 1)
    np.testing.assert_allclose(shown, shown.T)


def test_two_rdms_make_no_matrix(objects: Benchmark) -> None:
    alone = Benchmark(objects.description, objects.stimulus_set, ())
    assert models_figure(alone, some_models(24, rules=("vnc",), layers=("fc",)), STYLES, {}) is None


# Categories


@pytest.mark.parametrize(("names", "lines", "ticks"), [(3, 4, 3), (MOST_CATEGORIES + 1, 2 * MOST_CATEGORIES, 0)])
def test_borders_stand_between_categories(objects: Benchmark, names: int, lines: int, ticks: int) -> None:
    categories = tuple(f"category {i % names}" for i in range(24))
    stimuli = dataclasses.replace(objects.stimulus_set, categories=categories)
    benchmark = Benchmark(objects.description, stimuli, objects.recordings)
    figure = model_rdms_figure(benchmark, some_models(24), STYLES)
    axis = figure.figure.axes[0]
    assert names < MOST_BORDERS
    assert len(axis.lines) == lines
    assert len(axis.get_yticks()) == ticks
    assert "white lines: borders" in figure.caption
    starts = np.flatnonzero(np.diff([categories.index(name) for name in sorted(categories, key=categories.index)])) + 1
    assert {float(line.get_ydata()[0]) for line in axis.lines} >= set(starts - 0.5)
    image = np.asarray(axis.images[0].get_array())
    order = sorted(range(24), key=lambda i: categories.index(categories[i]))
    np.testing.assert_array_equal(image, percentiles(some_models(24)[-1].values[0])[np.ix_(order, order)])


# Many rules


def test_parts_are_even_and_whole() -> None:
    for n in (1, MOST_RULES, MOST_RULES + 1, 57):
        rules = [str(i) for i in range(n)]
        parts = chunks(rules)
        assert [rule for part in parts for rule in part] == rules
        assert max(map(len, parts)) <= MOST_RULES
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert chunks([]) == []


def many(tables: Tables, n: int) -> Tables:
    """The same study with n copies of one rule."""
    made = {}
    for name, table in tables.items():
        own = table[table["rule"].eq("nmnc")]
        made[name] = pd.concat([table, *(own.assign(rule=f"nmnc_{i}") for i in range(n))], ignore_index=True)
    return made


def test_dozens_of_rules_come_in_parts_that_show_each_once(tables: Tables) -> None:
    study = many(tables, 30)
    study["alignment"] = study["alignment"].iloc[:0]
    rules = study["epochs"]["rule"].unique()
    styles = palette(study["runs"])
    scores = study["scores"].query("metric == 'spearman' and benchmark == 'objects'")
    figures = draw_training(study, styles) + draw_similarity(scores, study["means"], styles)
    assert len({figure.name for figure in figures}) == len(figures)
    for group in ("accuracy", "similarity"):
        parts = [figure for figure in figures if figure.name.startswith(group)]
        assert len(parts) == 4
        labels = [text.get_text() for figure in parts for text in figure.figure.legends[0].get_texts()]
        assert sum(label.startswith("nmnc_") for label in labels) == len(set(labels) & set(rules)) - 4 == 30
        assert all(len(figure.figure.legends[0].get_texts()) <= MOST_RULES + 2 for figure in parts)
        assert [figure.title.rpartition("(")[2] for figure in parts] == [f"part {i} of 4)" for i in range(1, 5)]
        assert all("n = 2 seeds per rule" in figure.caption for figure in parts)


@pytest.mark.slow
def test_rdms_of_many_rules_come_in_parts(objects: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow.analysis.figures.parts, "MOST_RULES", 2)
    rules = ("rule1", "rule2", "rule3")
    styles = {rule: RuleStyle("#000000", "o") for rule in (*rules, "pixels")}
    figures = draw_rdms(objects, some_models(24, rules), styles, {})
    names = [figure.name for figure in figures]
    assert names == [
        *(f"{group}_objects_net_part{part}" for part in (1, 2) for group in ("modelrdms", "rdms", "maps")),
        "models_objects",
    ]  # fmt: skip
    assert [path.parent.name == "local" for path in save_all(figures, tmp_path)] == [False, True, True] * 2 + [False]


def test_sweeps_have_a_figure_and_no_curves(tables: Tables) -> None:
    points = pd.DataFrame({"sweep": "images", "rule": "nmnc", "label": ["nmnc_0", "nmnc", "nmnc_1"],
                           "value": ["1", "8", "64"]})  # fmt: skip
    study = many(tables, 2) | {"sweeps": points}
    last = study["epochs"][study["epochs"]["epoch"].eq(2)]
    means = last.groupby(["network", "rule", "kind", "epoch"], sort=False)["test_accuracy"].mean().rename("mean")
    interval = {"ci_low": 0.1, "ci_high": 0.4, "interval_method": "words", "n_seeds": 2.0}
    study["alignment"] = study["alignment"].iloc[:0]
    study["accuracy"] = means.reset_index().assign(**interval)
    styles = palette(study["runs"])
    figures = {figure.name: figure for figure in draw_training(study, styles)}
    labels = [text.get_text() for text in figures["accuracy"].figure.legends[0].get_texts()]
    assert not any(label.startswith("nmnc_") for label in labels)
    assert "nmnc" in labels  # a point of the sweep, and a rule of the study's own
    axis = figures["sweeps"].figure.axes[0]
    [line] = [line for line in axis.lines if len(line.get_xdata()) == 3]
    assert list(line.get_xdata()) == [1, 8, 64]
    expected = [last.loc[last["rule"].eq(rule), "test_accuracy"].mean() for rule in points["label"]]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), expected)
    assert (axis.get_xscale(), to_hex(line.get_color())) == ("log", to_hex(styles["nmnc"].color))
    assert "bars: words" in figures["sweeps"].caption
    assert sweeps_figure(study["accuracy"], points.assign(label="unfinished"), styles) is None


def test_values_that_are_no_numbers_stand_side_by_side(tables: Tables) -> None:
    accuracy = pd.DataFrame({"network": "net", "rule": ["a", "b"], "epoch": 1, "mean": [0.2, 0.3], "ci_low": np.nan,
                             "ci_high": np.nan, "interval_method": "", "n_seeds": 1.0})  # fmt: skip
    points = pd.DataFrame({"sweep": "form", "rule": "nmnc", "label": ["b", "a"], "value": ["full", "factored"]})
    figure = sweeps_figure(accuracy, points, palette(tables["runs"]))
    assert figure is not None
    axis = figure.figure.axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["full", "factored"]
    assert "no interval of one seed" in figure.caption


def test_the_layer_shown_is_the_one_chosen_most_often(tables: Tables) -> None:
    layers = chosen_layers(tables["layers"], "objects")
    assert layers["convnet", "vnc"] == "conv2"
    assert layers["pixels", "pixels"] == "pixels"
    assert chosen_layers(tables["layers"], "absent") == {}
    assert chosen_layers(tables["layers"].iloc[:0], "objects") == {}
