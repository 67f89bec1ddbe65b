"""RDMs and what compares them, CKA, encoding models: pure functions on arrays.

METRICS and RDMS are the registries. Importing them imports no numpy and no scipy.
"""

from typing import TYPE_CHECKING

from brain_eval.registry import Registry

if TYPE_CHECKING:
    from brain_eval.metrics.base import Metric, RdmKind

#: One line per metric: its name, and the module of this package that has its record.
METRICS: "Registry[Metric]" = Registry(
    "metric",
    __name__,
    {
        "spearman": "similarity",
        "rho-a": "similarity",
        "pearson": "similarity",
        "cosine": "similarity",
        "tau-a": "similarity",
        "whitened-cosine": "whitened",
        "whitened-correlation": "whitened",
        "cka-biased": "cka",
        "cka-unbiased": "cka",
        "ridge": "encoding",
        "pls": "encoding",
    },
)
#: The same for kinds of recorded RDMs.
RDMS: "Registry[RdmKind]" = Registry(
    "RDM of recordings",
    __name__,
    {
        "correlation": "rdms",
        "cosine": "rdms",
        "euclidean": "rdms",
        "mahalanobis": "mahalanobis",
        "crossnobis": "mahalanobis",
    },
)


def names() -> tuple[str, ...]:
    """Return the names of all metrics."""
    return tuple(METRICS)
