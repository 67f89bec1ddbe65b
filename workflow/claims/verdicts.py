"""Predictions and their verdicts: docs/predictions.yaml against the runs."""

from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd

from brain_eval.inference.intervals import holm, t_interval
from nmnc.errors import UserError
from nmnc.files.reading import read_yaml
from workflow.claims.quantities import QUANTITIES
from workflow.claims.runs import Runs

#: Below this many seeds a claim is undecided, whatever the interval says.
FEWEST_SEEDS = 6
#: Arguments of quantities that name labels of rules, and a network.
LABELS = ("a", "b", "rule", "rules", "floor", "ceiling", "network")
COLUMNS = (
    "prediction", "claim", "says", "quantity", "side", "threshold", "effect", "ci_low", "ci_high", "n", "n_missing",
    "interval_method", "p", "p_holm", "verdict", "tier",
)  # fmt: skip


def load_predictions(path: Path) -> dict[str, dict[str, Any]]:
    """Read and check a file of predictions: claim -> title and predictions.

    Raises:
        UserError: unreadable, an unknown quantity, or a prediction without exactly one threshold.
    """
    content = read_yaml(path, "give a file of predictions")
    claims = content.get("claims") if isinstance(content, dict) else None
    if not isinstance(claims, dict):
        raise UserError(f"{path}: no readable file of predictions; it needs the key claims, name -> title, predictions")
    for key, claim in claims.items():
        if not isinstance(claim, dict) or not isinstance(claim.get("predictions"), dict):
            raise UserError(f"{path}: {key}: no predictions; add them, or delete the claim")
        for name, prediction in claim["predictions"].items():
            _check_prediction(prediction, f"{path}: {name}")
    return claims


def _check_prediction(prediction: Any, place: str) -> None:
    parts = {"says": str, "quantity": str, "arguments": dict}
    for part, kind in parts.items():
        if not isinstance(prediction, dict) or part not in prediction:
            raise UserError(f"{place}: {part} is missing; add it")
        if not isinstance(prediction[part], kind):
            raise UserError(f"{place}: {part} must be {'keys and values' if kind is dict else 'text'}; fix it")
    quantity = prediction["quantity"]
    if quantity not in QUANTITIES:
        raise UserError(f"{place}: unknown quantity {quantity!r}; choose from {', '.join(QUANTITIES)}")
    sides = [side for side in ("above", "below") if side in prediction]
    if len(sides) != 1:
        raise UserError(f"{place}: give one threshold, either above or below")
    threshold = prediction[sides[0]]
    if not isinstance(threshold, int | float) or isinstance(threshold, bool):
        raise UserError(f"{place}: {sides[0]} must be a number (got {threshold!r}); fix it")


def verdict(low: float | None, high: float | None, n: int, side: str, threshold: float) -> str:
    """supported, refuted or undecided: where the whole interval lies, given at least 6 seeds."""
    if n < FEWEST_SEEDS or low is None or high is None:
        return "undecided"
    if side == "below":
        low, high, threshold = -high, -low, -threshold
    return "supported" if low > threshold else "refuted" if high < threshold else "undecided"


def verdicts(
    runs: Runs, claims: dict[str, dict[str, Any]], tier: str, confidence: float = 0.95
) -> list[dict[str, Any]]:
    """One row per prediction (columns: COLUMNS): effect, interval over seeds, and verdict.

    p is of the two-sided t test of the effect against the threshold; p_holm is corrected over all predictions.

    Args:
        runs: the study's results; unfinished runs count as missing seeds.
        claims: from `load_predictions`.
        tier: CPU or GPU.
        confidence: coverage of the intervals.
    """
    rows = [_row(runs, key, name, prediction, tier, confidence) for key, name, prediction in _each(claims)]
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _each(claims: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for key, claim in claims.items():
        for name, prediction in claim["predictions"].items():
            yield key, name, prediction


def effects(runs: Runs, name: str, prediction: dict[str, Any]) -> "pd.Series[float]":
    """The prediction's effect per seed; UserError names the prediction whose arguments do not fit."""
    quantity, arguments = QUANTITIES[prediction["quantity"]], prediction["arguments"]
    try:
        signature(quantity).bind(runs, **arguments)
    except TypeError as error:
        raise UserError(f"{name}: {prediction['quantity']}: {error}; mend its arguments") from None
    try:
        return quantity(runs, **arguments)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def not_in_study(runs: Runs, arguments: dict[str, Any]) -> list[str]:
    """Labels and networks that a prediction's arguments name and the study lacks: misspelt, or of another tier."""
    labels, networks = set(runs.table["rule"]), set(runs.table["network"])
    named = [(role, one) for role in LABELS for one in _several(arguments.get(role))]
    return list(dict.fromkeys(one for role, one in named if one not in (networks if role == "network" else labels)))


def _several(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _row(runs: Runs, key: str, name: str, prediction: dict[str, Any], tier: str, confidence: float) -> dict[str, Any]:
    values = effects(runs, name, prediction)
    found = values.dropna()
    side = "above" if "above" in prediction else "below"
    threshold = float(prediction[side])
    row: dict[str, Any] = {
        "prediction": name, "claim": key, "says": prediction["says"], "quantity": prediction["quantity"],
        "side": side, "threshold": threshold, "n": len(found), "n_missing": len(values) - len(found),
        "p": None, "verdict": "undecided", "tier": tier,
    }  # fmt: skip
    if found.empty:
        foreign = ", ".join(repr(label) for label in not_in_study(runs, prediction["arguments"]))
        return row | {"interval_method": f"not in this study: {foreign}" if foreign else "no finished runs"}
    mean, low, high, _, n = t_interval(found.to_numpy(), confidence)
    p = t_interval(found.to_numpy() - threshold, confidence).p
    method = f"Student's t {100 * confidence:g} % interval over {n} seeds" if n > 1 else "one seed"
    numbers = {"effect": mean, "ci_low": low, "ci_high": high, "p": p, "interval_method": method}
    return row | numbers | {"verdict": verdict(low, high, n, side, threshold)}
