"""The process whose memory bench/rdms.py measures: two sets of features of many stimuli are made and compared.

python bench/many_stimuli.py STIMULI NEUROIDS METRIC
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from peak_memory import peak_resident

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from brain_eval.metrics.similarity import compare_features


def main(n: int, neuroids: int, metric: str) -> None:
    """Print the similarity, the seconds, and the peak bytes before and after as JSON."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, neuroids), dtype=np.float32)
    others = features + rng.standard_normal((n, neuroids), dtype=np.float32)
    before, started = peak_resident(), time.perf_counter()
    value = compare_features(features, others, metric)
    seconds = time.perf_counter() - started
    print(json.dumps({"value": value, "seconds": seconds, "before": before, "peak": peak_resident()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
