"""What tests of recorded layers share."""

import numpy as np
import pytest

from brain_eval.benchmarks.base import Benchmark, Description, stimuli_in_memory
from tests.brain_eval.activations.recorded import SIZE, N


@pytest.fixture
def toy() -> Benchmark:
    rng = np.random.default_rng(0)
    # Ever brighter, so that no two images or batches are alike.
    images = (rng.random((N, SIZE, SIZE, 3)) * np.linspace(90, 256, N)[:, None, None, None]).astype(np.uint8)
    return Benchmark(
        Description("toy", 1, (), (), "", ""), stimuli_in_memory("toy", [f"s{i:02}" for i in range(N)], images)
    )
