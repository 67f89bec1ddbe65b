"""A benchmark of the user's own: a folder with images, responses (or an RDM) and a few words.

    benchmark.yaml   name, species, region, citation, licence; optional version, animal, session, centre, distance
    stimuli.csv      stimulus_id, filename, degrees; optional category
    stimuli/         the images
    responses.nc     `responses`, dims (neuroid, presentation) or with repetition, coordinate stimulus_id;
                     optional neuroid coordinates animal and session: one recording for each
    or rdm.nc        `rdm`, (n, n) dissimilarities, coordinate stimulus_id

Responses are used as they are, or with `centre` relative to each neuroid's mean over the stimuli; their RDM is
1 - Pearson over neuroids of the mean over repetitions.
"""

import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from brain_eval.benchmarks.base import Benchmark, DataFile, Description
from brain_eval.benchmarks.folder.rdm import read_rdm
from brain_eval.benchmarks.folder.responses import read_responses
from brain_eval.benchmarks.folder.stimuli import read_stimuli
from brain_eval.benchmarks.whole_regions import ALL, MEAN
from brain_eval.metrics import RDMS
from nmnc.errors import UserError, did_you_mean
from nmnc.files.reading import read_yaml
from nmnc.files.writing import sha256_of_file
from nmnc.validation import one_line

Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000)]


class About(BaseModel):
    """Content of benchmark.yaml, all values as the text that was written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)]
    species: Label
    region: Label
    citation: Text
    licence: Text
    version: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")] = "1"
    animal: Label = "1"
    session: Label = "1"
    centre: bool = False
    distance: str = ""


def load(name: str, folder: Path) -> Benchmark:
    """Load and check the benchmark in `folder`; `name` must be the one its benchmark.yaml gives.

    Raises:
        UserError: one line with the file, the stimulus_id or key, and what to do.
    """
    if not folder.is_dir():
        raise UserError(f"the folder {folder} of benchmark '{name}' does not exist; fix the path")
    about = read_about(folder / "benchmark.yaml")
    if about.name != name:
        raise UserError(
            f"{folder / 'benchmark.yaml'} names the benchmark '{about.name}', not '{name}'; use {about.name}={folder}"
        )
    stimulus_set, notes = read_stimuli(about.name, folder)
    data = _data_file(folder / "responses.nc", folder / "rdm.nc")
    labels = {key: getattr(about, key) for key in ("session", "animal", "species", "region")}
    if data.name == "responses.nc":
        _refuse_key(about, "distance", "describes rdm.nc, and this folder has responses.nc", folder)
        recordings, more = read_responses(data, labels, stimulus_set.stimulus_ids, about.centre)
    else:
        _refuse_key(about, "centre", "describes responses.nc, and this folder has rdm.nc", folder)
        recordings, more = read_rdm(data, labels, stimulus_set.stimulus_ids, about.distance)
    for recording in recordings:
        for key in labels:
            _refuse_label(key, getattr(recording, key), f"benchmark.yaml or {data.name}", folder)
    files = tuple(
        DataFile(path.name, "", path.stat().st_size, sha256_of_file(path))
        for path in (folder / "benchmark.yaml", folder / "stimuli.csv", data)
    )
    description = Description(
        name=about.name,
        version=int(about.version),
        species=(about.species,),
        regions=(about.region,),
        citation=about.citation,
        licence=about.licence,
        files=files,
        n_stimuli=len(stimulus_set.stimulus_ids),
    )
    return Benchmark(description, stimulus_set, recordings, str(data), (*notes, *more))


def _refuse_key(about: About, key: str, why: str, folder: Path) -> None:
    if getattr(about, key):
        raise UserError(f"{folder / 'benchmark.yaml'}: {key} {why}; remove the key")


def _refuse_label(key: str, label: str, files: str, folder: Path) -> None:
    """Refuse labels that tables reserve for averages, or that do not fit into one line."""
    if key in ("session", "animal") and label in (MEAN, ALL):
        raise UserError(
            f"{folder}: the {key} {label!r} would be taken for an average in the tables; rename it in {files}"
        )
    if any(unicodedata.category(character) == "Cc" for character in label):
        raise UserError(f"{folder}: the {key} {label!r} has a control character; rename it in {files}")


def _data_file(*paths: Path) -> Path:
    present = [path for path in paths if path.is_file()]
    if len(present) != 1:
        found = "has both" if present else "has neither"
        names = " and ".join(path.name for path in paths)
        raise UserError(f"{paths[0].parent} {found} of {names}; keep exactly one of them")
    return present[0]


def read_about(path: Path) -> About:
    """Read benchmark.yaml.

    Raises:
        UserError: absent, not YAML, or a key is missing, misspelt ("did you mean") or wrong.
    """
    content = read_yaml(path, "a benchmark folder needs it (docs/adding-a-benchmark.md)", verbatim=True)
    if not isinstance(content, dict):
        raise UserError(f"{path} has no keys and values; set the keys {', '.join(About.model_fields)}")
    try:
        about = About.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error, About)}") from None
    if about.distance and about.distance not in RDMS:
        raise UserError(f"{path}: unknown distance {about.distance!r}{did_you_mean(about.distance, RDMS)}")
    return about
