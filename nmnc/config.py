"""The models of a study's YAML file: its keys, their defaults, and errors as one line."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import Field, ValidationError, model_validator

from nmnc.errors import UserError, did_you_mean
from nmnc.files.reading import read_yaml
from nmnc.rule_kinds import refuse_misfits, rule_kind
from nmnc.sections import MOST_BYTES_OF_A_NAME, Name, Section, Seed, UserPath
from nmnc.settings import MOST_POINTS, Diagnostics, NetworkEntry, Noise, RuleEntry, Run, Sweep, Training
from nmnc.settings import Dataset as Dataset
from nmnc.sweeps import Point, points_of
from nmnc.validation import one_line, overlay

Device = Literal["auto", "cpu", "cuda"]


class Identity(NamedTuple):
    """One run: the key columns of every table."""

    network: str
    rule: str
    kind: str
    seed: int

    @property
    def folder(self) -> str:
        """Folder NETWORK/RULE/seedN below networks/, activations/ and so on."""
        return f"{self.network}/{self.rule}/seed{self.seed}"

    @property
    def stem(self) -> str:
        """File name stem NETWORK-RULE-seedN."""
        return self.folder.replace("/", "-")


S = TypeVar("S", bound="Study")
#: Sections of a study that other packages declare and nmnc skips (see workflow.study).
FOREIGN_SECTIONS = ("evaluation",)
#: Most runs of a study: networks x rules x seeds.
MOST_RUNS = 10_000
#: Bytes of a file name besides network, rule and seed: a hash, an ending, a temporary name.
OTHER_BYTES = 50


class Paths(Section):
    """Folders of data and results, relative to the working directory."""

    data: UserPath = Field(Path("data"), description="data folder; the environment variable NMNC_DATA overrides it")
    results: UserPath = Field(Path("results"), description="results go to RESULTS/STUDY")


class Study(Section):
    """A study: networks x rules x seeds to train. `workflow.study.Study` adds how they are scored."""

    study: Name = Field(description="name of the study and of its results folder")
    seeds: list[Seed] = Field([0], min_length=1, description="one run per seed")
    device: Device = Field("auto", description="auto takes a GPU when there is one")
    threads: int = Field(1, ge=1, le=1024, description="torch's threads per job; part of what makes a run repeatable")
    paths: Paths = Paths()
    dataset: Dataset | None = Field(None, description="may be left out when nothing is trained")
    networks: dict[Name, NetworkEntry] = Field({}, description="name -> network")
    rules: dict[Name, RuleEntry] = Field({}, description="label -> rule; the untrained network is always added")
    sweeps: dict[Name, Sweep] = Field({}, description="name -> sweep over values of rules")
    training: Training = Training()
    noise: Noise = Noise()
    diagnostics: Diagnostics = Diagnostics()
    diagnosed: list[Name] | None = Field(
        None, description="labels of rules whose networks' manifold is measured for the claims; empty: all"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        if self.study.casefold() == "reference":
            raise ValueError("study: results/reference is reserved for published results; choose another name")
        if self.networks and self.dataset is None:
            raise ValueError("networks need a dataset to be trained on; add dataset.name")
        for label in self.diagnosed or []:
            self.refuse_unknown_rule("diagnosed", label)
        for label, entry in self.entries.items():
            for name in entry.networks or []:
                if name not in self.networks:
                    hint = did_you_mean(name, self.networks)
                    raise ValueError(f"rules.{label}.networks: unknown network {name!r}{hint}")
            run = self.run(label)
            if label == "untrained" and run.kind != "untrained":
                raise ValueError("rules.untrained: the label is reserved for the kind untrained; rename that rule")
            try:
                refuse_misfits(run.kind, run.noise, run.training.batch_size)
            except ValueError as error:
                raise ValueError(f"rules.{label}: {error}") from None
        number = sum(len(self.networks_of(label)) * len(self.seeds_of(label)) for label in self.labels())
        if number > MOST_RUNS:
            raise ValueError(f"{number} runs (networks x rules x seeds), at most {MOST_RUNS}; split the study")
        refuse_unusable_names(self.names_together(), self.files())
        return self

    def refuse_unknown_rule(self, place: str, label: str) -> None:
        """Raise ValueError for a label that no rule has."""
        if label not in self.labels():
            raise ValueError(f"{place}: unknown rule {label!r}{did_you_mean(label, self.labels())}")

    def names_together(self) -> Iterator[tuple[str, str, str]]:
        """Yield pairs of names that occur in one file name: a template of their keys, and the two names."""
        for label in self.labels():
            yield from (("networks.{} and rules.{}", network, label) for network in self.networks_of(label))

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield the files, or variables in files, named after the study's entries, each with those entries."""
        for label in self.labels():
            for network in self.networks_of(label):
                yield f"{network}-{label}", f"networks.{network} with rules.{label}"
        yield from ((f"figure {name.replace('_', '-')}", f"the name {name!r}") for name in self.networks)

    def scored(self) -> list[Identity]:
        """Return the runs compared with recordings; none in nmnc itself."""
        return []

    @cached_property
    def entries(self) -> dict[str, RuleEntry]:
        """Map label -> rule: the section rules, then the copies that sweeps make of them."""
        entries_by_label = dict(self.rules)
        for name in self.sweeps:
            for point in self.points(name):
                if entries_by_label.setdefault(point.label, point.entry) != point.entry:
                    raise ValueError(
                        f"sweeps.{name}: the label {point.label!r} belongs to a rule with other settings; "
                        "rename that rule, or set the values in one sweep"
                    )
            if len(entries_by_label) > len(self.rules) + MOST_POINTS:
                raise ValueError(f"sweeps: over {MOST_POINTS} points together; split the study")
        return entries_by_label

    def points(self, sweep: str) -> list["Point"]:
        """Return the points of a sweep, rule by rule and in the order of its values."""
        try:
            return list(points_of(self.rules, self.training, self.noise, self.sweeps[sweep]))
        except ValueError as error:
            raise ValueError(f"sweeps.{sweep}: {error}") from None

    def labels(self, network: str | None = None) -> list[str]:
        """Return the labels of the rules (that train `network`); `untrained` is added if no rule has that kind."""
        kinds = {entry.kind for entry in self.entries.values()}
        labels = [*self.entries] + ([] if "untrained" in kinds else ["untrained"])
        return [label for label in labels if network is None or network in self.networks_of(label)]

    def networks_of(self, label: str) -> list[str]:
        """Return the names of the networks that a rule trains."""
        entry = self.entries.get(label)
        return list(self.networks) if entry is None or entry.networks is None else list(entry.networks)

    def seeds_of(self, label: str) -> list[int]:
        """Return the seeds of a rule."""
        entry = self.entries.get(label)
        return list(self.seeds) if entry is None or entry.seeds is None else list(entry.seeds)

    def run(self, label: str) -> "Run":
        """Return the settings of one rule: the study's sections, overridden by the rule's values."""
        entry = self.entries.get(label, RuleEntry(kind="untrained"))
        try:
            settings = rule_kind(entry.kind).settings
        except ValueError as error:
            raise ValueError(f"rules.{label}.kind: {error}") from None
        return Run(
            kind=entry.kind,
            training=overlay(self.training, entry.training, f"rules.{label}.training", Training),
            noise=overlay(self.noise, entry.noise, f"rules.{label}.noise", settings),
            diagnostics=self.diagnostics,
        )


def refuse_unusable_names(together: Iterable[tuple[str, str, str]], files: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError if a file name would be too long for file systems, or two would be the same.

    Files are named NETWORK-RULE, or after one name in which _ becomes -, and some file systems ignore case.

    Args:
        together, files: see `Study.names_together` and `Study.files`.
    """
    for place, *names in together:
        size = sum(map(len, names)) + OTHER_BYTES
        if size > MOST_BYTES_OF_A_NAME:
            raise ValueError(
                f"{place.format(*names)}: together too long for a file name by {size - MOST_BYTES_OF_A_NAME} "
                "characters; shorten them"
            )
    claimed: dict[str, str] = {}
    for file, owner in files:
        first = claimed.setdefault(file.casefold(), owner)
        if first != owner:
            raise ValueError(f"{owner} and {first} would share the file {file}; rename one")


def load_study(path: Path) -> Study:
    """Read and check a study's YAML file; the `FOREIGN_SECTIONS` are skipped.

    Raises:
        UserError: one line with the file, the place, what is wrong and, for a misspelt key, the
            nearest known key.
    """
    content = read_study(path)
    return study_from({key: value for key, value in content.items() if key not in FOREIGN_SECTIONS}, str(path), Study)


def read_study(path: Path) -> dict[str, Any]:
    """Read a study's YAML file; only that it is a mapping is checked."""
    content = read_yaml(path, "give a YAML file of config/")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys and values; start from config/default.yaml")
    return content


def study_from(content: Mapping[str, Any], source: str, model: type[S]) -> S:
    """Check the content of a study's file against a model; `source` names it in errors (see `load_study`)."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{source}: {one_line(error, model)}") from None
