"""How well a network's features predict the responses of single neuroids to stimuli not used for fitting.

Brain-Score's procedure (Schrimpf et al. 2018): ten random splits, 90 % of the stimuli to fit, Pearson
correlation per neuroid between predicted and recorded responses to the rest.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from brain_eval.codes import Code
from brain_eval.metrics.base import EncodingMetric, Fold, Matrix
from brain_eval.metrics.gram import centred_gram, checked_rows
from brain_eval.metrics.regression import centred_on_training, pls_predictions, ridge_of_features, ridge_predictions
from brain_eval.metrics.repetitions import recorded_trials
from nmnc.errors import UserError

#: Components of PLS, number of splits, share of training stimuli and seed of the splits: Brain-Score's.
COMPONENTS, SPLITS, TRAIN_SIZE, SEED = 25, 10, 0.9, 1
REGRESSIONS = ("pls", "ridge")
#: Fewest test stimuli, or stimuli repeated in both halves, of which a correlation is made.
FEWEST = 3


class TooFew(UserError):
    """A recording, or a layer, too small for what is asked; others of the same study need not be."""


def splits_of(
    n: int, splits: int = SPLITS, train_size: float = TRAIN_SIZE, seed: int = SEED,
    strata: Sequence[object] | None = None,
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:  # fmt: skip
    """Split n stimuli at random into training and test stimuli, `splits` times, as Brain-Score does.

    With Brain-Score's 10, 0.9 and 1 the splits equal its own for stimuli in the assembly's order.

    Args:
        strata: one label per stimulus (e.g. the object); each label keeps its share in both parts. None: no strata.

    Returns:
        Positions (train,) and (test,) of each split.

    Raises:
        TooFew: fewer than 3 test stimuli, or a label that too few stimuli have.
    """
    from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

    if not 0.0 < train_size < 1.0 or n - int(n * train_size) < FEWEST:
        raise TooFew(
            f"{n} stimuli leave fewer than {FEWEST} to test at train_size {train_size}; "
            "use more stimuli or a smaller share"
        )
    if strata is None:
        return list(ShuffleSplit(splits, train_size=train_size, random_state=seed).split(np.zeros(n)))
    try:
        stratified = StratifiedShuffleSplit(splits, train_size=train_size, random_state=seed)
        return list(stratified.split(np.zeros(n), [str(label) for label in strata]))
    except ValueError as error:
        raise TooFew(f"the stimuli cannot be stratified ({error}); split them without strata") from None


def out_of_split(  # noqa: PLR0913
    features: ArrayLike, responses: ArrayLike, regression: str = "pls", *, seed: int = SEED,
    splits: int = SPLITS, train_size: float = TRAIN_SIZE, strata: Sequence[object] | None = None,
    components: int = COMPONENTS, penalties: Sequence[float] | None = None,
) -> list[Fold]:  # fmt: skip
    """Fit each split's training stimuli and predict the responses to its test stimuli.

    Memory beyond the features: one block of neuroids and a few matrices of stimuli x stimuli.

    Args:
        features: (n, p) of a layer, any real dtype; arithmetic is float64.
        responses: (n, neuroids), averaged over repetitions, the same stimuli in the same order.
        regression: "pls" with `components` latent variables (not scaled, as Brain-Score's pls), or "ridge", whose
            `penalties` are chosen per neuroid within the training stimuli (regression.ridge_predictions);
            penalties=[1.0] is Brain-Score's ridge.
        seed, splits, train_size, strata: see `splits_of`.

    Raises:
        UserError: unknown regression, NaN (names the row), different numbers of stimuli.
        TooFew: too few stimuli or features for PLS, or as `splits_of`.
    """
    if regression not in REGRESSIONS:
        raise UserError(f"unknown regression '{regression}'; choose from {', '.join(REGRESSIONS)}")
    values = checked_rows(features, what="encoding").values
    recorded = _checked_responses(responses, len(values))
    parts = splits_of(len(values), splits, train_size, seed, strata)
    n_train = min(len(train) for train, _ in parts)
    if regression == "pls" and not 1 <= components <= min(values.shape[1], n_train):
        raise TooFew(
            f"PLS with {components} components needs as many features and training stimuli, "
            f"got {values.shape[1]} and {n_train}; use fewer components"
        )
    few = regression == "ridge" and 2 * values.shape[1] <= n_train
    gram = np.zeros((0, 0)) if few else centred_gram(values)
    folds: list[Fold] = []
    for train, test in tqdm(parts, regression, disable=None, leave=False):
        if few:
            sides = values[train].astype(np.float64), values[test].astype(np.float64)
            predicted, _ = ridge_of_features(*sides, recorded[train], penalties)
        elif regression == "pls":
            predicted = pls_predictions(*centred_on_training(gram, train, test), recorded[train], components)
        else:
            predicted, _ = ridge_predictions(*centred_on_training(gram, train, test), recorded[train], penalties)
        folds.append(Fold(test, predicted))
    return folds


def correlated(folds: Sequence[Fold], responses: ArrayLike) -> NDArray[np.float64]:
    """Return Pearson r of predicted and recorded responses to test stimuli, (splits, neuroids) float64.

    NaN where a neuroid or its prediction is constant. Args: folds from `out_of_split`; responses (n, neuroids).
    """
    recorded = np.asarray(responses, dtype=np.float64)
    return np.stack([pearson_by_column(fold.predicted, recorded[fold.test]) for fold in folds])


def cross_validated(
    features: ArrayLike, responses: ArrayLike, regression: str = "pls", **options: Any
) -> NDArray[np.float64]:
    """Return the `correlated` of `out_of_split`, (splits, neuroids) float64; arguments and errors as there."""
    return correlated(out_of_split(features, responses, regression, **options), responses)


def _checked_responses(responses: ArrayLike, n: int) -> NDArray[np.float64]:
    recorded = np.asarray(responses, dtype=np.float64)
    if recorded.ndim != 2 or recorded.shape[0] != n or recorded.shape[1] < 1:
        raise UserError(
            f"responses must be {n} stimuli x neuroids as the features are, got shape {recorded.shape}; "
            "pass the same stimuli in the same order"
        )
    finite = np.isfinite(recorded).all(axis=1)
    if not finite.all():
        raise UserError(
            f"responses contain NaN or infinity in row {int(np.argmin(finite))}; fix or remove that stimulus"
        )
    return recorded


def pearson_by_column(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Pearson correlation of the columns of two (n, k) arrays, (k,); NaN where a column is constant."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    sizes = np.einsum("ij,ij->j", a, a), np.einsum("ij,ij->j", b, b)
    # A constant's mean may be off by its last bit.
    moving = [(np.ptp(x, axis=0) > 0) & (size > 0) for x, size in zip((a, b), sizes, strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.einsum("ij,ij->j", a, b) / (np.sqrt(sizes[0]) * np.sqrt(sizes[1]))
    return np.where(moving[0] & moving[1], np.clip(r, -1.0, 1.0), np.nan)


def reliability(repetitions: ArrayLike, splits: int = SPLITS, seed: int = SEED) -> NDArray[np.float64]:
    """Return the reliability of each neuroid's mean response over all repetitions, (neuroids,) float64, at most 1.

    The repetitions are halved at random; Pearson r over stimuli between the halves' means; Spearman-Brown
    2 r / (1 + r); mean over the splits. Brain-Score's internal consistency, split for split. NaN where a neuroid is
    constant or has fewer than 3 stimuli in both halves.

    Args:
        repetitions: (repetitions, n, neuroids) single-trial responses, NaN where one is missing: a half averages
            those it has, and a stimulus that a half lacks is left out of that split (for the neuroids that lack it).
        splits, seed: of the halving.

    Raises:
        UserError: not three-dimensional; infinity (names repetition and row).
        TooFew: fewer than 2 repetitions, or fewer than 3 stimuli in both halves for every neuroid.
    """
    from sklearn.model_selection import ShuffleSplit

    values = np.asarray(repetitions, dtype=np.float64)
    recorded = recorded_trials(values)
    if values.shape[0] < 2:
        raise TooFew(f"reliability needs at least 2 repetitions x stimuli x neuroids, got shape {values.shape}")
    reliabilities = np.empty((splits, values.shape[2]))
    halves = ShuffleSplit(splits, train_size=0.5, random_state=seed).split(np.zeros(len(values)))
    for index, (first, second) in enumerate(halves):
        reliabilities[index] = _reliability_of_split(values, recorded, first, second)
    return reliabilities.mean(axis=0)


def _reliability_of_split(
    values: NDArray[np.float64], recorded: NDArray[np.bool_], first: NDArray[np.intp], second: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return each neuroid's reliability by two halves of the repetitions.

    Neuroids with the same stimuli in both halves are computed together: all of them, where none lacks a trial alone.
    """
    both = recorded[first].any(axis=0) & recorded[second].any(axis=0)
    most = int(both.sum(axis=0).max(initial=0))
    if most < FEWEST:
        raise TooFew(f"only {most} stimuli were repeated in both halves; reliability needs {FEWEST}")
    r = np.full(values.shape[2], np.nan)
    patterns, whose = np.unique(both, axis=1, return_inverse=True)
    for number, stimuli in enumerate(patterns.T):
        if stimuli.sum() < FEWEST:
            continue
        neuroids = slice(None) if both.shape[1] == 1 else np.flatnonzero(whose.ravel() == number)
        means = []
        for part in (first, second):
            there = recorded[part][:, stimuli]
            there = there if both.shape[1] == 1 else there[:, :, neuroids]
            present = np.where(there, values[part][:, stimuli][:, :, neuroids], 0.0)
            means.append(present.sum(axis=0) / there.sum(axis=0))
        r[neuroids] = pearson_by_column(*means)
    with np.errstate(divide="ignore"):
        return 2 * r / (1 + r)


def corrected(correlations: NDArray[np.float64], reliabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return r / sqrt(reliability), r without the noise of the responses (Spearman 1904); it may exceed 1 by chance.

    Args:
        correlations: (..., neuroids), with the mean response over all repetitions.
        reliabilities: (neuroids,) of that mean; NaN is returned where one is unknown or not positive.
    """
    known = np.where(reliabilities > 0, reliabilities, np.nan)
    return correlations / np.sqrt(known)


def median_score(correlations: NDArray[np.float64]) -> float | None:
    """Return Brain-Score's summary of (splits, neuroids): the median over neuroids, then the mean over splits.

    Neuroids without a correlation are left out; None where a split has no other.
    """
    usable = [split[np.isfinite(split)] for split in np.atleast_2d(correlations)]
    if any(len(split) == 0 for split in usable):
        return None
    return float(np.mean([np.median(split) for split in usable]))


def _fit(
    features: NDArray[np.floating], responses: Matrix, strata: Sequence[object] | None, regression: str
) -> list[Fold]:
    """`out_of_split` as a record has it."""
    return out_of_split(features, responses, regression, strata=strata)


NOTE = (
    "The score is the median correlation over neuroids (neurons, sites or voxels), not corrected for their "
    "reliability; the corrected one is in the column ceiled of scores.csv. Intervals vary the test stimuli and "
    "keep the fits."
)
RECORDS = tuple(
    EncodingMetric(
        name=name,
        label=f"{label} regression, median r over neuroids",
        note=NOTE,
        fit=partial(_fit, regression=name),
        fewest_features=fewest,
        method=Code("test-stimuli", "test stimuli are drawn, fits are kept (their own variation is not included)"),
    )
    for name, label, fewest in (("ridge", "ridge", 1), ("pls", "PLS", COMPONENTS))
)
