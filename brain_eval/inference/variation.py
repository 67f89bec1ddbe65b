"""How far a score would move with other stimuli, recordings and seeds: variances without double counting.

A comparison of RDMs is a mean over pairs of stimuli. Its variance over samples of stimuli has two parts
(Hoeffding 1948): L, from each stimulus' own influence, and Q, from the pairs beyond that. The jackknife
counts Q twice (Efron & Stein 1981), the bootstrap three times, since the counts w of a draw give
w_i w_j = 1 + e_i + e_j + e_i e_j: the first two terms carry L + 2Q, the last Q. For unrelated RDMs L is
nearly 0 and the bootstrap's interval is sqrt(3) times too wide. Here L + 2Q is taken from the influences,
Q from what the bootstrap's draws deviate from them, and the variance is their difference, L + Q.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

from brain_eval.inference.resampling import Matrix, Moments, Vector, weighted_correlations

#: Below it a p value is given as this: the quantiles that it is found from are finite above it.
SMALLEST_P = 1e-100


@dataclass(frozen=True)
class Variation:
    """One score's dependence on the sampled stimuli; those of several scores can be added and subtracted.

    Attributes:
        influence: (k,) float64; its sum of squares is the jackknife's variance, L + 2Q.
        remainder: (draws,) float64; its mean square estimates Q. NaN where a draw was unusable. Scores from the same
            draws vary together by the products of both.
        units: (k,) the benchmark's units that the influences are of: stimuli, or groups left out together.
    """

    influence: Vector
    remainder: Vector
    units: NDArray[np.intp]

    def times(self, factor: float) -> "Variation":
        """Return the variation of the score times a constant."""
        return Variation(factor * self.influence, factor * self.remainder, self.units)

    @property
    def n_draws(self) -> int:
        """Number of usable draws."""
        return int(np.isfinite(self.remainder).sum())


def variation_of_correlation(
    a: Moments, b: Moments, weights: Matrix, units: NDArray[np.intp], draws: int
) -> tuple[Variation, Vector]:
    """Return the variation of the correlation of two RDMs over n units, and (rows,) correlations under all weights.

    With standardised pairs a, b and correlation r, the kernel of the correlation is
    h_ij = a_ij b_ij - r (a_ij^2 + b_ij^2) / 2; the influence of stimulus i is its mean over j. Pairs that were ranked
    keep their ranks: the variation of the ranking itself is missing (1 to 2 % of the standard error in simulation).

    Args:
        a, b: moments of both RDMs under `weights`.
        weights: (rows, n) float64 stimulus counts.
        units: (n,) the stimuli.
        draws: number of rows, from the first on, that are the draws of a bootstrap.
    """
    n = weights.shape[1]
    products = a.matrix * b.matrix
    values = weighted_correlations(a, b, weights, products)
    correlation = float(products.sum() / (n * (n - 1)))
    rows = (products.sum(axis=1) - correlation * (a.squares + b.squares) / 2) / (n - 1)
    linear = (weights[:draws] - 1.0) @ (2 * rows / n)
    # The factors make both parts unbiased for U-statistics of n stimuli (Sen 1960; Efron & Stein 1981).
    influence = 2 * rows * np.sqrt((n - 1) / n) / max(n - 2, 1)
    remainder = (values[:draws] - correlation - linear) * np.sqrt(n / max(n - 2, 1))
    return Variation(influence, remainder, units), values


def variation_of_draws(
    score: float, draws: Vector, left_out: Vector, shares: Matrix, units: NDArray[np.intp], biased: bool = False
) -> Variation:
    """Return the variation of any score from draws of its units and from leaving each unit out.

    Args:
        score: of the full sample.
        draws: (draws,) scores of the draws, NaN where undefined.
        left_out: (k,) scores without each of the k units; NaN: the unit is taken to have no influence.
        shares: (draws, k) how often each unit is in each draw, relative to the full sample: counts of a bootstrap, or
            2 and 0 of a random half. Then the units' pairs show as in the module's head.
        units: (k,) which units they are.
        biased: the score is larger for fewer different units, as in the draws. The excess of their mean is then
            subtracted; without that, intervals of biased CKA and the whitened cosine covered 88 and 90 % instead of 95.
    """
    if biased and np.isfinite(draws).any():
        draws = draws + (score - draws[np.isfinite(draws)].mean())
    k = len(left_out)
    left_out = np.where(np.isfinite(left_out), left_out, score)
    away = left_out.mean() - left_out
    linear = (shares - 1.0) @ (away * (k - 1) / k)
    return Variation(away * np.sqrt((k - 1) / k), draws - score - linear, units)


def stacked(variations: Sequence[Variation]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores' influences (scores, all units), 0 where not recorded, and remainders (scores, draws)."""
    every = np.unique(np.concatenate([variation.units for variation in variations]))
    influence = np.zeros((len(variations), len(every)))
    for row, variation in enumerate(variations):
        influence[row, np.searchsorted(every, variation.units)] = variation.influence
    return influence, np.stack([variation.remainder for variation in variations])


class Part(NamedTuple):
    """A part of a variance, and the degrees of freedom with which it is known."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Spread:
    """The variance of a mean score, and the parts that it was put together from.

    Satterthwaite's degrees of freedom take the estimated parts for the true ones: a part that is known from two or
    three recordings and comes out small by chance would count for nothing, and intervals would cover 88 % instead of
    95. The quantile is therefore the mean of the parts' own (Cochran & Cox 1950, Experimental Designs; Cochran 1964,
    Biometrics 20:191).

    Attributes:
        variance: of the mean.
        parts: their variances need not add up to it, since what two of them share is counted once.
    """

    variance: float
    parts: tuple[Part, ...]

    @classmethod
    def of_sample(cls, variance: float, freedom: float) -> "Spread":
        """Return the spread of a plain sample: Student's t with these degrees of freedom."""
        return cls(variance, (Part(variance, freedom),))

    def and_also(self, variance: float, freedom: float) -> "Spread":
        """Return the spread with an independent part more."""
        return Spread(self.variance + variance, (*self.parts, Part(variance, freedom)))

    def quantile(self, upper: float) -> float:
        """Return how many standard errors the mean exceeds the truth by with the probability `upper`."""
        sizes, freedoms = np.array(self.parts, dtype=np.float64).T
        quantiles = -stdtrit(freedoms, upper)
        total = sizes.sum()
        return float(sizes @ quantiles / total if total > 0 else quantiles.max())

    def p_value(self, distance: float) -> float:
        """Return the two-sided p of a mean that lies so many standard errors from 0."""
        if distance == 0.0:
            return 1.0
        # Each part's own p is too small or too large; the root lies between them.
        ends = np.maximum(2 * stdtr([part.freedom for part in self.parts], -abs(distance)), SMALLEST_P)
        low, high = float(np.log(ends.min())), float(np.log(ends.max()))

        def excess(log_p: float) -> float:
            return self.quantile(np.exp(log_p) / 2) - abs(distance)

        if excess(high) >= 0:  # but for rounding the part of the least degrees of freedom is all
            return float(ends.max())
        if excess(low) <= 0:
            return float(ends.min())
        return float(np.exp(brentq(excess, low, high)))


def stimulus_variance(variation: Variation) -> Spread:
    """Return L + Q of one score; never below half the jackknife's L + 2Q, its smallest share."""
    jackknife, pairs = _squares(variation.influence), _mean_square(variation.remainder)
    return Spread.of_sample(max(jackknife - pairs, jackknife / 2), max(len(variation.influence) - 1, 1))


def joint_variance(values: Matrix, influence: NDArray[np.float64], remainder: NDArray[np.float64], n: int) -> Spread:
    """Return the spread of the mean over seeds and recordings, both and the stimuli being random samples.

    A single seed or recording is fixed: nothing is known about others. The parts are what scores of different seeds
    and recordings share through the stimuli (their mean covariance), and the spread over the means of seeds and of
    recordings, which has all else. What both spreads have is counted once (Cornfield & Tukey 1956; for stimuli and
    subjects Schuett et al. 2023, eLife 12:e82566, who correct a two-factor bootstrap likewise).

    Args:
        values: (seeds, recordings) float64 scores, or their differences.
        influence: (seeds, recordings, units) float64, of the union of all stimuli, 0 where not recorded.
        remainder: (seeds, recordings, draws) float64.
        n: units behind a recording, for the degrees of freedom of the part of the stimuli.
    """
    seeds, recordings = values.shape
    if seeds * recordings == 1:
        alone = stimulus_variance(Variation(influence[0, 0], remainder[0, 0], np.arange(influence.shape[2])))
        return Spread.of_sample(alone.variance, max(n - 1, 1))
    usable = np.isfinite(remainder).all(axis=(0, 1))
    shared = max(_shared(influence) - _shared(remainder[..., usable]) / max(int(usable.sum()), 1), 0.0)
    parts = [Part(shared, max(n - 1, 1))]
    for axis, size in ((1, seeds), (0, recordings)):
        if size > 1:
            parts.append(Part(float(values.mean(axis=axis).var(ddof=1)) / size, size - 1))
    total = sum(part.variance for part in parts)
    if seeds > 1 and recordings > 1:
        both = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0, keepdims=True) + values.mean()
        freedom = (seeds - 1) * (recordings - 1)
        twice = float((both**2).sum()) / freedom / (seeds * recordings)
        total = max(total - twice, *(part.variance for part in parts))
    return Spread(total, tuple(parts))


def _shared(vectors: NDArray[np.float64]) -> float:
    """Mean inner product of the vectors (seeds, recordings, k) of entries that differ in all that is random.

    Where seeds, or recordings, are one, that factor is fixed and need not differ.
    """
    seeds, recordings, _ = vectors.shape
    total, alone = _squares(vectors.sum(axis=(0, 1))), _squares(vectors)
    if seeds > 1 and recordings > 1:
        same_seed, same_recording = _squares(vectors.sum(axis=1)), _squares(vectors.sum(axis=0))
        entries = seeds * (seeds - 1) * recordings * (recordings - 1)
        return (total - same_seed - same_recording + alone) / entries
    k = max(seeds, recordings)
    return (total - alone) / (k * (k - 1))


def _squares(vectors: NDArray[np.float64]) -> float:
    return float(np.vdot(vectors, vectors))


def _mean_square(values: Vector) -> float:
    usable = values[np.isfinite(values)]
    return float(usable @ usable) / max(len(usable), 1)
