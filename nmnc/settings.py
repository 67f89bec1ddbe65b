"""The sections of a study that decide the weights: data set, networks, training, noise, rules and their sweeps."""

import math
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from nmnc.errors import did_you_mean
from nmnc.validation import leaves, short

#: What a name is made of: it becomes a folder, a part of file names and of Snakemake's wildcards.
NAME_PATTERN, MOST_CHARACTERS = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", 200
Place = TypeVar("Place", str, Path)

#: Most bytes in the name of a file or folder (ext4, APFS and others).
MOST_BYTES_OF_A_NAME = 255
#: Characters that mean something else where Snakemake reads a path.
NOT_IN_PATHS = "{}"
#: Most points in all sweeps of a study together.
MOST_POINTS = 5_000


def usable_path(value: Place) -> Place:
    """Return a path as it is; ValueError for characters that Snakemake would not take as written, or too many."""
    text = str(value)
    unusable = next((mark for mark in text if mark in NOT_IN_PATHS or ord(mark) < 32 or ord(mark) == 127), None)
    if unusable is not None:
        raise ValueError(f"a path cannot have the character {unusable!r} here; rename the file or folder")
    if any(0xD800 <= ord(mark) < 0xE000 for mark in text):
        raise ValueError("the path is not UTF-8 text; rename the file or folder")
    if any(len(part.encode()) > MOST_BYTES_OF_A_NAME for part in Path(text).parts) or len(text) > 3000:
        raise ValueError(f"the path is too long ({len(text)} characters); shorten it")
    return value


Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=MOST_CHARACTERS)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
PathText = Annotated[str, Field(min_length=1), AfterValidator(usable_path)]
UserPath = Annotated[Path, AfterValidator(usable_path)]


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes and on as true; a number is not meant by it, nor true by 1."""
        kinds = leaves(cls.model_fields[str(info.field_name)].annotation)
        booleans = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, bool)]
        if booleans and kinds & {int, float} and bool not in kinds:
            raise ValueError("Input should be a number, not true or false")
        if bool in kinds and not isinstance(value, bool | None):
            raise ValueError("Input should be true or false")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _each_once(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list) and info.field_name not in ("mean", "std") and len(set(value)) != len(value):
            raise ValueError(f"{info.field_name} are repeated; give each once")
        return value


class Dataset(Section):
    """The images a network is trained and tested on."""

    name: PathText = Field(description="digits, cifar10, an .npz file, or a folder train/CLASS/*, test/CLASS/*")
    train_images: int | None = Field(None, ge=1, le=10**9, description="use the first N training images; empty: all")
    test_images: int | None = Field(None, ge=1, le=10**9, description="use the first N test images; empty: all")
    image_size: int | None = Field(
        None, ge=4, le=4096, description="resize to this many pixels a side; empty: as they are"
    )
    validation_images: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="test on the N training images after train_images instead of the test set (for searches)",
    )


class NetworkEntry(Section):
    """One network of the study."""

    kind: str = Field(description="convnet, mlp, resnet, alexnet, or MODULE:FUNCTION that returns stages (see docs)")
    arguments: dict[str, Any] = Field({}, description="arguments of that network")


class Training(Section):
    """Optimisation, the same loop for every rule."""

    epochs: int = Field(6, ge=0, le=10**6, description="passes over the training images")
    batch_size: int = Field(128, ge=1, le=10**6, description="images per step; a last incomplete batch is dropped")
    optimiser: Literal["sgd", "adam"] = Field("sgd", description="stochastic gradient descent with momentum, or Adam")
    learning_rate: float = Field(0.05, gt=0, le=1e30, description="step size")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd; first moment's decay (beta 1) of adam")
    weight_decay: float = Field(5e-4, ge=0, le=1e6, description="added to the gradient as weight_decay * weight")
    clip_norm: float | None = Field(
        1.0, gt=0, le=1e30, description="clip the whole gradient to this norm; empty: never"
    )
    schedule: Literal["constant", "cosine", "step"] = Field(
        "constant", description="step size over the run; step: a tenth after half and again after three quarters"
    )
    augmentation: Literal["none", "crop_flip"] = Field(
        "none", description="crop_flip: random crop after padding by an eighth of the side, random left-right flip"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the clean forward pass and the weights' gradients; bfloat16: by autocast; noise, signals, "
        "feedback and steps stay float32",
    )
    checkpoint_minutes: float | None = Field(
        10.0,
        gt=0,
        le=10**6,
        description="write the state a killed run resumes from this often, beside after every epoch",
    )


class Noise(Section):
    """The noise of the perturbing rules and what is learned from it (docs/method.md)."""

    dimensions: int = Field(
        64, ge=1, le=10**6, description="d, dimension of the subspace; sets the energy s^2 d of VNC too"
    )
    scale: float = Field(0.05, gt=0, le=1e6, description="s, standard deviation of the noise along each axis")
    images: int = Field(8, ge=1, le=10**6, description="M, images of the batch that are perturbed at each refresh")
    refresh_every: int = Field(1, ge=1, le=10**9, description="b, batches between two refreshes of the feedback")
    rate: float = Field(0.2, gt=0, le=1, description="eta, weight of the newest estimate in the running feedback")
    learning: Literal["correlation", "prediction_error"] = Field(
        "correlation",
        description="correlate noise with the response, or with what the feedback did not predict of it",
    )
    gain: float = Field(
        0.5, gt=0, le=1, description="g, of prediction_error: sets eta layer by layer, 1 the fastest on linear networks"
    )
    draws: Literal["independent", "orthogonal"] = Field(
        "independent",
        description="noise of successive images: independent, or along orthogonal axes until all are used",
    )
    estimator: Literal["antithetic", "one_sided", "forward_mode", "infinite"] = Field(
        "antithetic",
        description="response to noise: two-sided or one-sided difference, or exact (torch.func.jvp); infinite: no "
        "noise, the Jacobian that infinitely many perturbations of each image would find (a control: vnc, nmnc, "
        "random_subspace)",
    )
    per_image: bool = Field(
        False, description="no running feedback: each image's signal from its own noise; needs images = batch_size"
    )
    basis: Literal["window", "incremental"] = Field(
        "window",
        description="activity that gives the basis: the last basis_images images, or (nmnc) all training batches, what "
        "is older weighing half as much from refresh to refresh",
    )
    basis_images: int = Field(
        128,
        ge=2,
        le=10**6,
        description="images whose activity gives the basis, or the first one; more than the components asked for",
    )
    basis_every: int = Field(20, ge=1, le=10**9, description="batches between two refreshes of the basis")
    mean_direction: bool = Field(False, description="nmnc: add the mean activity's direction to the basis (d + 1 axes)")
    feedback: Literal["factored", "full", "layerwise"] = Field(
        "factored",
        description="subspace rules: coordinates in the basis or full matrices; nmnc and vnc: layer by layer",
    )
    adaptive: bool = Field(
        False, description="nmnc: choose d while training, starting from dimensions; wants basis_images of 512 or more"
    )
    gamma: float = Field(
        0.5, ge=0, le=2, description="spectral: noise variance along an axis ~ activity variance^gamma"
    )


class RuleEntry(Section):
    """One learning rule; `noise` and `training` override single values of the study's sections."""

    kind: str = Field(
        description="backprop, vnc, nmnc, random_subspace, smooth_subspace, spectral, fa, dfa, kolen_pollack, "
        "weight_mirror, fdfa, usf, frsf, brsf or untrained"
    )
    networks: list[Name] | None = Field(None, description="train only these networks by it; empty: all")
    seeds: list[Seed] | None = Field(None, min_length=1, description="empty: the study's")
    noise: dict[str, Any] = Field({}, description="values of the section noise that differ for this rule")
    training: dict[str, Any] = Field({}, description="values of the section training that differ for this rule")


class Sweep(Section):
    """Further entries of the section rules: copies of some rules with other values, all combinations of them.

    The copies are labelled RULE-KEY-VALUE; where all values are the rule's own, the rule itself is the point, provided
    that the sweep changes nothing else but the number of epochs of a constant schedule, whose states the rule passes.
    """

    rules: list[Name] = Field(min_length=1, description="labels of rules to copy")
    values: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        min_length=1, description="noise.KEY or training.KEY -> values"
    )
    training: dict[str, Any] = Field({}, description="values of the section training that differ for all copies")
    noise: dict[str, Any] = Field({}, description="values of the section noise that differ for all copies")
    networks: list[Name] | None = Field(None, description="train only these networks; empty: as the rule")
    seeds: list[Seed] | None = Field(None, min_length=1, description="empty: as the rule")


#: Kinds of rules that perturb images of the batch: the first `noise.images` of them.
PERTURBING = ("vnc", "nmnc", "random_subspace", "smooth_subspace", "spectral", "fdfa")
#: Test images whose activity `python -m nmnc diagnose` looks at, unless told otherwise.
ACTIVITY_IMAGES = 1000


class Diagnostics(Section):
    """Comparison of each rule with backprop's gradient, after every epoch."""

    images: int = Field(256, ge=2, le=10**6, description="fixed held-out images (the first of the test set)")


class Run(Section):
    """Everything about one rule that decides the weights, beside network, data set and seed."""

    kind: str
    training: Training
    noise: Noise
    diagnostics: Diagnostics


class Point(NamedTuple):
    """One point of a sweep: the rule it copies, its values by key, its own label and entry."""

    rule: str
    values: dict[str, Any]
    label: str
    entry: RuleEntry


def points_of(rules: dict[str, RuleEntry], training: Training, noise: Noise, sweep: Sweep) -> Iterator[Point]:
    """The points of a sweep over rules of a study with these sections; ValueError for an unknown rule or key."""
    number = len(sweep.rules) * math.prod(len(values) for values in sweep.values.values())
    if number > MOST_POINTS:
        raise ValueError(f"{number} points, at most {MOST_POINTS} are possible; give fewer values")
    for key, given in sweep.values.items():
        if any(value in given[:place] for place, value in enumerate(given)):
            raise ValueError(f"values.{key}: a value is repeated; give each once")
    bases = {"training": training.model_dump(), "noise": noise.model_dump()}
    for rule, chosen in product(sweep.rules, product(*sweep.values.values())):
        if rule not in rules:
            raise ValueError(f"unknown rule {rule!r}{did_you_mean(rule, rules)}")
        entry = rules[rule]
        values = dict(zip(sweep.values, chosen, strict=True))
        sections = {"training": entry.training | sweep.training, "noise": entry.noise | sweep.noise}
        schedule = (bases["training"] | sections["training"])["schedule"]
        same = not sweep.noise and sweep.training.keys() <= ({"epochs"} if schedule == "constant" else set())
        for key, value in values.items():
            section, _, name = key.partition(".")
            if section not in bases or name not in bases[section]:
                known = [f"{part}.{field}" for part, fields in bases.items() for field in fields]
                raise ValueError(f"unknown key {key!r}{did_you_mean(key, known)}")
            same = same and (bases[section] | sections[section])[name] == value
            sections[section][name] = value
        if same:
            yield Point(rule, values, rule, entry)
            continue
        words = [rule, *(f"{key.partition('.')[2]}-{value}" for key, value in values.items())]
        label = "-".join(words)
        if not re.fullmatch(NAME_PATTERN, label) or len(label) > MOST_CHARACTERS:
            raise ValueError(
                f"{short(label)} cannot be a label: letters, digits, _ . - only, at most 200; give other values"
            )
        changed = {"networks": sweep.networks or entry.networks, "seeds": sweep.seeds or entry.seeds}
        yield Point(rule, values, label, entry.model_copy(update=sections | changed))
