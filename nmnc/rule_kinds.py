"""Learning rules by name. To add one: a class in a new file of nmnc/rules, and one line in RULES here.

This module does not import torch, so that a study's file is checked in half a second; `nmnc.rules.make_rule` imports
the class.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from nmnc.errors import did_you_mean
from nmnc.settings import Noise


class RuleKind(NamedTuple):
    """One learning rule.

    Attributes:
        rule: MODULE:CLASS of a `nmnc.rules.base.Rule`.
        settings: model of the section noise; a subclass of `Noise` adds keys, with defaults, that a study may set
            below `rules.LABEL.noise`.
        perturbs: whether the rule perturbs the first `noise.images` images of a batch. Such a rule refuses the
            `OPTIONS` that it does not support.
        components: whether its basis is the principal components of the activity of `noise.basis_images` images.
        options: supported names in `OPTIONS` -> MODULE:CLASS that replaces `rule` then, "" for none.
    """

    rule: str
    settings: type[Noise] = Noise
    perturbs: bool = False
    components: bool = False
    options: Mapping[str, str] = {}


class Option(NamedTuple):
    """A setting that only some perturbing rules support: whether it is used, and the remedy for other rules."""

    given: Callable[[Noise], bool]
    remedy: str


OPTIONS = {
    "noise.feedback layerwise": Option(
        lambda noise: noise.feedback == "layerwise", "set noise.feedback to factored or full for {kind}"
    ),
    "noise.adaptive": Option(lambda noise: noise.adaptive, "remove it for {kind}"),
    "noise.mean_direction": Option(lambda noise: noise.mean_direction, "remove it for {kind}"),
    "noise.basis incremental": Option(
        lambda noise: noise.basis == "incremental", "set noise.basis to window for {kind}"
    ),
    "noise.per_image": Option(lambda noise: noise.per_image, "remove it for {kind}"),
    "noise.estimator infinite": Option(
        lambda noise: noise.estimator == "infinite", "set noise.estimator to antithetic for {kind}"
    ),
    "noise.learning prediction_error": Option(
        lambda noise: noise.learning == "prediction_error", "set noise.learning to correlation for {kind}"
    ),
    "noise.draws orthogonal": Option(
        lambda noise: noise.draws == "orthogonal", "set noise.draws to independent for {kind}"
    ),
}
PREDICTION = {"noise.learning prediction_error": "", "noise.draws orthogonal": ""}
AVERAGES = {"noise.per_image": "", "noise.estimator infinite": ""} | PREDICTION

RULES: dict[str, RuleKind] = {
    "untrained": RuleKind("nmnc.rules.base:Untrained"),
    "backprop": RuleKind("nmnc.rules.base:Backprop"),
    "vnc": RuleKind(
        "nmnc.rules.noise_correlation:NoiseCorrelation",
        perturbs=True,
        options={"noise.feedback layerwise": "nmnc.rules.layerwise_noise:LayerwiseNoiseCorrelation"} | AVERAGES,
    ),
    "nmnc": RuleKind(
        "nmnc.rules.manifold_noise:ManifoldNoiseCorrelation",
        perturbs=True,
        components=True,
        options={
            "noise.feedback layerwise": "nmnc.rules.layerwise_noise:LayerwiseManifoldNoiseCorrelation",
            "noise.adaptive": "nmnc.rules.adaptive:AdaptiveManifoldNoiseCorrelation",
            "noise.mean_direction": "",
            "noise.basis incremental": "",
        }
        | AVERAGES,
    ),
    "random_subspace": RuleKind("nmnc.rules.noise_correlation:RandomSubspace", perturbs=True, options=AVERAGES),
    "smooth_subspace": RuleKind("nmnc.rules.smooth_subspace:SmoothSubspace", perturbs=True, options=AVERAGES),
    "fa": RuleKind("nmnc.rules.layerwise:FeedbackAlignment"),
    "dfa": RuleKind("nmnc.rules.direct:DirectFeedbackAlignment"),
    "kolen_pollack": RuleKind("nmnc.rules.direct:KolenPollack"),
    "fdfa": RuleKind("nmnc.rules.forward_direct:ForwardDirectFeedbackAlignment", perturbs=True),
    "spectral": RuleKind(
        "nmnc.rules.spectral:SpectralNoiseCorrelation", perturbs=True, components=True, options=PREDICTION
    ),
    "weight_mirror": RuleKind("nmnc.rules.weight_mirror:WeightMirror", options=PREDICTION),
    "usf": RuleKind("nmnc.rules.sign_symmetry:UniformSignFeedback"),
    "frsf": RuleKind("nmnc.rules.sign_symmetry:FixedRandomSignFeedback"),
    "brsf": RuleKind("nmnc.rules.sign_symmetry:BatchwiseRandomSignFeedback"),
}


def rule_kind(kind: str) -> RuleKind:
    """Return the rule of that name; ValueError for an unknown one."""
    if kind not in RULES:
        raise ValueError(f"unknown kind {kind!r}{did_you_mean(kind, RULES)}")
    return RULES[kind]


def modules_of(kind: str) -> list[str]:
    """Return the modules that a rule is made of, whatever its options; ValueError for an unknown one."""
    rule = rule_kind(kind)
    return sorted({place.partition(":")[0] for place in (rule.rule, *rule.options.values()) if place})


def refuse_unsupported(kind: str, noise: Noise) -> None:
    """Raise ValueError for an option of the noise that a perturbing rule does not support."""
    rule = rule_kind(kind)
    for name, option in OPTIONS.items():
        if rule.perturbs and name not in rule.options and option.given(noise):
            supporters = [label for label, entry in RULES.items() if name in entry.options]
            rules = ("rules " if len(supporters) > 1 else "rule ") + ", ".join(supporters)
            raise ValueError(f"{name} works only with the {rules}; {option.remedy.format(kind=kind)}")


def refuse_misfits(kind: str, noise: Noise, batch_size: int) -> None:
    """Raise ValueError for settings of the noise that do not fit one another or the batch."""
    rule = rule_kind(kind)
    given = {name for name in rule.options if OPTIONS[name].given(noise)}
    components = noise.dimensions * (2 if noise.adaptive else 1)
    if rule.perturbs and noise.images > batch_size:
        raise ValueError(f"noise.images {noise.images} exceeds batch_size {batch_size}; lower noise.images")
    if rule.components and noise.basis_images <= components:
        raise ValueError(
            f"{components} principal components need the activity of more images than noise.basis_images "
            f"{noise.basis_images}; increase noise.basis_images"
        )
    if "noise.basis incremental" in given and batch_size == 1:
        raise ValueError(
            "noise.basis incremental compares the images of a batch; set batch_size to 2 or more, or noise.basis to "
            "window"
        )
    if "noise.per_image" in given and noise.images != batch_size:
        raise ValueError(
            f"with noise.per_image all images of a batch need noise; set noise.images to the batch_size {batch_size}"
        )
