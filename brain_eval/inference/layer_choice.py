"""Which layer is compared with a region: chosen on one half of the stimuli, scored on the other.

Picking the best layer on the images used for scoring inflates the score (a winner's curse). Here each random half of
the stimuli chooses the layer with the highest score, averaged over the region's recordings, and the other half scores
that layer; both ways, for every split. The result also has the whole layer x region table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brain_eval.inference.draws import Drawn, Recordings
from brain_eval.inference.resampling import generator

COLUMNS = (
    "network", "rule", "kind", "seed", "benchmark", "species", "region", "metric", "layer", "raw", "half",
    "chosen", "same_images", "n_choices",
)  # fmt: skip
#: Drawn to find what a choice varies.
DATA_SETS = 1000
#: In the column layer: the row of the choice.
CHOSEN = "chosen on held-out images"


@dataclass(frozen=True)
class Choice:
    """The choice of a layer, over all halves.

    Attributes:
        chosen: (layers,) fraction of halves in which each layer was chosen.
        held_out: mean score of the chosen layer on the half that did not choose.
        same_images: mean score of the chosen layer on the half that chose it, which is too high.
        n_choices: halves that chose.
    """

    chosen: NDArray[np.float64]
    held_out: float
    same_images: float
    n_choices: int


def choose_layer(half: NDArray[np.float64]) -> Choice | None:
    """Choose a layer on each half of the stimuli and score it on the other; None where no half could choose.

    Args:
        half: (layers, 2 * splits) float64: the score of each layer on a half and on the other half, split after
            split; NaN where undefined. A layer that is undefined on a half is not chosen there.
    """
    other = half.reshape(len(half), -1, 2)[:, :, ::-1].reshape(half.shape)
    usable = np.isfinite(half) & np.isfinite(other)
    able = np.flatnonzero(usable.any(axis=0))
    if len(able) == 0:
        return None
    best = np.where(usable, half, -np.inf)[:, able].argmax(axis=0)
    chosen = np.bincount(best, minlength=len(half)) / len(able)
    return Choice(chosen, float(other[best, able].mean()), float(half[best, able].mean()), len(able))


def variance_of_choice(
    scores: NDArray[np.float64], influence: NDArray[np.float64], remainder: NDArray[np.float64],
    shares: NDArray[np.float64], splits: int,
) -> float:  # fmt: skip
    """Return what the choice of layers adds to the variance of the mean held-out score, beyond that of the layers.

    A layer that is ahead on the whole sample by chance is chosen more often, and its held-out score is ahead too:
    without this part intervals covered the true value in 87 to 93 % of simulations (docs/statistics.md). It is found
    by drawing normal errors of the scores: on one half of the stimuli those of the whole sample plus a deviation, on
    the other half minus that deviation, which varies as the whole sample does. Of several seeds only what their
    choices share through the stimuli is returned: the rest is in the spread over the seeds.

    Args:
        scores: (seeds, layers) on all stimuli, the truth of the drawn data sets; any number where a share is 0.
        influence, remainder: (seeds, layers, units), (seeds, layers, draws), see brain_eval.inference.variation.
        shares: (seeds, layers) fraction of halves in which each layer was chosen; 0 is returned if all are 0 or 1.
        splits: random splits in two halves.
    """
    if (shares.max(axis=1) == 1).all():
        return 0.0
    able, (seeds, layers) = shares.ravel() > 0, shares.shape
    linear, pairs = (part.reshape(seeds * layers, -1)[able] for part in (influence, remainder))
    jackknife, pairs = linear @ linear.T, pairs[:, np.isfinite(pairs).all(axis=0)]
    covariance = jackknife - pairs @ pairs.T / max(pairs.shape[1], 1)
    # As for one score: never below half the jackknife's variance.
    covariance[np.diag_indices(len(covariance))] = np.maximum(np.diag(covariance), np.diag(jackknife) / 2)
    rng, (values, axes) = generator(0, "choice of a layer"), np.linalg.eigh(covariance)
    factor = np.zeros((seeds * layers, len(values)))
    factor[able] = axes * np.sqrt(np.clip(values, 0, None))
    errors, apart = (
        (rng.standard_normal((DATA_SETS, number, len(values))) @ factor.T).reshape(DATA_SETS, number, seeds, layers)
        for number in (1, splits)
    )
    apart = np.concatenate([apart, -apart], axis=1)
    best = (np.where(shares > 0, scores, -np.inf) + errors + apart).argmax(axis=3)
    held_out = np.take_along_axis(errors - apart, best[..., None], axis=3)[..., 0].mean(axis=1)
    beyond = np.atleast_2d(np.cov(held_out.T) - np.cov((errors[:, 0] * shares).sum(axis=2).T))
    shared = beyond if seeds == 1 else beyond[~np.eye(seeds, dtype=bool)]
    return max(0.0, float(shared.mean()))


def choose_layers(draws: Mapping[tuple[str, str], Drawn]) -> list[dict[str, Any]]:
    """Return the layer x region table of one model, and below each region the choice.

    Args:
        draws: of the model, by (benchmark, metric), as draws.read_draws returns them.

    Returns:
        Rows of COLUMNS without the model's identity. `raw` is the layer's score on all stimuli, `half` its mean score
        on half of them, `chosen` the fraction of halves that chose it. In the row CHOSEN `half` is the held-out score
        of whatever was chosen, and `same_images` its score on the half that chose.
    """
    rows: list[dict[str, Any]] = []
    for (benchmark, metric), drawn in draws.items():
        for species, region in dict.fromkeys(label[2:] for label in drawn.labels):
            recordings = Recordings(species, region).among(drawn.labels)
            half = drawn.half[:, recordings].mean(axis=1)
            choice = choose_layer(half)
            if choice is None:
                continue
            where = {"benchmark": benchmark, "species": species, "region": region, "metric": metric}
            for number, layer in enumerate(drawn.layers):
                cells = {"raw": drawn.raw[number, recordings].mean(), "half": half[number].mean()}
                known = {key: float(value) if np.isfinite(value) else None for key, value in cells.items()}
                rows.append(where | {"layer": layer} | known | {"chosen": float(choice.chosen[number])})
            summary = {"layer": CHOSEN, "half": choice.held_out, "same_images": choice.same_images}
            rows.append(where | summary | {"n_choices": choice.n_choices})
    return rows
