"""The runs of a study, their parameters, and its folders."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nmnc.config import Identity as Identity
from nmnc.config import Study
from nmnc.errors import UserError
from nmnc.sections import usable_path


def trained(study: Study) -> list[Identity]:
    """Return one identity per network, rule (including untrained) and seed."""
    return [
        Identity(network, label, study.run(label).kind, seed)
        for network in study.networks
        for label in study.labels(network)
        for seed in study.seeds_of(label)
    ]


def parameters(study: Study) -> Iterator[dict[str, Any]]:
    """Yield the rows of tables/runs.csv: identity, whether it is scored, and every parameter as SECTION.KEY."""
    scored = dict.fromkeys(study.scored())
    runs = trained(study)
    for identity in runs:
        run = study.run(identity.rule)
        row: dict[str, Any] = identity._asdict() | {"scored": "yes" if identity in scored else "no"}
        for section in ("training", "noise"):
            row |= {f"{section}.{key}": value for key, value in getattr(run, section).model_dump().items()}
        yield row
    yield from (identity._asdict() | {"scored": "yes"} for identity in scored if identity not in set(runs))


def sweep_points(study: Study) -> Iterator[dict[str, Any]]:
    """Yield the rows of tables/sweeps.csv: the label and values of each point (`value`: its first value)."""
    for sweep in study.sweeps:
        for point in study.points(sweep):
            values = " ".join(f"{key}={value}" for key, value in point.values.items())
            first = next(iter(point.values.values()))
            yield {"sweep": sweep, "rule": point.rule, "label": point.label, "value": first, "values": values}


def data_folder(study: Study) -> Path:
    """Return NMNC_DATA, else `paths.data` of the study; UserError for a path that Snakemake cannot use."""
    try:
        return usable_path(Path(os.environ.get("NMNC_DATA") or study.paths.data))
    except ValueError as error:
        raise UserError(f"NMNC_DATA: {error}") from None


def results_folder(study: Study) -> Path:
    """Return RESULTS/STUDY."""
    return study.paths.results / study.study
