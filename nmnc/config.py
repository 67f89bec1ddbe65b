"""The models of a study's YAML file: what may stand in it, its defaults, and its errors in one line."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from nmnc.errors import UserError, did_you_mean
from nmnc.files.reading import read_yaml
from nmnc.settings import (
    MOST_BYTES_OF_A_NAME,
    MOST_POINTS,
    PERTURBING,
    Dataset,
    Diagnostics,
    Name,
    NetworkEntry,
    Noise,
    PathText,
    Point,
    RuleEntry,
    Run,
    Section,
    Seed,
    Sweep,
    Training,
    UserPath,
    points_of,
)
from nmnc.validation import one_line, overlay

Device = Literal["auto", "cpu", "cuda"]
#: The same names as brain_eval's similarity.METRICS and response_scores.RESPONSE_METRICS (a test compares them).
Metric = Literal[
    "spearman", "rho-a", "pearson", "cosine", "tau-a", "whitened-cosine", "whitened-correlation",
    "cka-biased", "cka-unbiased", "ridge", "pls",
]  # fmt: skip
#: The same names as brain_eval's recorded_rdms.KINDS (a test compares them).
RecordedRdm = Literal["correlation", "cosine", "euclidean", "mahalanobis", "crossnobis"]
#: Most runs of a study: networks x rules x seeds.
MOST_RUNS = 10_000
#: Bytes that names of files need beside network, rule and seed: a hash, an ending, a temporary name.
BESIDE_NAMES = 50


class Paths(Section):
    """Where data are found and results are written, relative to the working directory."""

    data: UserPath = Field(Path("data"), description="data folder; the environment variable NMNC_DATA overrides it")
    results: UserPath = Field(Path("results"), description="results go to RESULTS/STUDY")


class ImagePreprocessing(Section):
    """How a reference model was trained to see images."""

    image_size: int = Field(ge=4, le=4096, description="pixels a side; images are resized, bilinear with antialiasing")
    channels: Literal[1, 3] = Field(3, description="1: grey, 3: red, green, blue")
    mean: list[float] = Field(description="per channel, subtracted after scaling to 0..1")
    std: list[float] = Field(description="per channel, divided by")

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> "ImagePreprocessing":
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need one value for each of the {self.channels} channels")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self


ChannelAxis = Literal["first", "last"]


class ReferenceModel(Section):
    """A network that is scored but not trained here."""

    network: PathText = Field(description="MODULE:FUNCTION, torchvision:NAME, timm:NAME, or a network.pt")
    kind: str | None = Field(
        None, description="MODULE:FUNCTION that built a network.pt, which the file alone may not choose; empty: nmnc's"
    )
    arguments: dict[str, Any] = Field({}, description="arguments of FUNCTION")
    weights: UserPath | None = Field(
        None, description="state dict or safetensors file, absolute or below the data folder; empty: initial weights"
    )
    weights_key: str | None = Field(None, description="which state dict of weights, where the file has several")
    layers: list[str] = Field(
        [],
        description="names of its modules, or LAYER@STEP for one of several calls; empty: the direct children that run",
    )
    preprocessing: ImagePreprocessing | None = Field(None, description="required unless network is a network.pt")
    channel_axis: ChannelAxis | None = Field(None, description="as in activations, for this model")

    @model_validator(mode="after")
    def _seen_somehow(self) -> "ReferenceModel":
        if ":" in self.network and self.preprocessing is None:
            raise ValueError("preprocessing is missing; say how the network sees images: image_size, mean, std")
        if self.kind is not None and (":" not in self.kind or ":" in self.network):
            raise ValueError(f"kind {self.kind!r}: give the MODULE:FUNCTION that built a network.pt, else leave it out")
        if self.weights_key is not None and self.weights is None:
            raise ValueError(f"weights_key {self.weights_key!r} chooses from a file; add weights")
        if self.network == "pixels":
            raise ValueError("pixels are scored beside the models of every study; remove this model")
        return self


class Activations(Section):
    """What is kept of a network's activity, and how it is computed."""

    memory_gb: float = Field(2.0, ge=0.01, le=10**5, description="for batches and buffers, which shrink to fit")
    reduction: Literal["none", "spatial_mean", "pca", "random_projection"] = Field(
        "none", description="of each layer: all of it, the mean over each channel's map, or fewer dimensions"
    )
    reduction_dimensions: int = Field(
        1000, ge=1, le=10**7, description="most values a layer after pca or random_projection"
    )
    reduction_seed: Seed = Field(0, description="seed of random_projection")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="bfloat16: faster and rounded, by autocast; Spearman of its RDMs with those of float32 at least "
        ".9998 (ResNet-18 with initial weights, four layers, 96 noise images)",
    )
    channels_last: bool | None = Field(
        None,
        description="compute in the channels-last layout, up to 1.6 times as fast on a CPU; the same RDMs (Spearman "
        "1.000000, measured likewise); empty: on a CPU, where the network takes it",
    )
    compression: bool = Field(False, description="compress the files, without loss")
    channel_axis: ChannelAxis | None = Field(
        None,
        description="where channels lie in layers whose output for images of another size does not show it, as in "
        "networks of one image size; spatial_mean needs it there",
    )


class Evaluation(Section):
    """What brain_eval's commands are called with; nmnc itself never reads this section."""

    benchmarks: list[Name] = Field(
        ["simulated"], description="names of the registry or of benchmark_folders; none: nothing is scored"
    )
    rules: list[Name] | None = Field(None, description="labels of the rules to score; empty: all")
    benchmark_folders: dict[Name, UserPath] = Field({}, description="your own benchmarks: name -> folder")
    models: dict[Name, ReferenceModel] = Field({}, description="reference models to score beside the rules")
    metrics: list[Metric] = Field(
        ["spearman", "rho-a"],
        min_length=1,
        description="RDM comparisons spearman, rho-a, pearson, cosine, tau-a (slow), whitened-cosine, "
        "whitened-correlation; cka-biased, cka-unbiased, ridge (slow), pls (very slow) where there are responses",
    )
    recorded_rdms: list[RecordedRdm] = Field(
        ["correlation"],
        min_length=1,
        description="kinds of the recordings' RDMs, each compared by every metric of RDMs; all but correlation need "
        "responses, mahalanobis and crossnobis repetitions; in scores.csv the metric is then crossnobis-spearman",
    )
    activations: Activations = Activations()
    bootstrap_draws: int = Field(1000, ge=100, le=10**6, description="draws behind each interval")
    confidence: float = Field(0.95, ge=0.5, le=0.999, description="coverage of each interval")
    seed: Seed = Field(0, description="seed of the bootstrap")


class Study(Section):
    """One study: networks x rules x seeds, scored on benchmarks."""

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
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        if self.study.casefold() == "reference":
            raise ValueError("study: results/reference is kept for published results; take another name")
        if self.networks and self.dataset is None:
            raise ValueError("networks are to be trained but there is no dataset; add dataset.name")
        if not self.networks and not self.evaluation.models:
            raise ValueError("nothing to do; add a network to networks or a model to evaluation.models")
        self._refuse_unknown_names()
        for label in self.entries:
            run = self.run(label)
            if label == "untrained" and run.kind != "untrained":
                raise ValueError("rules.untrained: the label is kept for the kind untrained; rename that rule")
            _refuse_noise(label, run)
        self._refuse_too_many()
        self._refuse_long_names()
        self._refuse_shared_files()
        return self

    def _refuse_unknown_names(self) -> None:
        """ValueError for the name of a rule or network that is not there, or that two share."""
        places = [("diagnosed", self.diagnosed or []), ("evaluation.rules", self.evaluation.rules or [])]
        for place, names in places:
            for name in names:
                if name not in self.labels():
                    raise ValueError(f"{place}: unknown rule {name!r}{did_you_mean(name, self.labels())}")
        taken = {"pixels"} & (set(self.networks) | set(self.evaluation.models))
        taken |= set(self.networks) & set(self.evaluation.models)
        if taken:
            raise ValueError(f"the name {sorted(taken)[0]!r} is taken; rename that network or model")
        for label, entry in self.entries.items():
            for name in entry.networks or []:
                if name not in self.networks:
                    hint = did_you_mean(name, self.networks)
                    raise ValueError(f"rules.{label}.networks: unknown network {name!r}{hint}")

    def _refuse_too_many(self) -> None:
        """ValueError for more runs than Snakemake can plan."""
        number = sum(len(self.networks_of(label)) * len(self.seeds_of(label)) for label in self.labels())
        if number > MOST_RUNS:
            raise ValueError(f"{number} runs (networks x rules x seeds), at most {MOST_RUNS}; split the study")

    def _refuse_long_names(self) -> None:
        """ValueError where the name of a file would be longer than file systems take."""
        places = [
            ("networks.{} and rules.{}", name, label) for label in self.labels() for name in self.networks_of(label)
        ]
        shown = [*self.networks, *self.evaluation.models]
        places += [
            ("evaluation.benchmarks {} and {}", name, other) for name in self.evaluation.benchmarks for other in shown
        ]
        for place, *names in places:
            size = sum(map(len, names)) + BESIDE_NAMES
            if size > MOST_BYTES_OF_A_NAME:
                raise ValueError(
                    f"{place.format(*names)}: together too long for the name of a file by "
                    f"{size - MOST_BYTES_OF_A_NAME} characters; shorten them"
                )

    def _refuse_shared_files(self) -> None:
        """ValueError for names that would share a file: a lock, a log, a figure, a variable in a file of RDMs.

        Files are named NETWORK-RULE, or by one name in which _ becomes -, and some disks ignore case.
        """
        files: dict[str, str] = {}

        def claim(file: str, whose: str) -> None:
            if files.setdefault(file.casefold(), whose) != whose:
                raise ValueError(f"{whose} and {files[file.casefold()]} would share the file {file}; rename one")

        for label in self.labels():
            for network in self.networks_of(label):
                claim(f"{network}-{label}", f"networks.{network} with rules.{label}")
        for name in self.evaluation.models:
            for label in ("pretrained", "initial", "as_built"):  # see nmnc.runs
                claim(f"{name}-{label}", f"evaluation.models.{name}")
        for name in [*self.networks, *self.evaluation.models]:
            claim(f"figure {name.replace('_', '-')}", f"the name {name!r}")
        for name in self.evaluation.benchmarks:
            for variable in (name, f"layer_{name}", f"row_{name}", f"column_{name}", f"stimulus_id_{name}"):
                claim(f"variable {variable.replace('_', '-')}", f"the benchmark {name!r}")

    @cached_property
    def entries(self) -> dict[str, RuleEntry]:
        """Label -> rule: the section rules, then the copies that sweeps make of them."""
        found = dict(self.rules)
        for name in self.sweeps:
            for point in self.points(name):
                if found.setdefault(point.label, point.entry) != point.entry:
                    raise ValueError(
                        f"sweeps.{name}: the label {point.label!r} is taken by a rule with other settings; "
                        "rename that rule, or put the values into one sweep"
                    )
            if len(found) > len(self.rules) + MOST_POINTS:
                raise ValueError(f"sweeps: over {MOST_POINTS} points together; split the study")
        return found

    def points(self, sweep: str) -> list["Point"]:
        """The points of a sweep, rule by rule and in the order of its values."""
        try:
            return list(points_of(self.rules, self.training, self.noise, self.sweeps[sweep]))
        except ValueError as error:
            raise ValueError(f"sweeps.{sweep}: {error}") from None

    def labels(self, network: str | None = None) -> list[str]:
        """Labels of the rules (that train `network`), with `untrained` added when no rule of that kind is there."""
        kinds = {entry.kind for entry in self.entries.values()}
        labels = [*self.entries] + ([] if "untrained" in kinds else ["untrained"])
        return [label for label in labels if network is None or network in self.networks_of(label)]

    def networks_of(self, label: str) -> list[str]:
        """Names of the networks that a rule trains."""
        entry = self.entries.get(label)
        return list(self.networks) if entry is None or entry.networks is None else list(entry.networks)

    def seeds_of(self, label: str) -> list[int]:
        """Seeds that a rule is run from."""
        entry = self.entries.get(label)
        return list(self.seeds) if entry is None or entry.seeds is None else list(entry.seeds)

    def run(self, label: str) -> "Run":
        """The settings of one rule: the study's sections with the rule's own values laid over them."""
        entry = self.entries.get(label, RuleEntry(kind="untrained"))
        return Run(
            kind=entry.kind,
            training=overlay(self.training, entry.training, f"rules.{label}.training"),
            noise=overlay(self.noise, entry.noise, f"rules.{label}.noise"),
            diagnostics=self.diagnostics,
        )


def _refuse_noise(label: str, run: Run) -> None:
    """ValueError for settings of the noise that the rule uses and that do not fit one another."""
    noise, batch = run.noise, run.training.batch_size
    if run.kind in PERTURBING and noise.images > batch:
        raise ValueError(f"rules.{label}: noise.images {noise.images} exceeds batch_size {batch}; lower noise.images")
    components = noise.dimensions * (2 if noise.adaptive else 1)
    if run.kind in ("nmnc", "spectral") and noise.basis_images <= components:
        raise ValueError(
            f"rules.{label}: {components} principal components need the activity of more images than "
            f"noise.basis_images {noise.basis_images}; set it higher"
        )
    if run.kind == "nmnc" and noise.basis == "incremental" and batch == 1:
        raise ValueError(
            f"rules.{label}: noise.basis incremental compares the images of a batch; "
            "set batch_size to 2 or more, or give window"
        )
    if run.kind in PERTURBING and noise.per_image and noise.images != batch:
        raise ValueError(
            f"rules.{label}: with noise.per_image all images of a batch need noise; "
            f"set noise.images to the batch_size {batch}"
        )


def load_study(path: Path) -> Study:
    """Read and check a study's YAML file.

    Raises:
        UserError: one line with the file, the place, what is wrong and, for a misspelt key, the
            nearest known one.
    """
    return study_from(read_yaml(path, "give a YAML file of config/"), str(path))


def study_from(content: Any, source: str) -> Study:
    """Check the content of a study's file; `source` names it in errors (see `load_study`)."""
    if not isinstance(content, dict):
        raise UserError(f"{source}: expected keys and values; start from config/default.yaml")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{source}: {one_line(error, Study)}") from None
