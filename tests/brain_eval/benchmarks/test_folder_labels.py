"""Ids, labels and file names of a benchmark folder, as other systems write them: as written, or refused in one line."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from numpy.typing import NDArray

from brain_eval.check import check_all
from nmnc.errors import UserError
from tests.sections import kept, scoring

N, P = 6, 4
VALUES = np.random.default_rng(0).normal(size=(P, N))


def refused(mine: Any, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        check_all({}, [f"mine={mine.path}"], mine.path, scoring(), kept())
    assert len(str(caught.value).splitlines()) == 1


def write_with(mine: Any, ids: list[Any], kind: type = str, **more: Any) -> None:
    """responses.nc with ids as text, or as rows of characters (bytes); `more` along neuroid likewise."""
    with netCDF4.Dataset(mine.path / "responses.nc", "w") as file:
        for name, size in (("neuroid", P), ("presentation", N)):
            file.createDimension(name, size)
        for name, labels in ({"stimulus_id": ids} | more).items():
            along = "presentation" if name == "stimulus_id" else "neuroid"
            if kind is str:
                file.createVariable(name, str, (along,))[:] = np.array(labels, dtype=object)
                continue
            width = max(len(label) for label in labels)
            file.createDimension(f"{name}_width", width)
            variable = file.createVariable(name, "S1", (along, f"{name}_width"))
            variable.set_auto_chartostring(False)
            variable[:] = np.array(labels, dtype=f"S{width}").view("S1").reshape(len(labels), width)
        file.createVariable("responses", "f8", ("neuroid", "presentation"))[:] = VALUES


ODD = ["é", "日本語", "NA", "nan", "None", 'a,"b"']
ZEROS = ["0", "007", "1e5", "0x10", "1_0", "-1"]


@pytest.mark.parametrize("ids", [ODD, ZEROS, ["a b", "x" * 999, "=1+1", "True", "null", "~"]])
@pytest.mark.parametrize("kind", [str, bytes])
def test_ids_arrive_as_written(mine: Any, ids: list[str], kind: type) -> None:
    mine.table(ids)
    write_with(mine, ids[::-1] if kind is str else [one.encode().ljust(1010) for one in ids[::-1]], kind)
    assert mine.load().stimulus_set.stimulus_ids == tuple(ids)
    assert mine.recordings()[0].stimuli.tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("listed", "own"),
    [
        ([f"é{i}" for i in range(N)], [f"e\u0301{i}" for i in range(N)]),
        ([f"e\u0301{i}" for i in range(N)], [f"é{i}" for i in range(N)]),
        ([f"s{i}" for i in range(N)], [f" s{i}\t" for i in range(N)]),
        ([str(i) for i in range(N)], np.arange(N)),
        ([str(i) for i in range(N)], np.arange(N, dtype="u1")),
        ([f"{i}.0" for i in range(N)], np.arange(float(N))),
    ],
)
def test_ids_in_another_form_are_found(mine: Any, listed: list[str], own: NDArray[Any] | list[str]) -> None:
    mine.table(listed)
    mine.responses(VALUES, own)
    assert mine.recordings()[0].stimuli.tolist() == list(range(N))
    assert mine.load().stimulus_set.stimulus_ids == tuple(listed)


@pytest.mark.parametrize(
    ("listed", "own", "message"),
    [
        ("0000", np.arange(N), "has stimulus_id '0', .* not list.*it lists '0000' .*the same number"),
        ("0", np.arange(float(N)), "has stimulus_id '0.0', .* not list.*it lists '0' .*the same number"),
        ("Cat", ["cat", "1", "2", "3", "4", "5"], r"it lists 'Cat' \(small and capital letters differ"),
        ("a cat", ["acat", "1", "2", "3", "4", "5"], r"it lists 'a cat' \(blanks differ"),
        ("cat.png", ["cat", "1", "2", "3", "4", "5"], r"it lists 'cat\.png' \(one is without its ending"),
        ("zebra", ["zebro", "1", "2", "3", "4", "5"], "did you mean 'zebra'"),
        ("zebra", ["cow", "1", "2", "3", "4", "5"], "'cow', .* add it there, or leave it out here"),
        ("0", [0.0, 1, 2, np.nan, 4, 5], r"stimulus_id 3 .* is empty or missing; give it a label"),
        ("0", ["0", "1", " ", "3", "4", "5"], r"stimulus_id 2 .* is empty or missing"),
        ("0", ["0", "1", "y" * 1001, "3", "4", "5"], "stimulus_id 2 has 1001 characters; shorten it"),
        ("0", [True, False] * 3, "has stimulus_id 'True'"),
        ("é", ["é", "e\u0301", "2", "3", "4", "5"], "has stimulus_id 'é' twice"),
    ],
)
def test_ids_that_are_not_listed_get_a_hint(
    mine: Any, listed: str, own: NDArray[Any] | list[Any], message: str
) -> None:
    mine.table([listed, *(str(i) for i in range(1, N))])
    mine.responses(VALUES, own)
    refused(mine, message)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"caf\xe9", r"responses\.nc: stimulus_id 2 is not UTF-8 text but perhaps Latin-1 \('café', byte 3\)"),
        (b"\xff\xfea\x00", r"stimulus_id 2 is not UTF-8 text"),
        (b"a\x00b", r"stimulus_id 2 is 'a\\x00b', with a control character or surrogate"),
    ],
)
def test_bytes_that_are_no_text_are_named_with_their_position(mine: Any, raw: bytes, message: str) -> None:
    write_with(mine, [b"s0", b"s1", raw, b"s3", b"s4", b"s5"], bytes)
    refused(mine, message)


@pytest.mark.parametrize(
    ("yaml", "label"),
    [
        ("010124", "010124"), ("NO", "NO"), ("17", "17"), ("1.10", "1.10"), ("2026-01-02", "2026-01-02"), ("~", "~"),
        ("null", "null"), ("12:30:45", "12:30:45"), ('" é "', "é"), ("0x1F", "0x1F"), ("'true'", "true"),
    ],
)  # fmt: skip
def test_labels_of_benchmark_yaml_arrive_as_typed(mine: Any, yaml: str, label: str) -> None:
    mine.about(species=yaml, region=yaml, animal=yaml, session=yaml)
    mine.responses(VALUES)
    (one,) = mine.recordings()
    assert (one.species, one.region, one.animal, one.session) == (label,) * 4


@pytest.mark.parametrize("version", ["1.10", "1.0", "0", "-1", "01", "1_0", "new", "1" * 12, "~"])
def test_a_version_is_a_whole_number_as_typed(mine: Any, version: str) -> None:
    mine.responses(VALUES)
    mine.about(version=version)
    refused(mine, "version: ")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"region": "[V4]"}, r"region: .* \(got"),
        ({"animal": ""}, r"animal: .* \(got ''\)"),
        ({"animal": '"  "'}, "animal: "),
        ({"animal": "x" * 201}, "animal: .* at most 200"),
        ({"session": '"a\\nb"'}, r"the session 'a\\nb' has a control character; rename it"),
        ({"session": '" mean "'}, "the session 'mean' would be taken for an average"),
        ({"centre": "maybe"}, r"centre: .* \(got 'maybe'\)"),
        ({"name": "mine\nname: mine"}, "the key 'name' is given twice"),
    ],
)
def test_labels_that_cannot_be_kept_are_refused(mine: Any, keys: dict[str, str], message: str) -> None:
    mine.responses(VALUES)
    mine.about(**keys)
    refused(mine, message)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.array([210325, 210325, 7, 7]), ["210325", "7"]),
        (np.array([b"WE  ", b"WE  ", b"PE  ", b"PE  "]), ["WE", "PE"]),
        (np.array([True, True, False, False]), ["True", "False"]),
        (["01", "01", "NA", "NA"], ["01", "NA"]),
    ],
)
def test_sessions_and_animals_along_neuroid_are_text(
    mine: Any, labels: NDArray[Any] | list[str], found: list[str]
) -> None:
    mine.responses(VALUES, session=labels, animal=labels)
    assert [(one.session, one.animal) for one in mine.recordings()] == [(one, one) for one in found]


def test_other_places_of_labels(mine: Any) -> None:
    mine.responses(VALUES, session=((), "S9"), animal=("presentation", list("ABABAB")))
    (one,) = mine.recordings()
    assert (one.session, one.animal) == ("S9", "1")
    assert mine.load().notes == ("responses.nc: 1 variable (animal) not used",)
    mine.responses(VALUES, session=[1.0, np.nan, 1.0, 1.0])
    refused(mine, "session 1 .* is empty or missing")
    write_with(mine, [one.encode() for one in mine.ids], bytes, session=[b"a", b"a", b"\xe9", b"b"])
    refused(mine, "session 2 is not UTF-8 text but perhaps Latin-1")


def edited(mine: Any, change: Callable[..., Any]) -> None:
    path = mine.path / "stimuli.csv"
    text = change(path.read_text(encoding="utf-8"))
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.replace(",", ", ").replace("s3", " s3 "),
        lambda text: text + "\n,,\n  , ,\n\n",
        lambda text: text.replace("s1,", '"s1",').replace("\n", "\r"),
    ],
)
def test_tables_of_other_systems_are_the_same_table(mine: Any, change: Callable[..., Any]) -> None:
    mine.responses(VALUES)
    before = mine.load().stimulus_set
    edited(mine, change)
    after = mine.load().stimulus_set
    assert (before.stimulus_ids, before.degrees, before.sha256) == (after.stimulus_ids, after.degrees, after.sha256)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",", ";"), "its cells are separated by semicolons, save it with commas"),
        (lambda text: text.replace(",", "\t"), "separated by tabs"),
        (lambda text: text.replace(",8", ',"8,0"'), "degrees '8,0'; .* with a decimal point"),
        (lambda text: text.replace(",8", ",8,0"), r"stimuli\.csv line 2: 4 cells, but the header has 3"),
        (lambda text: text.replace("s3,3.png,8", "s3"), r"stimuli\.csv line 5: 1 cells"),
        (lambda text: text.replace("s3", "café").encode("latin-1"), r"stimuli\.csv: not UTF-8 text"),
        (lambda text: text.encode("utf-16"), "not UTF-8 text"),
        (lambda text: text.replace("s3", "a\0b"), "NUL|a control character"),
        (lambda text: text.replace("degrees", "filename"), "no column 'degrees'|twice"),
        (lambda text: text.replace("s3,", "é,").replace("s4,", "e\u0301,"), "twice .in two Unicode forms"),
        (lambda text: text.replace("s3,3.png,8", "s3,3.png,361"), "'s3' degrees '361'"),
        (lambda text: text.replace("s3,3.png,8", "s3,3.png,1_0"), "'s3' degrees '1_0'"),
        (lambda text: text.replace("s3,3.png", "s3,../stimuli.csv"), "'../stimuli.csv' leaves the folder"),
        (lambda text: text.replace("s3,3.png", "s3,a/../3.png"), "leaves the folder"),
        (lambda text: text.replace("s3,3.png", "s3,/etc/hostname"), "leaves the folder"),
        (lambda text: text.replace("s3,3.png", "s3,"), "of stimulus_id 's3' does not exist"),
        (lambda text: text.replace("s3,3.png", "s3,3.PNG"), "does not exist; there is '3.png': rename it"),
        (lambda text: text.replace("s3,3.png", "s3,3"), "does not exist; there is '3.png': rename it"),
        (lambda text: text.replace("s3,3.png", "s3," + "y" * 300), "does not exist"),
    ],
)
def test_tables_that_cannot_be_read_so_are_refused(mine: Any, change: Callable[..., Any], message: str) -> None:
    mine.responses(VALUES)
    edited(mine, change)
    refused(mine, message)


NAMES = ["Müsli bowl (1).PNG", "b.png", "c.png", "d.png", "e.png", "日本/가.png"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("own", ["NFC", "NFD"])
def test_file_names_are_found_in_any_unicode_form(mine: Any, form: str, own: str) -> None:
    (mine.path / "stimuli" / "日本").mkdir(parents=True)
    mine.table(names=[unicodedata.normalize(form, name) for name in NAMES])
    edited(mine, lambda text: unicodedata.normalize(own, text))
    mine.responses(VALUES)
    check_all({}, [f"mine={mine.path}"], mine.path, scoring(), kept())


def test_names_that_look_the_same_or_lead_out_are_refused(mine: Any, tmp_path: Path) -> None:
    mine.responses(VALUES)
    stimuli = mine.path / "stimuli"
    image = (stimuli / "3.png").read_bytes()
    for name in ("\u00c5\u0327.png", "A\u0327\u030a.png"):  # neither is composed nor decomposed as the table has it
        (stimuli / name).write_bytes(image)
    edited(mine, lambda text: text.replace("3.png", "A\u030a\u0327.png"))
    refused(mine, "may be 2 files whose names look the same")
    (tmp_path / "outside.png").write_bytes(image)
    (stimuli / "link.png").symlink_to(tmp_path / "outside.png")
    (stimuli / "loop.png").symlink_to(stimuli / "loop.png")
    (stimuli / "inside.png").symlink_to(stimuli / "3.png")
    for name, message in (("link.png", "is a link to outside the folder"), ("loop.png", "does not exist")):
        mine.table()
        edited(mine, lambda text, name=name: text.replace("3.png", name))
        refused(mine, message)
    mine.table()
    edited(mine, lambda text: text.replace("3.png", "inside.png"))
    mine.recordings()


def test_a_folder_of_images_may_be_a_link_and_names_in_other_encodings_are_said(mine: Any, tmp_path: Path) -> None:
    mine.responses(VALUES)
    (mine.path / "stimuli").rename(tmp_path / "elsewhere")
    (mine.path / "stimuli").symlink_to(tmp_path / "elsewhere")
    assert len(mine.recordings()) == 1
    try:
        (tmp_path / "elsewhere" / "3.png").rename(tmp_path / "elsewhere" / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this disk takes names in UTF-8 alone")
    refused(mine, r"3\.png of stimulus_id 's3' does not exist; put it there")
    edited(mine, lambda text: text.replace("3.png", "café.png"))
    refused(mine, r"café\.png of stimulus_id 's3' does not exist; there is 'caf\\udce9\.png': rename it")
