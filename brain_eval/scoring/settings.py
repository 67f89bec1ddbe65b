"""Settings of scoring: the keys of a study's section `evaluation` that define how layers are compared."""

from typing import Annotated

from pydantic import AfterValidator, Field

from brain_eval.metrics import METRICS, RDMS
from nmnc.sections import Section, Seed

Metric = Annotated[str, AfterValidator(METRICS.checked)]
RecordedRdm = Annotated[str, AfterValidator(RDMS.checked)]


class Scoring(Section):
    """How layers are compared with recordings."""

    metrics: list[Metric] = Field(
        ["spearman", "rho-a"],
        min_length=1,
        description="comparisons of RDMs (tau-a is slow); cka-biased, cka-unbiased, ridge (slow) and pls (very slow) "
        "where there are responses",
        json_schema_extra={"registry": "brain_eval.metrics:METRICS"},
    )
    recorded_rdms: list[RecordedRdm] = Field(
        ["correlation"],
        min_length=1,
        description="kinds of the recordings' RDMs, each compared by every metric of RDMs; all but correlation need "
        "responses, mahalanobis and crossnobis repetitions; in scores.csv the metric is then crossnobis-spearman",
        json_schema_extra={"registry": "brain_eval.metrics:RDMS"},
    )
    bootstrap_draws: int = Field(
        1000,
        ge=1,
        le=10**6,
        description="draws behind each interval; under 100 only to try things out",
        json_schema_extra={"option": "--draws"},
    )
    confidence: float = Field(0.95, ge=0.5, le=0.999, description="coverage of each interval")
    seed: Seed = Field(0, description="seed of the bootstrap")
