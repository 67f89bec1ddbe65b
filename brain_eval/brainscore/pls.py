"""Brain-Score's own PLS benchmarks, run by Brain-Score itself on a model of ours: rows for the tables.

Each layer in turn is committed to the benchmark's region and scored by brainscore_vision's benchmark as it is (PLS with
25 components, 10 splits of 90 %, stratified; median over neuroids of Pearson's r). No layer is chosen here.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brain_eval.benchmarks import module_of
from brain_eval.benchmarks.public.assembly import PublicAssembly, ensure_files
from brain_eval.benchmarks.public.environment import brainscore
from brain_eval.benchmarks.sources import brainio_home
from brain_eval.codes import CODEBOOK, Code, Codebook, none, preprocessing_code
from brain_eval.scoring.rows import COLUMNS as ROW
from nmnc.errors import UserError
from nmnc.files.writing import write_csv

if TYPE_CHECKING:
    from brain_eval.activations.models import Model

METRIC = "Brain-Score pls"
CEILING = Code(
    "brain-score",
    "Brain-Score: median over neuroids of split-half Pearson r over repetitions, Spearman-Brown corrected, mean "
    "over splits; ceiled = raw^2 / ceiling_upper",
)
#: Columns of scores.csv, without who was scored, and Brain-Score's standard error over its splits.
COLUMNS = (*ROW[4:], "standard_error")


def public_source(name: str) -> PublicAssembly:
    """Return what a benchmark of ours has from Brain-Score; UserError where it has nothing."""
    source = getattr(module_of(name), "SOURCE", None)
    if not isinstance(source, PublicAssembly):
        raise UserError(
            f"benchmark '{name}' is not Brain-Score's; its own PLS exists for freemanziemba2013public and "
            "majajhong2015public"
        )
    return source


def pls_rows(model: "Model", name: str, source: PublicAssembly, data_folder: Path) -> Iterator[dict[str, Any]]:
    """Score every layer of a model on Brain-Score's own PLS benchmark of every region; yield a row for each.

    The model is taken to see the images at the width at which they were shown, so Brain-Score neither pads nor crops
    them and the activations are those of our own extraction. raw is None, with the reason, for a layer that PLS
    refuses.

    Args:
        model: with the layers to score; PLS needs 25 neuroids.
        name: of the benchmark, for the rows.
        source: its files and the identifiers of Brain-Score's benchmarks.
        data_folder: see `brain_eval.benchmarks.sources.brainio_home`.

    Raises:
        UserError: as `brain_eval.benchmarks.public.assembly.load`.
    """
    from tqdm import tqdm

    from brain_eval.brainscore.model import commitment

    ensure_files(source, data_folder)
    with brainscore(brainio_home(data_folder)):
        from brainscore_vision import load_benchmark

        for region, identifier in source.pls.items():
            theirs = load_benchmark(identifier)
            for layer in tqdm(model.layers, f"{identifier} {model.name}", disable=None):
                candidate = commitment(model, {region: layer}, source.degrees)
                row = _row(model, layer, name, region, theirs, source)
                try:
                    yield row | _numbers(theirs(candidate))
                except (ValueError, np.linalg.LinAlgError) as error:
                    reason = " ".join(str(error).split())
                    where = f"{model.name}, layer '{layer}': Brain-Score's {identifier}"
                    tqdm.write(f"brain_eval: warning: {where}: {reason}; its score stays empty", file=sys.stderr)
                    yield row | {"interval_method": none("refused", reason, varies=True)}


def _numbers(score: Any) -> dict[str, Any]:
    error = score.attrs.get("error")
    return {
        "raw": float(score.raw),
        "standard_error": None if error is None else float(error),
        "ceiling_upper": float(score.ceiling),
        "ceiled": float(score),
        "ceiling_definition": CEILING,
    }


def _row(model: "Model", layer: str, name: str, region: str, theirs: Any, source: PublicAssembly) -> dict[str, Any]:
    assembly = theirs._assembly
    return dict.fromkeys(COLUMNS) | {
        "layer": layer,
        "benchmark": name,
        "version": f"{theirs.identifier} v{theirs.version}",
        "session": "pooled",
        "animal": "pooled",
        "species": source.species,
        "region": region,
        "metric": METRIC,
        "n_stimuli": len(assembly["presentation"]),
        "n_neuroids": len(assembly["neuroid"]),
        "preprocessing": preprocessing_code(
            f"{model.preprocessing.to_json()}; image taken as {source.degrees:g} degrees wide"
        ),
    }


def write_pls(model: "Model", names: Sequence[str], data_folder: Path, out: Path) -> None:
    """Write the rows of several benchmarks to a CSV, columns `COLUMNS` behind `model`.

    Raises:
        UserError: as `pls_rows`; nothing is written then.
    """
    sources = {name: public_source(name) for name in names}
    # Missing files are reported before hours of scoring.
    for source in sources.values():
        ensure_files(source, data_folder)
    rows = [row for name, source in sources.items() for row in pls_rows(model, name, source, data_folder)]
    write_csv(out.with_name(f"{out.stem}_codebook.csv"), CODEBOOK, Codebook.of(rows).rows)
    write_csv(out, ("model", *COLUMNS), [{"model": model.name} | row for row in rows])
