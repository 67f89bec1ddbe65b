"""The sections of a study that decide the weights: data set, networks, training, noise, rules and their sweeps."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny

from nmnc.sections import Name, PathText, Section, Seed


class Dataset(Section):
    """The images a network is trained and tested on."""

    name: PathText = Field(
        description="or an .npz file, or a folder train/CLASS/*, test/CLASS/*",
        json_schema_extra={"registry": "nmnc.data.sources:SOURCES"},
    )
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

    kind: str = Field(
        description="or MODULE:FUNCTION that returns stages (docs/adding-a-network.md)",
        json_schema_extra={"registry": "nmnc.networks:NETWORKS"},
    )
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
        description="minutes between writes of the resume state within an epoch; it is also written after every epoch",
    )


class Noise(Section):
    """Noise of the perturbing rules, and learning from it (docs/method.md)."""

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
        description="activity that gives the basis: the last basis_images images, or (nmnc) all training batches, "
        "older activity weighted by half at every refresh",
    )
    basis_images: int = Field(
        128,
        ge=2,
        le=10**6,
        description="images whose activity gives the basis, or the first one; more than the number of components",
    )
    basis_every: int = Field(20, ge=1, le=10**9, description="batches between two refreshes of the basis")
    mean_direction: bool = Field(False, description="nmnc: add the mean activity's direction to the basis (d + 1 axes)")
    feedback: Literal["factored", "full", "layerwise"] = Field(
        "factored",
        description="subspace rules: coordinates in the basis or full matrices; nmnc and vnc: layer by layer",
    )
    adaptive: bool = Field(
        False, description="nmnc: choose d while training, starting from dimensions; set basis_images to 512 or more"
    )
    gamma: float = Field(
        0.5, ge=0, le=2, description="spectral: noise variance along an axis ~ activity variance^gamma"
    )


#: Most points in all sweeps of a study together.
MOST_POINTS = 5_000


class RuleEntry(Section):
    """One learning rule; `noise` and `training` override single values of the study's sections."""

    kind: str = Field(description="which rule", json_schema_extra={"registry": "nmnc.rule_kinds:RULES"})
    networks: list[Name] | None = Field(None, description="train only these networks by it; empty: all")
    seeds: list[Seed] | None = Field(None, min_length=1, description="empty: the study's")
    noise: dict[str, Any] = Field({}, description="values of the section noise that differ for this rule")
    training: dict[str, Any] = Field({}, description="values of the section training that differ for this rule")


class Sweep(Section):
    """Copies of some rules, one for every combination of other values.

    The copies are labelled RULE-KEY-VALUE. If all values equal the rule's, the rule itself is the point, provided that
    the sweep changes nothing else, except the number of epochs of a constant schedule.
    """

    rules: list[Name] = Field(min_length=1, description="labels of rules to copy")
    values: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        min_length=1, description="noise.KEY or training.KEY -> values"
    )
    training: dict[str, Any] = Field({}, description="values of the section training that differ for all copies")
    noise: dict[str, Any] = Field({}, description="values of the section noise that differ for all copies")
    networks: list[Name] | None = Field(None, description="train only these networks; empty: as the rule")
    seeds: list[Seed] | None = Field(None, min_length=1, description="empty: as the rule")


#: Default number of test images whose activity `python -m nmnc diagnose` measures.
ACTIVITY_IMAGES = 1000


class Diagnostics(Section):
    """Comparison of each rule with backprop's gradient, after every epoch."""

    images: int = Field(256, ge=2, le=10**6, description="fixed held-out images (the first of the test set)")


class Run(Section):
    """Settings of one rule that decide the weights, in addition to network, data set and seed."""

    kind: str
    training: Training
    noise: SerializeAsAny[Noise]
    diagnostics: Diagnostics
