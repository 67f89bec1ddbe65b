"""The models of a study's YAML file: what may stand in it, its defaults, and its errors in one line."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nmnc.errors import UserError, did_you_mean

S = TypeVar("S", bound="Section")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Device = Literal["auto", "cpu", "cuda"]


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Paths(Section):
    """Where data are found and results are written, relative to the working directory."""

    data: Path = Field(Path("data"), description="data folder; the environment variable NMNC_DATA overrides it")
    results: Path = Field(Path("results"), description="results go to RESULTS/STUDY")


class Dataset(Section):
    """The images a network is trained and tested on."""

    name: str = Field(description="digits, cifar10, an .npz file, or a folder train/CLASS/*, test/CLASS/*")
    train_images: int | None = Field(None, ge=1, description="use the first N training images; empty: all")
    test_images: int | None = Field(None, ge=1, description="use the first N test images; empty: all")
    image_size: int | None = Field(None, ge=4, description="resize to this many pixels a side; empty: as they are")


class NetworkEntry(Section):
    """One network of the study."""

    kind: str = Field(description="convnet, mlp, or MODULE:FUNCTION that returns stages (see docs)")
    arguments: dict[str, Any] = Field({}, description="arguments of that network")


class Training(Section):
    """Optimisation, the same loop for every rule."""

    epochs: int = Field(6, ge=0, description="passes over the training images")
    batch_size: int = Field(128, ge=1, description="images per step; a last incomplete batch is dropped")
    learning_rate: float = Field(0.05, gt=0, description="step size of stochastic gradient descent")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of stochastic gradient descent")
    weight_decay: float = Field(5e-4, ge=0, description="added to the gradient as weight_decay * weight")
    clip_norm: float | None = Field(1.0, gt=0, description="clip the whole gradient to this norm; empty: never")


class Noise(Section):
    """The noise of the perturbing rules and what is learned from it (docs/method.md)."""

    dimensions: int = Field(64, ge=1, description="d, dimension of the subspace; sets the energy s^2 d of VNC too")
    scale: float = Field(0.05, gt=0, description="s, standard deviation of the noise along each axis")
    images: int = Field(8, ge=1, description="M, images of the batch that are perturbed at each refresh")
    refresh_every: int = Field(1, ge=1, description="b, batches between two refreshes of the feedback")
    rate: float = Field(0.2, gt=0, le=1, description="eta, weight of the newest estimate in the running feedback")
    antithetic: bool = Field(True, description="perturb by +noise and -noise; false: one-sided")
    basis_images: int = Field(512, ge=2, description="images whose activity gives the basis")
    basis_every: int = Field(20, ge=1, description="batches between two refreshes of the basis")
    feedback: Literal["factored", "full"] = Field("factored", description="how subspace rules store the feedback")


class RuleEntry(Section):
    """One learning rule; `noise` and `training` override single values of the study's sections."""

    kind: str = Field(description="backprop, vnc, nmnc, random_subspace or untrained")
    noise: dict[str, Any] = Field({}, description="values of the section noise that differ for this rule")
    training: dict[str, Any] = Field({}, description="values of the section training that differ for this rule")


class Diagnostics(Section):
    """Comparison of each rule with backprop's gradient, after every epoch."""

    images: int = Field(256, ge=2, description="fixed held-out images (the first of the test set)")


class ImagePreprocessing(Section):
    """How a reference model was trained to see images."""

    image_size: int = Field(ge=4, description="pixels a side; images are resized, bilinear with antialiasing")
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


class ReferenceModel(Section):
    """A network that is scored but not trained here."""

    network: str = Field(description="MODULE:FUNCTION, torchvision:NAME, or a network.pt")
    arguments: dict[str, Any] = Field({}, description="arguments of FUNCTION")
    weights: Path | None = Field(None, description="state dict, absolute or below the data folder")
    layers: list[str] = Field([], description="names of its modules; empty: all direct children")
    preprocessing: ImagePreprocessing | None = Field(None, description="required unless network is a network.pt")

    @model_validator(mode="after")
    def _seen_somehow(self) -> "ReferenceModel":
        if ":" in self.network and self.preprocessing is None:
            raise ValueError("preprocessing is missing; say how the network sees images: image_size, mean, std")
        return self


class Evaluation(Section):
    """What brain_eval's commands are called with; nmnc itself never reads this section."""

    benchmarks: list[Name] = Field(
        ["simulated"], min_length=1, description="names of the registry or of benchmark_folders"
    )
    benchmark_folders: dict[Name, Path] = Field({}, description="your own benchmarks: name -> folder")
    models: dict[Name, ReferenceModel] = Field({}, description="reference models to score beside the rules")
    metrics: list[Literal["spearman", "rho-a"]] = Field(["spearman", "rho-a"], description="RDM comparisons")
    bootstrap_draws: int = Field(1000, ge=100, description="draws behind each interval")
    confidence: float = Field(0.95, ge=0.5, le=0.999, description="coverage of each interval")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")


class Study(Section):
    """One study: networks x rules x seeds, scored on benchmarks."""

    study: Name = Field(description="name of the study and of its results folder")
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="one run per seed")
    device: Device = Field("auto", description="auto takes a GPU when there is one")
    threads: int = Field(1, ge=1, description="torch's threads per job; part of what makes a run repeatable")
    paths: Paths = Paths()
    dataset: Dataset | None = Field(None, description="may be left out when nothing is trained")
    networks: dict[Name, NetworkEntry] = Field({}, description="name -> network")
    rules: dict[Name, RuleEntry] = Field({}, description="label -> rule; the untrained network is always added")
    training: Training = Training()
    noise: Noise = Noise()
    diagnostics: Diagnostics = Diagnostics()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        for name, given in (("seeds", self.seeds), ("evaluation.benchmarks", self.evaluation.benchmarks)):
            if len(set(given)) != len(given):
                raise ValueError(f"{name} are repeated; give each once")
        if self.study == "reference":
            raise ValueError("study: results/reference is kept for published results; take another name")
        if self.networks and self.dataset is None:
            raise ValueError("networks are to be trained but there is no dataset; add dataset.name")
        if not self.networks and not self.evaluation.models:
            raise ValueError("nothing to do; add a network to networks or a model to evaluation.models")
        taken = {"pixels"} & (set(self.networks) | set(self.evaluation.models))
        taken |= set(self.networks) & set(self.evaluation.models)
        if taken:
            raise ValueError(f"the name {sorted(taken)[0]!r} is taken; rename that network or model")
        for label in self.rules:
            run = self.run(label)
            if label == "untrained" and run.kind != "untrained":
                raise ValueError("rules.untrained: the label is kept for the kind untrained; rename that rule")
            if run.noise.images > run.training.batch_size:
                raise ValueError(
                    f"rules.{label}: noise.images {run.noise.images} exceeds batch_size {run.training.batch_size}"
                )
        return self

    def labels(self) -> list[str]:
        """Labels of the rules, with `untrained` added when no rule of that kind is there."""
        kinds = {entry.kind for entry in self.rules.values()}
        return list(self.rules) + ([] if "untrained" in kinds else ["untrained"])

    def run(self, label: str) -> "Run":
        """The settings of one rule: the study's sections with the rule's own values laid over them."""
        entry = self.rules.get(label, RuleEntry(kind="untrained"))
        return Run(
            kind=entry.kind,
            training=_overlay(self.training, entry.training, f"rules.{label}.training"),
            noise=_overlay(self.noise, entry.noise, f"rules.{label}.noise"),
            diagnostics=self.diagnostics,
        )


class Run(Section):
    """Everything about one rule that decides the weights, beside network, data set and seed."""

    kind: str
    training: Training
    noise: Noise
    diagnostics: Diagnostics


def _overlay(base: S, override: dict[str, Any], place: str) -> S:
    """`base` with some values replaced, checked again; ValueError names the place."""
    try:
        return type(base)(**(base.model_dump() | override))
    except ValidationError as error:
        raise ValueError(f"{place}.{_one_line(error, type(base))}") from None


def load_study(path: Path) -> Study:
    """Read and check a study's YAML file.

    Raises:
        UserError: one line with the file, the place, what is wrong and, for a misspelt key, the
            nearest known one.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a YAML file of config/") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; give a YAML file of config/") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = str(getattr(error, "problem", error)).splitlines()[0]
        raise UserError(f"{path}{line}: not valid YAML ({problem}); mend it") from None
    return study_from(content, str(path))


def study_from(content: Any, source: str) -> Study:
    """Check the content of a study's file; `source` names it in errors (see `load_study`)."""
    if not isinstance(content, dict):
        raise UserError(f"{source}: expected keys and values; start from config/default.yaml")
    try:
        study = Study(**content)
    except ValidationError as error:
        raise UserError(f"{source}: {_one_line(error, Study)}") from None
    except TypeError:
        raise UserError(f"{source}: keys must be words; start from config/default.yaml") from None
    return study


def _one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake in words, and how many more there are."""
    first, *more = error.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        message = f"{place}: unknown key{did_you_mean(str(first['loc'][-1]), _known_keys(model, first['loc']))}"
    elif first["type"] == "missing":
        message = f"{place}: missing; add it"
    else:
        text = str(first["msg"]).removeprefix("Value error, ").replace("\n", " ")
        given = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
        message = f"{place}: {text}{given}" if place else text
    return message + (f" (and {len(more)} more)" if more else "")


def _known_keys(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Field names of the section that `place` points into."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = _section_of(field.annotation) or model
    return list(model.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The Section inside an annotation such as `dict[Name, RuleEntry]` or `Dataset | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None
