"""The file of predictions, docs/predictions.yaml: claims, predictions, figures and the paper's words."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, ValidationError, model_validator

from nmnc.errors import UserError, did_you_mean
from nmnc.files.reading import read_yaml
from nmnc.settings import Section
from nmnc.validation import one_line
from workflow.claims import quantities, signals
from workflow.claims.law import LawAgreement

#: What a prediction may name.
QUANTITIES: dict[str, type[quantities.Quantity]] = {
    "alignment_difference": signals.AlignmentDifference,
    "alpha_over_chance": signals.AlphaOverChance,
    "alpha_level": signals.AlphaLevel,
    "alpha_growth": signals.AlphaGrowth,
    "angle_difference": signals.AngleDifference,
    "dimension_slope": quantities.DimensionSlope,
    "accuracy_difference": quantities.AccuracyDifference,
    "gap_closed": quantities.GapClosed,
    "perturbations_ratio": quantities.PerturbationsRatio,
    "sweep_difference": quantities.SweepDifference,
    "sweep_contrast": quantities.SweepContrast,
    "sweep_slope": quantities.SweepSlope,
    "sweep_step": quantities.SweepStep,
    "width_slope": quantities.WidthSlope,
    "law_agreement": LawAgreement,
    "similarity_difference": quantities.SimilarityDifference,
    "signal_loss_difference": signals.SignalLossDifference,
    "estimation_loss": signals.EstimationLoss,
}


class Prediction(Section):
    """A prediction, the quantity that tests it, and the threshold above or below which it is supported."""

    says: str
    quantity: str
    arguments: dict[str, Any]
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> "Prediction":
        if (self.above is None) == (self.below is None):
            raise ValueError("give one threshold, either above or below")
        if self.quantity not in QUANTITIES:
            raise ValueError(f"unknown quantity {self.quantity!r}{did_you_mean(self.quantity, QUANTITIES)}")
        try:
            _ = self.measured
        except ValidationError as error:
            raise ValueError(f"{self.quantity}: {one_line(error, QUANTITIES[self.quantity])}") from None
        return self

    @cached_property
    def measured(self) -> quantities.Quantity:
        """The quantity with its arguments."""
        return QUANTITIES[self.quantity](**self.arguments)

    @property
    def side(self) -> str:
        """The side of the threshold that was predicted."""
        return "above" if self.below is None else "below"

    @property
    def threshold(self) -> float:
        """The threshold."""
        return float(self.below if self.above is None else self.above)  # type: ignore[arg-type]


class FigureEntry(Section):
    """A figure of a claim, drawn from a table of tables/claims.

    Attributes:
        title, caption: {SECTION.KEY} in a caption is that parameter of the first rule, {RULE:SECTION.KEY} of a rule.
        table: its name; `compared` and `border` have figures of their own, which need only `where` and `bases`.
        where: column -> values shown, in their order.
        panels: columns whose combinations have a panel each, so many `columns` of them, each of a `height` in inches.
        x, y: column, and label of the axis.
        colours, dashes, lines: columns that tell lines apart by colour, by dashes, and without being seen.
        logarithmic: axes.
        bases: rules with which the labels of others are compared.
    """

    title: str
    caption: str
    table: str
    where: dict[str, list[str | float]] = Field({})
    panels: list[str] = Field([])
    columns: int = Field(4, ge=1, le=4)
    height: float = Field(2.2, gt=0)
    sharey: bool = True
    x: str = ""
    y: str = ""
    colours: str = "rule"
    dashes: str = ""
    lines: str = ""
    logarithmic: Literal["", "x", "xy"] = ""
    bases: list[str] = Field([])


class Claim(Section):
    """A claim of the paper; `short` is its name in figures."""

    title: str
    predictions: dict[str, Prediction]
    short: str = ""
    figures: dict[str, FigureEntry] = Field({})


class Names(Section):
    """The paper's words for what tables name by a key.

    Attributes:
        words: of kinds, columns and their values.
        parameters: SECTION.KEY -> words with {} for the value; SECTION.KEY=VALUE -> words for one value.
    """

    words: dict[str, str] = Field({})
    parameters: dict[str, str] = Field({})

    def label(self, key: object) -> str:
        """Return the words for a key, or the key without underscores."""
        return self.words.get(str(key), str(key).replace("_", " "))

    def labels(self, runs: pd.DataFrame, labels: Sequence[str], bases: Sequence[str]) -> dict[str, str]:
        """Name rules by their kind and the parameters in which each differs from the base of its kind.

        Args:
            runs: tables/runs.csv, a row per label, which is the index.
            labels: of the rules.
            bases: labels to compare with; where a kind has none, the first of `labels`.
        """
        kinds: dict[str, str] = runs["kind"].to_dict()  # type: ignore[assignment]
        first: dict[str, str] = {}
        for label in (label for label in (*bases, *labels) if label in kinds):
            first.setdefault(kinds[label], label)
        return {
            label: ", ".join([self.label(kinds[label]), *self.differences(runs, label, first[kinds[label]])])
            for label in labels
        }

    def differences(self, runs: pd.DataFrame, label: str, base: str) -> list[str]:
        """Name the parameters in which a rule differs from another."""
        known = dict.fromkeys([*(name.partition("=")[0] for name in self.parameters), *runs])
        found = []
        for name in known:
            value, other = (
                shown(runs.at[rule, name]) if "." in name and name in runs else "" for rule in (label, base)
            )
            if value != other:
                template = self.parameters.get(f"{name}={value}", self.parameters.get(name, f"{name} = {{}}"))
                found.append(template.replace("{}", value))
        return found


def shown(value: object) -> str:
    """Return a parameter as text, numbers without trailing zeros."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


class Predictions(Section):
    """The whole file; a prediction is undecided with fewer than `fewest_seeds` seeds."""

    claims: dict[str, Claim]
    fewest_seeds: int = Field(2, ge=2)
    names: Names = Field(Names())

    def items(self) -> Iterator[tuple[str, str, Prediction]]:
        """Yield claim, name and prediction."""
        for key, claim in self.claims.items():
            for name, prediction in claim.predictions.items():
                yield key, name, prediction

    def figures(self) -> Iterator[tuple[str, str, FigureEntry]]:
        """Yield claim, name and figure."""
        for key, claim in self.claims.items():
            for name, entry in claim.figures.items():
                yield key, name, entry


def load_predictions(path: Path) -> Predictions:
    """Read and check a file of predictions.

    Raises:
        UserError: unreadable, an unknown quantity, arguments that do not fit it, or a prediction without exactly one
            threshold.
    """
    content = read_yaml(path, "give a file of predictions")
    try:
        return Predictions.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error, Predictions)}") from None
