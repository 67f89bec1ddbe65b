"""Which single trials were recorded: NaN where one is missing, for all neuroids of a recording or for some."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brain_eval.metrics.gram import RowError
from nmnc.errors import UserError

#: How often an image's trials are split again where some neuroid had none in one of the halves.
ATTEMPTS = 50

Mask = NDArray[np.bool_]


class Trials(NamedTuple):
    """Single-trial responses to the images that every neuroid has enough trials of.

    Attributes:
        values: (repetitions, n, neuroids) float64, 0 where missing.
        recorded: which trials exist, like `values`, or (repetitions, n, 1) where all neuroids have the same.
        images: (n,) positions among the images that were given.
    """

    values: NDArray[np.float64]
    recorded: Mask
    images: NDArray[np.intp]

    @property
    def partial(self) -> bool:
        """Whether some trials are missing for some neuroids only."""
        return self.recorded.shape[2] > 1

    def counts(self, chosen: Mask) -> NDArray[np.intp]:
        """How many of the chosen trials (repetitions, n) there are, (n, neuroids), or (n, 1) for all alike."""
        return np.asarray((chosen[..., None] & self.recorded).sum(axis=0))

    def means(self, chosen: Mask) -> NDArray[np.float64]:
        """Average each neuroid over those of the chosen trials (repetitions, n) that it has, (n, neuroids)."""
        sums = np.einsum("rn,rnp->np", chosen.astype(np.float64), self.values, optimize=True)
        return np.asarray(sums / self.counts(chosen))

    def of(self, which: Mask) -> "Trials":
        """Return the trials of some of the images, (n,) bool."""
        return Trials(self.values[:, which], self.recorded[:, which], self.images[which])


def recorded_trials(repetitions: NDArray[np.float64]) -> Mask:
    """Which trials there are, (repetitions, n, neuroids) bool, or (repetitions, n, 1) where all neuroids have the same.

    Raises:
        UserError: not (repetitions, n, neuroids); infinity (names repetition and row).
    """
    if repetitions.ndim != 3:
        raise UserError(f"repetitions must be repetitions x stimuli x neuroids, got shape {repetitions.shape}")
    infinite = np.isinf(repetitions).any(axis=2)
    if infinite.any():
        repetition, row = np.argwhere(infinite)[0]
        raise RowError(f"repetition {repetition} holds infinity", int(row), advice="set it to NaN, which is missing")
    recorded = ~np.isnan(repetitions)
    every = recorded.all(axis=2, keepdims=True)
    return every if np.array_equal(every, recorded.any(axis=2, keepdims=True)) else recorded


def trials_of(repetitions: NDArray[np.float64], needed: int) -> Trials:
    """Return the trials of the images of which every neuroid has at least `needed`.

    Args: repetitions (repetitions, n, neuroids), NaN where one is missing. Raises UserError as `recorded_trials`.
    """
    recorded = recorded_trials(repetitions)
    used = (recorded.sum(axis=0) >= needed).all(axis=1)
    return Trials(np.nan_to_num(repetitions[:, used], nan=0.0), recorded[:, used], np.flatnonzero(used))


def whole_trials(repetitions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (repetitions, n, neuroids) with the trials that some neuroid lacks set to NaN for all.

    What mixes neuroids, as whitening does, is defined for whole trials alone.
    """
    lacking = np.isnan(repetitions).any(axis=2)
    return np.where(lacking[..., None], np.nan, repetitions)


def random_halves_of_trials(trials: Trials, rng: np.random.Generator) -> tuple[Mask, Mask]:
    """Split each image's trials in two at random: which are in one half, which in the other, (repetitions, n).

    A trial stays whole, so that noise that neuroids share is in one half alone. Where trials are missing for some
    neuroids, those that the same neuroids have are shared out evenly between the halves. An odd trial falls to either
    half by chance.
    """
    available = trials.recorded.any(axis=2)
    repetitions, n = available.shape
    keys = np.where(available, rng.random((repetitions, n)), np.inf)
    order = np.argsort(np.argsort(keys, axis=0, kind="stable"), axis=0, kind="stable")
    first = order < (available.sum(axis=0) + (rng.random(n) < 0.5)) // 2
    if trials.partial:
        uneven = (available != trials.recorded.all(axis=2)).any(axis=0)
        for image in np.flatnonzero(uneven):
            first[:, image] = _first_half(trials.recorded[:, image], rng)
    return available & first, available & ~first


def _first_half(recorded: Mask, rng: np.random.Generator) -> Mask:
    """Which trials (repetitions,) of one image are in the first half; `recorded` is (repetitions, neuroids).

    Drawn again while some neuroid has a trial in one half only.
    """
    first = np.zeros(len(recorded), dtype=bool)
    for _ in range(ATTEMPTS):
        groups: dict[bytes, list[int]] = {}
        for trial in rng.permutation(np.flatnonzero(recorded.any(axis=1))):
            groups.setdefault(recorded[trial].tobytes(), []).append(int(trial))
        first[:] = False
        before = int(rng.integers(2))
        for group in groups.values():  # the odd trials of the groups go to either half in turn
            first[group[: (before + len(group)) // 2 - before // 2]] = True
            before += len(group)
        if recorded[first].any(axis=0).all() and recorded[~first].any(axis=0).all():
            break
    return first
