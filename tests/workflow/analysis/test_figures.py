"""What the figures show is what the tables say, in fixed colours."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from brain_eval.benchmarks import load_benchmark
from brain_eval.benchmarks.base import Benchmark
from workflow.analysis.figures import draw_similarity, draw_training, palette, save_all
from workflow.analysis.figures.rdms import (
    ModelRdms,
    category_order,
    model_rdms_figure,
    percentiles,
    recorded_rdms_figure,
)
from workflow.analysis.figures.style import KNOWN, file_name
from workflow.analysis.figures.summary import over_seeds
from workflow.analysis.figures.training import accuracy_figure, alignment_figure, alpha_figure, margin_figure

Tables = dict[str, pd.DataFrame]
MeanLines = Callable[[Axes], dict[str, np.ndarray]]


def runs_of(*kinds: str) -> pd.DataFrame:
    return pd.DataFrame({"rule": kinds, "kind": kinds})


def legend_colors(figure: Figure) -> dict[str, str]:
    legend = figure.legends[0]
    return {
        text.get_text(): to_hex(handle.get_color())
        for text, handle in zip(legend.get_texts(), legend.get_lines(), strict=False)
    }


# Colours


def test_known_rule_has_its_colour_whatever_else_is_in_the_study() -> None:
    for others in (["pixels"], ["mine", "nmnc_d8"], list(KNOWN)):
        assert palette(runs_of(*others, "nmnc"))["nmnc"] == KNOWN["nmnc"]


def test_only_rule_of_a_kind_has_the_colour_of_the_kind() -> None:
    alone = pd.DataFrame({"rule": ["nmnc_d32"], "kind": ["nmnc"]})
    assert palette(alone)["nmnc_d32"] == KNOWN["nmnc"]
    two = pd.DataFrame({"rule": ["nmnc_d32", "nmnc"], "kind": ["nmnc", "nmnc"]})
    assert palette(two)["nmnc_d32"] != KNOWN["nmnc"]
    borrowed = pd.DataFrame({"rule": ["vnc_b", "vnc"], "kind": ["vnc", "nmnc"]})
    assert palette(borrowed)["vnc_b"] != palette(borrowed)["vnc"]


def test_no_two_of_many_rules_look_alike() -> None:
    labels = [*KNOWN, *(f"nmnc_b{b}" for b in range(60))]
    styles = palette(pd.DataFrame({"rule": labels, "kind": [*KNOWN, *["nmnc"] * 60]}))
    assert len(set(styles.values())) == len(labels)


def test_references_come_last() -> None:
    assert list(palette(runs_of("pixels", "untrained", "nmnc", "mine")))[:2] == ["nmnc", "mine"]


#: Machado et al. 2009, severity 1, on linear RGB: deuteranopia, protanopia, tritanopia.
COLOR_BLINDNESS = (
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
)


def cielab(linear: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("matrix", [np.eye(3), *map(np.array, COLOR_BLINDNESS)])
def test_main_rules_stay_apart_in_colour_blindness(matrix: np.ndarray) -> None:
    rules = ("backprop", "nmnc", "vnc", "random_subspace", "untrained", "pixels")
    srgb = np.array([to_rgb(KNOWN[rule].color) for rule in rules])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = cielab(np.clip(linear @ matrix.T, 0, 1))
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert distances[np.triu_indices(len(rules), 1)].min() > 20


def test_a_rule_has_one_colour_in_all_figures(tables: Tables, hostile: str) -> None:
    styles = palette(tables["runs"])
    scores = tables["scores"][tables["scores"]["metric"].eq("spearman")]
    figures = draw_training(tables, styles) + draw_similarity(
        scores[scores["benchmark"].eq("scenes")], tables["means"], styles
    )
    assert {figure.name.partition("_")[0] for figure in figures} == {
        "accuracy", "alignment", "alpha", "margin", "similarity", "sessions",
    }  # fmt: skip
    shown = {hostile.replace("$", r"\$"): hostile}
    for figure in figures:
        for label, color in legend_colors(figure.figure).items():
            if (rule := shown.get(label, label)) in styles:
                assert color == to_hex(styles[rule].color), (figure.name, label)


# Training


def test_accuracy_shows_mean_and_extremes_over_seeds(tables: Tables, mean_lines: MeanLines) -> None:
    styles = palette(tables["runs"])
    axis = accuracy_figure(tables["epochs"], styles).figure.axes[0]
    grouped = tables["epochs"][tables["epochs"]["rule"].eq("vnc")].groupby("epoch")["test_accuracy"]
    np.testing.assert_allclose(mean_lines(axis)[to_hex(styles["vnc"].color)], grouped.mean())
    bands = [band for band in axis.collections if to_hex(band.get_facecolor()[0]) == to_hex(styles["vnc"].color)]
    corners = bands[0].get_paths()[0].vertices
    for epoch, values in grouped:
        here = corners[corners[:, 0] == epoch, 1]
        np.testing.assert_allclose([here.min(), here.max()], [values.min(), values.max()])


def test_caption_counts_seeds_in_the_data(tables: Tables) -> None:
    styles, epochs = palette(tables["runs"]), tables["epochs"]
    assert "n = 2 seeds per rule" in accuracy_figure(epochs, styles).caption
    one = epochs[epochs["seed"].eq(0)]
    assert "n = 1 seed per rule" in accuracy_figure(one, styles).caption
    uneven = epochs[~(epochs["rule"].eq("vnc") & epochs["seed"].eq(1))]
    assert "backprop 2, vnc 1" in accuracy_figure(uneven, styles).caption


def test_alpha_is_shown_less_chance(tables: Tables) -> None:
    styles, alignment = palette(tables["runs"]), tables["alignment"]
    figure = alpha_figure(alignment, "convnet", styles)
    rows = alignment.query("layer == 'conv2' and space == 'activity' and rule == 'nmnc'")
    expected = (rows["alpha_gradient"] - rows["d"] / rows["n"]).groupby(rows["epoch"]).mean()
    axis = next(axis for axis in figure.figure.axes if axis.get_title().startswith("conv2"))
    solid = [
        line for line in axis.lines
        if line.get_linestyle() == "-" and to_hex(line.get_color()) == to_hex(styles["nmnc"].color)
    ]  # fmt: skip
    np.testing.assert_allclose(solid[0].get_ydata(), expected)
    assert "(n = 512, d = 16)" in axis.get_title()


def test_both_spaces_have_a_panel_per_layer(tables: Tables) -> None:
    figure = alignment_figure(tables["alignment"], "convnet", palette(tables["runs"]))
    titles = [axis.get_title() for axis in figure.figure.axes]
    assert len(titles) == 6
    assert len(set(titles)) == 3
    weight = alignment_figure(tables["alignment"].query("space == 'weight'"), "convnet", palette(tables["runs"]))
    assert len(weight.figure.axes) == 3


def test_untrained_network_has_no_alignment_but_an_alpha(tables: Tables) -> None:
    styles = palette(tables["runs"])
    assert "untrained" not in alignment_figure(tables["alignment"], "convnet", styles).alt
    assert "untrained" in alpha_figure(tables["alignment"], "convnet", styles).alt


def test_many_layers_wrap_into_rows(tables: Tables) -> None:
    rows = tables["alignment"].query("layer == 'fc' and space == 'activity'")
    many = pd.concat([rows.assign(layer=f"layer{i}") for i in range(7)])
    figure = margin_figure(many, "convnet", palette(tables["runs"]))
    assert len(figure.figure.axes) == 7
    assert len({axis.get_subplotspec().rowspan.start for axis in figure.figure.axes}) == 2


def test_nothing_trained_draws_nothing(tables: Tables) -> None:
    empty = {name: table.iloc[:0] for name, table in tables.items()}
    assert draw_training(empty, palette(tables["runs"])) == []


def test_captions_of_a_network_have_its_own_numbers_of_images(tables: Tables) -> None:
    other = {name: tables[name].assign(network="convnet_large") for name in ("epochs", "alignment")}
    both = tables | {name: pd.concat([tables[name], own]) for name, own in other.items()}
    provenance = [
        {"network": network, "dataset": {"n_test": n}, "config": {"diagnostics": {"images": 128}}}
        for network, n in (("convnet", 360), ("convnet_large", 100))
    ]
    captions = {one.name: one.caption for one in draw_training(both, palette(tables["runs"]), provenance)}
    assert captions["accuracy"].endswith("Test images: 100 to 360.")
    assert captions["alignment_convnet"].endswith("Test images: 360, of which the first 128 are behind this figure.")
    assert captions["alignment_convnet-large"].endswith("100, of which the first 100 are behind this figure.")


# RDMs


def models_of(benchmark: Benchmark, layers: tuple[str, ...] = ("conv1", "fc")) -> list[ModelRdms]:
    rng = np.random.default_rng(1)
    n = len(benchmark.stimulus_set.stimulus_ids)
    rdms = [1 - np.corrcoef(rng.standard_normal((n, 20))) for _ in layers]
    pixels = ModelRdms("pixels", "pixels", 0, ("pixels",), np.stack(rdms[:1]))
    return [ModelRdms("convnet", "nmnc", 0, layers, np.stack(rdms)), pixels]


def test_percentiles_keep_ranks_only() -> None:
    rdm = 1 - np.corrcoef(np.random.default_rng(0).standard_normal((9, 20)))
    ranks = percentiles(rdm)
    np.testing.assert_allclose(ranks, percentiles(np.exp(3 * rdm)))
    np.testing.assert_array_equal(ranks, ranks.T)
    pairs = ranks[np.triu_indices(9, 1)]
    np.testing.assert_allclose(np.sort(pairs), np.linspace(0, 100, 36))
    assert np.isnan(percentiles(np.full((9, 9), np.nan))).all()


def test_categories_stand_together_in_order_of_appearance() -> None:
    categories = ("tool", "face", "tool", "place", "face")
    assert category_order(categories, 5).tolist() == [0, 2, 1, 4, 3]
    assert category_order((), 3).tolist() == [0, 1, 2]


def test_shareable_picture_holds_no_recorded_rdm(objects: Benchmark) -> None:
    models, styles = models_of(objects), palette(runs_of("nmnc", "pixels"))
    shared, beside = model_rdms_figure(objects, models, styles), recorded_rdms_figure(objects, models, styles)
    assert beside is not None
    assert (shared.local, beside.local) == (False, True)
    order = category_order(objects.stimulus_set.categories, 24)

    def pictures(figure: Figure) -> list[np.ndarray]:
        return [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]

    monkey = percentiles(objects.recordings[0].rdm)[np.ix_(order, order)]
    assert not any(np.array_equal(picture, monkey) for picture in pictures(shared.figure))
    assert any(np.array_equal(picture, monkey) for picture in pictures(beside.figure))
    assert len(pictures(beside.figure)) == len(pictures(shared.figure)) + 2
    assert "human IT: mean of 2 recordings" in beside.caption


def test_recordings_of_parts_of_the_stimuli_have_no_picture(objects: Benchmark) -> None:
    part = objects.recordings[0]
    short = type(part)("s", "A", "macaque", "IT", np.arange(9), None, part.rdm[:9, :9])
    benchmark = Benchmark(objects.description, objects.stimulus_set, (short,))
    styles = palette(runs_of("nmnc", "pixels"))
    assert recorded_rdms_figure(benchmark, models_of(objects), styles) is None


@pytest.mark.real_data
def test_recorded_rdms_of_monkey_and_man(data_folder: Callable[..., Path]) -> None:
    folder = data_folder("kriegeskorte2008")
    benchmark = load_benchmark("kriegeskorte2008", folder)
    figure = recorded_rdms_figure(benchmark, models_of(benchmark), palette(runs_of("nmnc", "pixels")))
    assert figure is not None
    assert "macaque IT: one recording; human IT: mean of 4 recordings" in figure.caption
    assert "n = 92 stimuli, ordered by category" in figure.caption
    monkey = np.asarray(figure.figure.axes[0].images[0].get_array())
    faces = [i for i, name in enumerate(benchmark.stimulus_set.categories) if name == "human face"]
    order = category_order(benchmark.stimulus_set.categories, 92).tolist()
    block = [order.index(face) for face in faces]
    assert block == list(range(block[0], block[0] + len(faces)))
    # The best known fact about this RDM: to macaque IT, faces are alike.
    assert np.median(monkey[np.ix_(block, block)]) < 5


# Files


def test_same_tables_same_bytes(tables: Tables, tmp_path: Path, hostile: str) -> None:
    assert hostile in tables["epochs"]["rule"].to_numpy()
    pictures = []
    for folder in ("a", "b"):
        figure = accuracy_figure(tables["epochs"], palette(tables["runs"]))
        pictures.append(save_all([figure], tmp_path / folder)[0].read_bytes())
    assert pictures[0] == pictures[1]
    assert b"Software" not in pictures[0]


def test_captions_stand_beside_and_old_figures_go(tables: Tables, objects: Benchmark, tmp_path: Path) -> None:
    styles = palette(tables["runs"])
    local = recorded_rdms_figure(objects, models_of(objects), styles)
    accuracy = accuracy_figure(tables["epochs"], styles)
    assert local is not None
    save_all([accuracy, local], tmp_path)
    (tmp_path / "mine.png").write_bytes(b"the user's own")
    assert json.loads((tmp_path / "captions.json").read_text())["accuracy.png"]["caption"] == accuracy.caption
    assert (tmp_path / "local/rdms_objects_convnet.png").exists()
    save_all([accuracy], tmp_path)
    assert not (tmp_path / "local/rdms_objects_convnet.png").exists()
    assert {path.name for path in tmp_path.glob("*.png")} == {"accuracy.png", "mine.png"}


@pytest.mark.parametrize("part", ["a/b", "..", "a b", "ü", "x:y"])
def test_file_names_stay_in_their_folder(part: str) -> None:
    name = f"{file_name('similarity', part)}.png"
    assert Path(name).name == name
    assert name.isascii()


def test_empty_cells_do_not_enter_a_mean() -> None:
    frame = pd.DataFrame({"rule": ["a", "a", "b"], "value": [1.0, np.nan, np.nan]})
    assert over_seeds(frame, ["rule"], "value").to_dict("records") == [
        {"rule": "a", "mean": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    ]
