"""A benchmark of the user's own: a folder with images, responses (or an RDM) and a few words.

    benchmark.yaml   name, species, region, citation, licence; optional version, animal, session
    stimuli.csv      stimulus_id, filename, degrees; optional category
    stimuli/         the images
    responses.nc     `responses`, dims (neuroid, presentation) or with repetition, coordinate stimulus_id;
                     optional neuroid coordinates animal and session: one recording for each
    or rdm.nc        `rdm`, (n, n) dissimilarities, coordinate stimulus_id

Responses are used as they are: 1 - Pearson over neuroids of the mean over repetitions.
"""

import csv
import difflib
import io
import math
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from brain_eval.benchmarks.base import (
    Benchmark,
    DataFile,
    Description,
    StimulusSet,
    stimuli_from_files,
)
from brain_eval.benchmarks.folder_data import read_rdm, read_responses, unique_ids
from brain_eval.whole_regions import ALL, MEAN
from nmnc.errors import UserError
from nmnc.files import sha256_of_file

Text = Annotated[str, Field(min_length=1)]


class About(BaseModel):
    """What benchmark.yaml says."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    species: Text
    region: Text
    citation: Text
    licence: Text
    version: Annotated[int, Field(ge=1)] = 1
    animal: Text = "1"
    session: Text = "1"


def load(name: str, folder: Path) -> Benchmark:
    """Load and check the benchmark in `folder`; `name` must be the one its benchmark.yaml gives.

    Raises:
        UserError: one line with the file, the stimulus_id or key, and what to do.
    """
    if not folder.is_dir():
        raise UserError(f"the folder {folder} of benchmark '{name}' does not exist; mend the path")
    about = read_about(folder / "benchmark.yaml")
    if about.name != name:
        raise UserError(
            f"{folder / 'benchmark.yaml'} names the benchmark '{about.name}', not '{name}'; "
            f"ask for {about.name}={folder}"
        )
    stimulus_set = read_stimuli(about.name, folder)
    data = _only_one(folder / "responses.nc", folder / "rdm.nc")
    read = read_responses if data.name == "responses.nc" else read_rdm
    labels = {key: getattr(about, key) for key in ("session", "animal", "species", "region")}
    recordings = read(data, labels, stimulus_set.stimulus_ids)
    for recording in recordings:
        for key in ("session", "animal"):
            if getattr(recording, key) in (MEAN, ALL):
                raise UserError(
                    f"{folder}: the {key} {getattr(recording, key)!r} would be taken for an average in the tables; "
                    f"rename it in benchmark.yaml or {data.name}"
                )
    files = tuple(
        DataFile(path.name, "", path.stat().st_size, sha256_of_file(path))
        for path in (folder / "benchmark.yaml", folder / "stimuli.csv", data)
    )
    description = Description(
        name=about.name,
        version=about.version,
        species=(about.species,),
        regions=(about.region,),
        citation=about.citation,
        licence=about.licence,
        files=files,
        n_stimuli=len(stimulus_set.stimulus_ids),
    )
    return Benchmark(description, stimulus_set, recordings)


def _only_one(*paths: Path) -> Path:
    here = [path for path in paths if path.is_file()]
    if len(here) != 1:
        found = "has both" if here else "has neither"
        names = " and ".join(path.name for path in paths)
        raise UserError(f"{paths[0].parent} {found} of {names}; give exactly one of them")
    return here[0]


def read_about(path: Path) -> About:
    """Read benchmark.yaml.

    Raises:
        UserError: absent, not YAML, or a key is missing, misspelt ("did you mean") or wrong.
    """
    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise UserError(f"{path} is not valid YAML{line}; mend that") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values: {', '.join(About.model_fields)}")
    try:
        return About.model_validate(content)
    except ValidationError as error:
        # A misspelt key is also a missing one: tell the misspelling.
        first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {_explain(key, first['type'], first['msg'], content)}") from error


def _explain(key: str, kind: str, message: str, content: dict[Any, Any]) -> str:
    if kind == "extra_forbidden":
        free = [field for field in About.model_fields if field not in content]
        close = difflib.get_close_matches(key, free, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(About.model_fields)}"
        return f"unknown key '{key}'; {hint}"
    if kind == "missing":
        return f"the key '{key}' is missing; add it"
    return f"{key}: {message}, got {content.get(key)!r}; mend that"


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} does not exist; a benchmark folder needs it (docs/adding-a-benchmark.md)")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a UTF-8 text file; save it as one") from error


def read_stimuli(name: str, folder: Path) -> StimulusSet:
    """Read stimuli.csv and check that every image is there; images are decoded when they are read.

    Raises:
        UserError: a column or an image is missing, an id is empty or duplicated, degrees is not a size.
    """
    path = folder / "stimuli.csv"
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    columns = reader.fieldnames or []
    for column in ("stimulus_id", "filename", "degrees"):
        if column not in columns:
            raise UserError(f"{path} has no column '{column}', only {', '.join(columns)}; add it")
    rows = list(reader)
    if not rows:
        raise UserError(f"{path} lists no stimuli; add a line for each image")
    ids = unique_ids([row["stimulus_id"] for row in rows], path)
    images = [_image_path(folder / "stimuli", row, path) for row in rows]
    degrees = tuple(_degrees(row, path) for row in rows)
    categories = tuple(row["category"] or "" for row in rows) if "category" in columns else ()
    return stimuli_from_files(name, ids, images, categories, degrees)


def _image_path(images: Path, row: dict[str, str], table: Path) -> Path:
    path = images / (row["filename"] or "")
    if not path.is_file():
        raise UserError(
            f"the image {path} of stimulus_id '{row['stimulus_id']}' does not exist; "
            f"put it there or mend its filename in {table}"
        )
    return path


def _degrees(row: dict[str, str], path: Path) -> float:
    try:
        degrees = float(row["degrees"] or "nan")
    except ValueError:
        degrees = math.nan
    if not 0 < degrees < math.inf:
        raise UserError(
            f"{path} gives stimulus_id '{row['stimulus_id']}' degrees {row['degrees']!r}; "
            "give the image's width in degrees of visual angle, above 0"
        )
    return degrees
