"""The registry of benchmarks. Importing it is cheap: a benchmark's module is imported when asked for."""

import importlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from tqdm import tqdm

from brain_eval.benchmarks.base import Benchmark, Description
from brain_eval.benchmarks.sources import place, state
from brain_eval.registry import Registry
from nmnc.errors import UserError
from nmnc.files.writing import write_text

#: One line per benchmark: its name, and its module in this package with DESCRIPTION and load(data_folder).
MODULES: Registry[ModuleType] = Registry(
    "benchmark",
    __name__,
    {
        "simulated": "simulated",
        "kriegeskorte2008": "kriegeskorte2008",
        "cowley2023": "cowley2023",
        "algonauts2019": "algonauts2019",
        "freemanziemba2013public": "freemanziemba2013public",
        "majajhong2015public": "majajhong2015public",
    },
)


def load_benchmark(spec: str, data_folder: Path) -> Benchmark:
    """Load and check a benchmark; absent files are downloaded to the data folder.

    Args: spec, NAME of a registered benchmark, or NAME=FOLDER for a user's folder, whose benchmark.yaml has that name.

    Raises:
        UserError: unknown name ("did you mean"), or whatever the source finds wrong with its files.
    """
    name, is_folder, folder = spec.partition("=")
    if not is_folder:
        return module_of(name).load(Path(data_folder))
    from brain_eval.benchmarks.folder.benchmark import load

    if name in MODULES:
        raise UserError(f"'{name}' is the name of a built-in benchmark; rename the benchmark of the folder {folder}")
    return load(name, Path(folder))


def listing(data: Path) -> str:
    """Return a text table of the registered benchmarks; reads and hashes files, downloads nothing.

    The last column says whether the data are here: yes, no, or damaged (there, but not as published).
    """
    head = (
        "name", "version", "species", "regions", "stimuli", "neuroids", "licence", "citation", "here"
    )  # fmt: skip
    lines = _aligned([head, *(_row(module_of(name).DESCRIPTION, Path(data)) for name in MODULES)])
    notes = (module_of(name).DESCRIPTION for name in MODULES)
    folders = "NAME=FOLDER: a folder of your own (docs/adding-a-benchmark.md)"
    noted = [f"{about.name}: {about.note}" for about in notes if about.note]
    return "\n".join([*lines, folders, *noted])


def listing_of_files(data: Path) -> str:
    """Return a text table of the files behind the benchmarks: place, size, hash, address, here or not.

    With it a machine without network can be given the files by hand. Reads and hashes, downloads nothing.
    """
    rows = [("benchmark", "place", "bytes", "hash", "address", "here")]
    for name in MODULES:
        for file in module_of(name).DESCRIPTION.files:
            size = "unknown" if file.size is None else str(file.size)
            rows.append((name, str(place(file, Path(data))), size, file.digest, file.url, state([file], Path(data))))
    return "\n".join(_aligned(rows))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines of text with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in lines]


def fetch_all(specs: list[str], data: Path, out: Path) -> None:
    """Find or download the benchmarks' files, check them, write OUT/NAME.json for each, without absolute paths.

    The JSON has what scores.csv needs to be traced back, and not_used: what of a folder is not used.

    Raises:
        UserError: as `load_benchmark`; a name given twice; an unreadable image in a user's folder.
    """
    names = [spec.partition("=")[0] for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"benchmark '{name}' is given {names.count(name)} times; remove the repetitions")
    for spec, name in zip(specs, names, strict=True):
        benchmark = load_benchmark(spec, Path(data))
        say_notes(benchmark)
        if name not in MODULES:
            decode_all(benchmark)  # published files are pinned by their hash
        summary = json.dumps(_summary(benchmark), indent=2, ensure_ascii=False)
        write_text(Path(out) / f"{name}.json", summary + "\n", digest=True)


def say_notes(benchmark: Benchmark) -> None:
    """Print on stderr which parts of a benchmark's files are not used, a line each."""
    for note in benchmark.notes:
        print(f"brain_eval: note: {benchmark.description.name}: {' '.join(note.split())}", file=sys.stderr)


def decode_all(benchmark: Benchmark) -> None:
    """Decode each image once, so that a broken one is found before networks are trained.

    Raises:
        UserError: an image that cannot be read.
    """
    stimuli = benchmark.stimulus_set
    for i in tqdm(range(len(stimuli.stimulus_ids)), f"{stimuli.name} images", disable=None):
        stimuli.read(np.array([i]))


def module_of(name: str) -> ModuleType:
    """The module of a registered benchmark; UserError for an unknown name ("did you mean")."""
    try:
        return importlib.import_module(MODULES.module(name))
    except UserError as error:
        raise UserError(f"{error} (a folder of your own is NAME=FOLDER)") from None


def _row(description: Description, data: Path) -> tuple[str, ...]:
    about = description
    # The first author and year: the whole citation is in NAME.json.
    citation = re.sub(r"\).*", ")", about.citation)
    where = (", ".join(about.species), ", ".join(about.regions), str(about.n_stimuli), about.n_neuroids)
    return (about.name, str(about.version), *where, about.licence, citation, state(about.files, data))


def _summary(benchmark: Benchmark) -> dict[str, object]:
    about, stimuli = benchmark.description, benchmark.stimulus_set
    keys = ("name", "version", "species", "regions", "citation", "licence", "note", "simulated")
    labels = ("session", "animal", "species", "region", "n_neuroids")
    return {key: getattr(about, key) for key in keys} | {
        "n_stimuli": len(stimuli.stimulus_ids),
        "stimulus_set_sha256": stimuli.sha256,
        "recordings": [
            {label: getattr(recording, label) for label in labels} | {"n_stimuli": len(recording.stimuli)}
            for recording in benchmark.recordings
        ],
        "files": [
            {"path": file.path, "size": file.size, "url": file.url}
            | {kind: value for kind in ("sha256", "sha1") if (value := getattr(file, kind))}
            for file in about.files
        ],
        **({"not_used": benchmark.notes} if benchmark.notes else {}),
    }
