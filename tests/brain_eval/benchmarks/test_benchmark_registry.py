"""The registry: names, the listing, what `fetch` writes."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from brain_eval import benchmarks
from brain_eval.__main__ import app
from brain_eval.benchmarks import MODULES, fetch_all, listing, listing_of_files, load_benchmark, module_of
from brain_eval.benchmarks.base import stimuli_in_memory, stimulus_digest
from nmnc.errors import UserError


@pytest.mark.parametrize("name", MODULES)
def test_a_module_describes_itself_under_its_own_name(name: str) -> None:
    about = benchmarks.module_of(name).DESCRIPTION
    assert about.name == name
    assert about.version >= 1
    assert all([about.species, about.regions, about.citation, about.licence, about.n_stimuli])
    assert about.simulated == ("simulated" in about.species)
    for file in about.files:
        assert file.url.rpartition("/")[2].partition("?")[0] == file.path.rpartition("/")[2]
        if file.path.startswith("brainio/"):
            assert file.url.startswith("https://brainscore-storage.s3.amazonaws.com/brainio-brainscore/")
            assert re.fullmatch("[0-9a-f]{40}", file.sha1)
            assert file.path.split("/")[1] == file.sha1
        else:
            assert file.path.startswith(f"{name}/")
            assert file.url.startswith("https://raw.githubusercontent.com/")
            # A commit, not a branch, which would move.
            assert len(file.url.split("/")[5]) == 40
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cowley2022", "unknown benchmark 'cowley2022'; did you mean 'cowley2023'?"),
        ("Kriegeskorte", "did you mean 'kriegeskorte2008'?"),
        ("zzz", "unknown benchmark 'zzz'; known: algonauts2019, cowley2023"),
        ("base", "unknown benchmark 'base'"),
        ("simulated=somewhere", "'simulated' is the name of a built-in benchmark"),
        ("mine=no/such/folder", "no/such/folder of benchmark 'mine' does not exist"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line(spec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load_benchmark(spec, tmp_path)
    assert "\n" not in str(caught.value)


def test_listing_names_all_and_downloads_nothing(tmp_path: Path) -> None:
    *lines, own, note = listing(tmp_path / "absent").splitlines()
    assert own == "NAME=FOLDER: a folder of your own (docs/adding-a-benchmark.md)"
    assert note.startswith("algonauts2019: very noisy: leave-one-subject-out ceilings below .02 (EVC and IT, Spearman)")
    assert [line.split()[0] for line in lines] == ["name", *MODULES]
    here = {line.split()[0]: line.split()[-1] for line in lines[1:]}
    assert here == {name: "yes" if name == "simulated" else "no" for name in MODULES}
    starts = {line.rindex(word) for line, word in zip(lines, ["here", "yes", *["no"] * 5], strict=True)}
    assert len(starts) == 1, "columns are aligned"
    assert not (tmp_path / "absent").exists()


def test_listing_says_what_was_recorded_from_whom_and_under_what_licence(tmp_path: Path) -> None:
    head, *lines = listing(tmp_path).splitlines()
    asked_for = ("species", "regions", "stimuli", "neuroids", "licence", "citation", "here")
    assert set(asked_for) < set(head.split())
    starts = sorted(head.index(word) for word in head.split())
    for line in lines[: len(MODULES)]:
        cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        found = dict(zip(head.split(), cells, strict=True))
        about = module_of(found["name"]).DESCRIPTION
        assert found["species"] == ", ".join(about.species)
        assert found["regions"] == ", ".join(about.regions)
        assert found["stimuli"] == str(about.n_stimuli)
        assert found["licence"] == about.licence
        assert about.citation.startswith(found["citation"])
        assert re.search(r"\d|fMRI", found["neuroids"])


def test_the_files_to_bring_by_hand_are_listed_with_place_hash_and_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAINIO_HOME", str(tmp_path / "brainio"))
    head, *lines = listing_of_files(tmp_path / "absent").splitlines()
    assert head.split() == ["benchmark", "place", "bytes", "hash", "address", "here"]
    expected = [(name, file) for name in MODULES for file in module_of(name).DESCRIPTION.files]
    for line, (name, file) in zip(lines, expected, strict=True):
        kind, digest = ("sha256", file.sha256) if file.sha256 else ("sha1", file.sha1)
        left, *right = line.rsplit(maxsplit=5)
        found = [*left.split(maxsplit=1), *right]  # a place may have spaces
        assert found[0] == name
        assert found[1].endswith(file.path.removeprefix("brainio/"))
        assert found[3:] == [kind, digest, file.url, "no"]
    majaj = [line for line in lines if line.startswith("majajhong2015public")]
    assert len(majaj) == 3
    assert all(str(tmp_path / "brainio") in line for line in majaj)
    done = CliRunner().invoke(app, ["benchmarks", "--files", "--data", str(tmp_path / "absent")])
    assert done.output.splitlines() == [head, *lines]


def test_importing_and_listing_stay_cheap() -> None:
    code = (
        "import sys, pathlib; from brain_eval.benchmarks import listing; listing(pathlib.Path('none')); "
        "print(*{'torch', 'scipy', 'xarray', 'pandas', 'pooch', 'sklearn'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_fetch_writes_what_the_benchmark_holds(tmp_path: Path) -> None:
    fetch_all(["simulated"], tmp_path / "data", tmp_path)
    written = (tmp_path / "simulated.json").read_bytes()
    assert str(tmp_path).encode() not in written
    summary, loaded = json.loads(written), load_benchmark("simulated", tmp_path)
    assert set(summary) == {
        "name", "version", "species", "regions", "citation", "licence", "note", "simulated", "n_stimuli",
        "stimulus_set_sha256", "recordings", "files",
    }  # fmt: skip
    assert summary["simulated"] is True
    assert summary["stimulus_set_sha256"] == loaded.stimulus_set.sha256
    assert summary["n_stimuli"] == len(loaded.stimulus_set.stimulus_ids)
    assert [(entry["region"], entry["animal"], entry["n_neuroids"]) for entry in summary["recordings"]] == [
        (recording.region, recording.animal, recording.n_neuroids) for recording in loaded.recordings
    ]


def test_fetch_refuses_a_name_given_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'simulated' is given 2 times"):
        fetch_all(["simulated", "simulated"], tmp_path, tmp_path)


@pytest.mark.real_data
def test_fetch_of_recorded_data(tmp_path: Path, data_folder: Callable[..., Path]) -> None:
    data = data_folder("kriegeskorte2008")
    fetch_all(["kriegeskorte2008"], data, tmp_path)
    summary = json.loads((tmp_path / "kriegeskorte2008.json").read_text())
    assert [entry["animal"] for entry in summary["recordings"]] == ["2 animals", "S1", "S2", "S3", "S4"]
    assert [file["size"] for file in summary["files"]] == [
        (data / file["path"]).stat().st_size for file in summary["files"]
    ]


def test_the_digest_depends_on_every_id_pixel_shape_and_the_order() -> None:
    images = np.zeros((2, 2, 4, 3), dtype=np.uint8)
    other = images.copy()
    other[1, 1, 3, 2] = 1
    variants = [
        (["a", "b"], images),
        (["b", "a"], images),
        (["a", "c"], images),
        (["a", "b"], other),
        (["a", "b"], other[::-1]),
        (["a", "b"], images.reshape(2, 4, 2, 3)),
    ]
    digests = {stimuli_in_memory("x", ids, pixels).sha256 for ids, pixels in variants}
    assert len(digests) == len(variants)
    assert stimulus_digest(["ab"], [b"c"]) != stimulus_digest(["a"], [b"bc"])


def test_reading_cannot_change_the_set() -> None:
    stimuli = stimuli_in_memory("x", ["a"], np.zeros((1, 2, 2, 3), dtype=np.uint8))
    stimuli.read(np.array([0]))[0][:] = 255
    assert stimuli.read(np.array([0]))[0].max() == 0
