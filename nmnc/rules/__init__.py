"""Learning rules by name. To add one: a class in a file here and one line in RULES.

A rule turns the output error into a signal for every hidden stage, the (estimated) gradient of the loss
with respect to that stage's output. The loop (training.py), the optimiser, the seeds and the order of the
data are the same for all.
"""

from collections.abc import Callable

from nmnc.config import Noise
from nmnc.errors import UserError, did_you_mean
from nmnc.networks import Network
from nmnc.rules.adaptive import AdaptiveManifoldNoiseCorrelation
from nmnc.rules.base import Backprop, Rule, Untrained
from nmnc.rules.direct import DirectFeedbackAlignment, KolenPollack
from nmnc.rules.forward_direct import ForwardDirectFeedbackAlignment
from nmnc.rules.layerwise import FeedbackAlignment
from nmnc.rules.layerwise_noise import LayerwiseManifoldNoiseCorrelation, LayerwiseNoiseCorrelation
from nmnc.rules.manifold_noise import ManifoldNoiseCorrelation
from nmnc.rules.noise_correlation import NoiseCorrelation, RandomSubspace
from nmnc.rules.sign_symmetry import BatchwiseRandomSignFeedback, FixedRandomSignFeedback, UniformSignFeedback
from nmnc.rules.smooth_subspace import SmoothSubspace
from nmnc.rules.spectral import SpectralNoiseCorrelation
from nmnc.rules.weight_mirror import WeightMirror
from nmnc.settings import PERTURBING

__all__ = ["RULES", "Rule", "make_rule"]

#: kind -> how to make the rule.
RULES: dict[str, Callable[[Network, list[int], int, Noise, int], Rule]] = {
    "untrained": Untrained,
    "backprop": Backprop,
    "vnc": NoiseCorrelation,
    "nmnc": ManifoldNoiseCorrelation,
    "random_subspace": RandomSubspace,
    "smooth_subspace": SmoothSubspace,
    "fa": FeedbackAlignment,
    "dfa": DirectFeedbackAlignment,
    "kolen_pollack": KolenPollack,
    "fdfa": ForwardDirectFeedbackAlignment,
    "spectral": SpectralNoiseCorrelation,
    "weight_mirror": WeightMirror,
    "usf": UniformSignFeedback,
    "frsf": FixedRandomSignFeedback,
    "brsf": BatchwiseRandomSignFeedback,
}

#: Kinds whose noise.feedback layerwise is a rule of its own.
LAYERWISE = {"vnc": LayerwiseNoiseCorrelation, "nmnc": LayerwiseManifoldNoiseCorrelation}
#: Rules whose noise and feedback may take the forms that prediction error needs.
PREDICTING = ("vnc", "nmnc", "random_subspace", "smooth_subspace", "spectral", "weight_mirror")
#: Setting that not all of these follow -> those that do, and what to do with the others.
OWNERS: dict[str, tuple[tuple[str, ...], str]] = {
    "noise.feedback layerwise": (("nmnc", "vnc"), "give {kind} factored or full"),
    "noise.adaptive": (("nmnc",), "do not set it for {kind}"),
    "noise.mean_direction": (("nmnc",), "do not set it for {kind}"),
    "noise.basis incremental": (("nmnc",), "give {kind} window"),
    "noise.per_image": (("vnc", "nmnc", "random_subspace", "smooth_subspace"), "do not set it for {kind}"),
    "noise.estimator infinite": (("vnc", "nmnc", "random_subspace", "smooth_subspace"), "give {kind} antithetic"),
    "noise.learning prediction_error": (PREDICTING, "give {kind} correlation"),
    "noise.draws orthogonal": (PREDICTING, "give {kind} independent"),
}


def make_rule(kind: str, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> Rule:
    """The rule named `kind` (see `Rule.__init__`); UserError for an unknown name or impossible settings."""
    if kind not in RULES:
        raise UserError(f"rules: unknown kind {kind!r}{did_you_mean(kind, RULES)}")
    _refuse_foreign(kind, noise)
    if noise.feedback == "layerwise" and kind in LAYERWISE:
        return LAYERWISE[kind](network, sizes, classes, noise, seed)
    if kind == "nmnc" and noise.adaptive:
        return AdaptiveManifoldNoiseCorrelation(network, sizes, classes, noise, seed)
    return RULES[kind](network, sizes, classes, noise, seed)


def _refuse_foreign(kind: str, noise: Noise) -> None:
    """UserError for a setting that the rule would silently pass over, where rules of its family follow it."""
    if kind not in PERTURBING:
        return
    given = {
        "noise.feedback layerwise": noise.feedback == "layerwise",
        "noise.adaptive": noise.adaptive,
        "noise.mean_direction": noise.mean_direction,
        "noise.basis incremental": noise.basis == "incremental",
        "noise.per_image": noise.per_image,
        "noise.estimator infinite": noise.estimator == "infinite",
        "noise.learning prediction_error": noise.learning == "prediction_error",
        "noise.draws orthogonal": noise.draws == "orthogonal",
    }
    for setting, (owners, remedy) in OWNERS.items():
        if given[setting] and kind not in owners:
            rules = ("rules " if len(owners) > 1 else "rule ") + ", ".join(owners)
            raise UserError(f"{setting} is of the {rules} only; {remedy.format(kind=kind)}")
