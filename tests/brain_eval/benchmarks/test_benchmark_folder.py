"""A benchmark folder of the user's own: what it gives, and what each mistake is told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import yaml
from PIL import Image
from scipy.spatial.distance import pdist, squareform

from brain_eval.benchmarks import fetch_all, load_benchmark
from nmnc.errors import UserError

IDS = ["007", "cat", "dog", "éléphant", "e"]
ABOUT = {
    "name": "mine",
    "species": "macaque",
    "region": "V2",
    "citation": "Me (2026)",
    "licence": "CC-BY-4.0",
}


def write_about(folder: Path, **changes: object) -> None:
    content = {key: value for key, value in {**ABOUT, **changes}.items() if value is not None}
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(content))


def write_responses(folder: Path, values: np.ndarray, ids: list[str] = IDS, **coords: list) -> None:
    """`values`: (neuroid, presentation) or (neuroid, presentation, repetition)."""
    dims = ("neuroid", "presentation", "repetition")[: values.ndim]
    own = {"stimulus_id": ("presentation", ids), **{key: ("neuroid", v) for key, v in coords.items()}}
    xarray.Dataset({"responses": (dims, values)}, own).to_netcdf(folder / "responses.nc")


def write_rdm(folder: Path, rdm: np.ndarray) -> None:
    (folder / "responses.nc").unlink(missing_ok=True)
    data = {"rdm": (("presentation", "presentation_2"), rdm)}
    xarray.Dataset(data, {"stimulus_id": ("presentation", IDS)}).to_netcdf(folder / "rdm.nc")


def responses(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder without mistakes: 7 neuroids x 5 images x 4 repetitions."""
    folder = tmp_path / "mine"
    (folder / "stimuli").mkdir(parents=True)
    lines = ["stimulus_id,filename,degrees,category"]
    for i, stimulus_id in enumerate(IDS):
        pixels = np.random.default_rng(i).integers(0, 256, (8 + i, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"stimuli/image {i}.png")
        lines.append(f"{stimulus_id},image {i}.png,{4 + i / 2},animal")
    (folder / "stimuli.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    write_about(folder)
    write_responses(folder, responses(7, 5, 4))
    return folder


def load(folder: Path) -> Any:
    return load_benchmark(f"mine={folder}", Path("unused"))


def test_responses_with_repetitions(folder: Path) -> None:
    benchmark = load(folder)
    about = benchmark.description
    assert (about.name, about.species, about.regions, about.version) == ("mine", ("macaque",), ("V2",), 1)
    assert not about.simulated
    stimuli = benchmark.stimulus_set
    assert stimuli.stimulus_ids == tuple(IDS)
    assert stimuli.degrees == (4.0, 4.5, 5.0, 5.5, 6.0)
    assert stimuli.categories == ("animal",) * 5
    assert [image.shape for image in stimuli.read(np.array([3, 0]))] == [(11, 9, 3), (8, 9, 3)]
    (recording,) = benchmark.recordings
    assert (recording.session, recording.animal, recording.n_neuroids) == ("1", "1", 7)
    assert recording.repetitions.shape == (4, 5, 7)
    np.testing.assert_allclose(recording.responses, responses(7, 5, 4).mean(axis=2).T, atol=1e-12)
    expected = pdist(responses(7, 5, 4).mean(axis=2).T, "correlation")
    np.testing.assert_allclose(squareform(recording.rdm), expected, atol=1e-12)


def test_order_of_dims_and_of_presentations_does_not_matter(folder: Path) -> None:
    expected = load(folder).recordings[0]
    order = [4, 2, 0, 1, 3]
    values = responses(7, 5, 4)[:, order].transpose(2, 1, 0)
    coords = {"stimulus_id": ("presentation", [IDS[i] for i in order])}
    data = xarray.Dataset({"anything": (("repetition", "presentation", "neuroid"), values)}, coords)
    data.to_netcdf(folder / "responses.nc")
    (recording,) = load(folder).recordings
    assert recording.stimuli.tolist() == order
    np.testing.assert_allclose(recording.rdm, expected.rdm[np.ix_(order, order)], atol=1e-12)


def test_averages_only_and_a_part_of_the_stimuli(folder: Path) -> None:
    write_responses(folder, responses(7, 4), IDS[1:])
    (recording,) = load(folder).recordings
    assert recording.repetitions is None
    np.testing.assert_array_equal(recording.responses, responses(7, 4).T)
    assert recording.stimuli.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(squareform(recording.rdm), pdist(responses(7, 4).T, "correlation"), atol=1e-12)


def test_a_missing_repetition_is_left_out_of_the_mean(folder: Path) -> None:
    values = responses(7, 5, 4)
    values[:, 2, 3] = np.nan
    write_responses(folder, values)
    (recording,) = load(folder).recordings
    means = values.mean(axis=2)
    means[:, 2] = values[:, 2, :3].mean(axis=1)
    np.testing.assert_allclose(recording.responses, means.T, atol=1e-12)
    np.testing.assert_allclose(squareform(recording.rdm), pdist(means.T, "correlation"), atol=1e-12)


def test_one_recording_per_session_and_animal(folder: Path) -> None:
    values, animals = responses(8, 5), list("BBBAAAAB")
    write_about(folder, session=210325)
    write_responses(folder, values, animal=animals)
    first, second = load(folder).recordings
    assert [(r.session, r.animal, r.n_neuroids) for r in (first, second)] == [
        ("210325", "B", 4),
        ("210325", "A", 4),
    ]
    np.testing.assert_allclose(squareform(second.rdm), pdist(values[3:7].T, "correlation"), atol=1e-12)


def test_an_rdm_instead_of_responses(folder: Path) -> None:
    rdm = squareform(pdist(responses(5, 7), "correlation"))
    write_rdm(folder, rdm)
    (recording,) = load(folder).recordings
    np.testing.assert_array_equal(recording.rdm, rdm)
    assert recording.n_neuroids is None
    assert recording.repetitions is None
    assert recording.responses is None


def test_fetch_writes_its_summary_without_paths_of_this_machine(folder: Path, tmp_path: Path) -> None:
    fetch_all([f"mine={folder}"], tmp_path, tmp_path / "out")
    text = (tmp_path / "out/mine.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    summary = json.loads(text)
    assert summary["licence"] == "CC-BY-4.0"
    assert [file["path"] for file in summary["files"]] == ["benchmark.yaml", "stimuli.csv", "responses.nc"]


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8-sig")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


def about(**changes: object) -> Callable[[Path], None]:
    return lambda folder: write_about(folder, **changes)


def respond(change: Callable[[np.ndarray], object], ids: list[str] = IDS) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = responses(7, 5, 4)
        change(values)
        write_responses(folder, values, ids)

    return edit


def rdm(*changed: tuple[int, int, float]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        matrix = squareform(pdist(responses(5, 7), "correlation"))
        for row, column, value in changed:
            matrix[row, column] = value
        write_rdm(folder, matrix)

    return edit


def no_ids(folder: Path) -> None:
    xarray.Dataset({"responses": (("neuroid", "presentation"), responses(7, 5))}).to_netcdf(folder / "responses.nc")


def other_dims(folder: Path) -> None:
    xarray.Dataset({"responses": (("unit", "image"), responses(7, 5))}).to_netcdf(folder / "responses.nc")


def text_values(folder: Path) -> None:
    write_responses(folder, np.full((7, 5), "high"))


MISTAKES = {
    "no yaml": (drop("benchmark.yaml"), r"benchmark\.yaml: cannot be read \(No such file"),
    "not yaml": (write("benchmark.yaml", "name: [mine"), r"benchmark\.yaml line 1: not valid YAML"),
    "yaml list": (write("benchmark.yaml", "- mine"), "has no keys and values; set the keys name, species"),
    "empty yaml": (write("benchmark.yaml", ""), "has no keys and values"),
    "misspelt key": (about(species=None, specie="x"), "specie: unknown key; did you mean 'species'"),
    "unknown key": (about(zzz=1), "zzz: unknown key; known: animal, centre"),
    "missing key": (about(citation=None), "citation: missing; add it"),
    "empty value": (about(region=""), r"region: .* \(got ''\)"),
    "wrong version": (about(version="new"), r"version: .* \(got 'new'\)"),
    "bad name": (about(name="a/b"), r"name: .* \(got 'a/b'\)"),
    "other name": (about(name="yours"), "names the benchmark 'yours', not 'mine'; use yours="),
    "no table": (drop("stimuli.csv"), r"stimuli\.csv: cannot be read \(No such file"),
    "no column": (replace("stimuli.csv", "filename", "file"), "has no column 'filename', only stimulus_id, file"),
    "empty table": (write("stimuli.csv", "stimulus_id,filename,degrees\n"), "lists no stimuli"),
    "binary table": (lambda f: (f / "stimuli.csv").write_bytes(b"\xff\xfe"), r"not UTF-8 text \(byte 0\)"),
    "duplicate in table": (replace("stimuli.csv", "dog", "cat"), r"stimuli\.csv has stimulus_id 'cat' twice"),
    "empty id": (replace("stimuli.csv", "dog", ""), r"stimuli\.csv has an empty stimulus_id"),
    "bad degrees": (replace("stimuli.csv", "4.5", "wide"), "gives stimulus_id 'cat' degrees 'wide'"),
    "no degrees": (replace("stimuli.csv", "4.5", ""), "gives stimulus_id 'cat' degrees ''"),
    "zero degrees": (replace("stimuli.csv", "4.5", "0"), "gives stimulus_id 'cat' degrees '0'"),
    "missing image": (drop("stimuli/image 2.png"), r"image 2\.png of stimulus_id 'dog' does not exist"),
    "short line": (
        replace("stimuli.csv", "cat,image 1.png,4.5,animal", "cat"),
        r"stimuli\.csv line 3: 1 cells, but the header has 4",
    ),
    "no data": (drop("responses.nc"), r"has neither of responses\.nc and rdm\.nc"),
    "both": (write("rdm.nc", ""), r"has both of responses\.nc and rdm\.nc"),
    "not netcdf": (write("responses.nc", "hello"), r"responses\.nc: damaged, or not the NetCDF file"),
    "unknown id": (respond(lambda v: None, [*IDS[:4], "fox"]), "has stimulus_id 'fox', which stimuli.csv"),
    "duplicate": (respond(lambda v: None, [*IDS[:4], "cat"]), r"responses\.nc has stimulus_id 'cat' twice"),
    "no ids": (no_ids, "has no coordinate stimulus_id of length 5"),
    "other dims": (other_dims, r"has dims \('unit', 'image'\) .* it needs neuroid and presentation"),
    "text": (text_values, "contains text, not real numbers"),
    "nan": (respond(lambda v: v[3, 1].fill(np.nan)), "stimulus_id 'cat' has no response"),
    "session mean": (lambda f: write_about(f, session="mean"), "the session 'mean' would be taken for an average"),
    "animal all": (
        lambda f: write_responses(f, responses(8, 5), animal=["A"] * 4 + ["all"] * 4),
        r"the animal 'all' would be .* rename it in benchmark\.yaml or responses\.nc",
    ),
    "infinite": (respond(lambda v: v[3, 2, :1].fill(np.inf)), "stimulus_id 'dog' has an infinite response"),
    "rdm nan": (rdm((1, 2, np.nan), (2, 1, np.nan), (2, 3, np.nan)), "NaN .* row of stimulus_id 'dog'"),
    "rdm not symmetric": (rdm((0, 3, 0.5)), "not symmetric in the row of stimulus_id '007'"),
    "rdm not square": (lambda f: write_rdm(f, responses(5, 6)), r"has shape \(5, 6\); an RDM is square"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(mistake: str, folder: Path) -> None:
    make, message = MISTAKES[mistake]
    make(folder)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_images_of_sixteen_bits_are_those_of_eight(folder: Path) -> None:
    eight = load(folder).stimulus_set.read(np.arange(5))
    for i, pixels in enumerate(eight):
        grey = pixels[..., 0].astype(np.uint16)
        Image.fromarray(grey * 257).save(folder / f"stimuli/image {i}.png")
    for pixels, deep in zip(eight, load(folder).stimulus_set.read(np.arange(5)), strict=True):
        assert deep.dtype == np.float32
        np.testing.assert_array_equal(deep, np.repeat(pixels[..., :1], 3, axis=2) / np.float32(255))


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_an_unreadable_image_is_found_before_anything_runs(content: bytes, folder: Path, tmp_path: Path) -> None:
    (folder / "stimuli/image 1.png").write_bytes(content)
    message = r"image 1\.png \(stimulus_id 'cat'\) cannot be read as an image"
    with pytest.raises(UserError, match=message):
        load(folder).stimulus_set.read(np.array([1]))
    with pytest.raises(UserError, match=message):
        fetch_all([f"mine={folder}"], tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_the_digest_follows_the_images(folder: Path) -> None:
    before = load(folder).stimulus_set.sha256
    assert load(folder).stimulus_set.sha256 == before
    Image.new("RGB", (9, 9)).save(folder / "stimuli/image 4.png")
    assert load(folder).stimulus_set.sha256 != before
