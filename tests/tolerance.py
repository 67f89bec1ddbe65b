"""How far two right computations of one number may lie apart: what rounding makes of it, on any machine."""

import numpy as np
from numpy.typing import DTypeLike


def tolerance(condition: float = 1.0, steps: int = 1, dtype: DTypeLike = np.float64) -> float:
    """Relative to the size of the result: one rounding a step, all the same way, times the problem's condition.

    Args:
        condition: by how much the problem itself enlarges a relative change of what it is given.
        steps: terms of the longest sum.
        dtype: of the arithmetic.
    """
    return condition * steps * float(np.finfo(dtype).eps)
