"""Which repetitions of a stimulus were recorded: one that is missing is NaN for all neuroids."""

import numpy as np
from numpy.typing import NDArray

from nmnc.errors import UserError


def which_available(repetitions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which repetitions there are, (repetitions, n), of single-trial responses (repetitions, n, neuroids).

    Raises:
        UserError: not three-dimensional; infinity, or NaN for some neuroids only (names repetition and row).
    """
    if repetitions.ndim != 3:
        raise UserError(f"repetitions must be repetitions x stimuli x neuroids, got shape {repetitions.shape}")
    missing = np.isnan(repetitions)
    there = ~missing.any(axis=2)
    broken = np.isinf(repetitions).any(axis=2) | (there == missing.all(axis=2))
    if repetitions.shape[2] and broken.any():
        repetition, row = np.argwhere(broken)[0]
        raise UserError(
            f"repetition {repetition} holds infinity, or NaN for some neuroids only, in row {row}; "
            "make it NaN for all neuroids, as one that is missing, or leave those neuroids out"
        )
    return there
