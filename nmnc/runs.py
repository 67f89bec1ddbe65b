"""The runs of a study: which networks are trained, which models are scored, and their parameters."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nmnc.config import ReferenceModel, Study
from nmnc.errors import UserError
from nmnc.modules import LIBRARIES
from nmnc.settings import usable_path

#: Labels of the models that are scored but not trained here, by where their weights come from; see `weights_of`.
REFERENCES = ("pretrained", "initial", "as_built", "pixels")


class Identity(NamedTuple):
    """Who is scored: the key of every table."""

    network: str
    rule: str
    kind: str
    seed: int

    @property
    def folder(self) -> str:
        """NETWORK/RULE/seedN, the folder below networks/, activations/ and so on."""
        return f"{self.network}/{self.rule}/seed{self.seed}"

    @property
    def stem(self) -> str:
        """NETWORK-RULE-seedN, for the name of a file."""
        return self.folder.replace("/", "-")


def trained(study: Study) -> list[Identity]:
    """One identity per network, rule (with untrained) and seed."""
    return [
        Identity(network, label, study.run(label).kind, seed)
        for network in study.networks
        for label in study.labels(network)
        for seed in study.seeds_of(label)
    ]


def diagnosed(study: Study) -> list[Identity]:
    """The trained networks whose manifold is measured."""
    return [run for run in trained(study) if study.diagnosed is None or run.rule in study.diagnosed]


def references(study: Study) -> list[Identity]:
    """The models that are scored but not trained here, and the pixels."""
    labels = {name: weights_of(model) for name, model in study.evaluation.models.items()}
    models = [Identity(name, label, label, 0) for name, label in labels.items()]
    return [*models, Identity("pixels", "pixels", "pixels", 0)]


def weights_of(model: ReferenceModel) -> str:
    """Label a reference model by what was loaded.

    Returns:
        pretrained: a file of weights, or a network.pt. initial: torchvision's or timm's random ones. as_built: those
        that MODULE:FUNCTION gave it.
    """
    if model.weights is not None or ":" not in model.network:
        return "pretrained"
    return "initial" if model.network.partition(":")[0] in LIBRARIES else "as_built"


def scored(study: Study) -> list[Identity]:
    """The trained networks, reference models and pixels that are compared with the benchmarks."""
    if not study.evaluation.benchmarks:
        return []
    labels = study.evaluation.rules
    chosen = [run for run in trained(study) if labels is None or run.rule in labels]
    return [*chosen, *references(study)]


def parameters(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of tables/runs.csv: identity, whether it is scored, then every parameter of the run as SECTION.KEY."""
    compared = set(scored(study))
    for identity in trained(study):
        run = study.run(identity.rule)
        row: dict[str, Any] = identity._asdict() | {"scored": _word(identity in compared)}
        for section in ("training", "noise"):
            row |= {f"{section}.{key}": value for key, value in getattr(run, section).model_dump().items()}
        yield row
    for identity in references(study):
        if identity in compared:
            yield identity._asdict() | {"scored": _word(True)}


def sweep_points(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of tables/sweeps.csv: which label is which point of which sweep (`value`: its first value)."""
    for sweep in study.sweeps:
        for point in study.points(sweep):
            words = " ".join(f"{key}={value}" for key, value in point.values.items())
            first = next(iter(point.values.values()))
            yield {"sweep": sweep, "rule": point.rule, "label": point.label, "value": first, "values": words}


def _word(true: bool) -> str:
    return "yes" if true else "no"


def data_folder(study: Study) -> Path:
    """NMNC_DATA, else `paths.data` of the study; UserError for a path that the workflow could not use."""
    try:
        return usable_path(Path(os.environ.get("NMNC_DATA") or study.paths.data))
    except ValueError as error:
        raise UserError(f"NMNC_DATA: {error}") from None


def results_folder(study: Study) -> Path:
    """RESULTS/STUDY."""
    return study.paths.results / study.study
