"""Sections of a study as tests give them: also with values below the limits that a study's file must keep."""

from typing import Any

from brain_eval.activations.reductions.reduction import WHOLE, Reduction
from brain_eval.activations.settings import Activations
from brain_eval.scoring.settings import Scoring


def kept(reduction: Reduction = WHOLE, **values: Any) -> Activations:
    """What is kept of the activity."""
    keys = ("reduction", "reduction_dimensions", "reduction_seed")
    reduced = dict(zip(keys, (reduction.name, reduction.dimensions, reduction.seed), strict=True))
    return Activations.model_construct(**reduced, **values)


def scoring(**values: Any) -> Scoring:
    """How layers are compared: few draws unless told otherwise."""
    return Scoring.model_construct(**({"bootstrap_draws": 60} | values))
