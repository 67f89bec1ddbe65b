"""Fewer values a layer: spatial mean, principal components, random projection. The registry; importing it is cheap."""

from typing import TYPE_CHECKING

from brain_eval.registry import Registry

if TYPE_CHECKING:
    from brain_eval.activations.reductions.reduction import Method

#: One line per reduction: its name, and the module of this package that has its record.
REDUCTIONS: "Registry[Method]" = Registry(
    "reduction",
    __name__,
    {
        "none": "reduction",
        "spatial_mean": "spatial_mean",
        "pca": "principal_layers",
        "random_projection": "random_projection",
    },
)
