"""Verdicts on predictions: docs/predictions.yaml against the runs."""

from typing import Any

import pandas as pd

from brain_eval.inference.intervals import MeanInterval, holm, t_interval
from nmnc.errors import UserError
from workflow.claims.predictions import Prediction, Predictions
from workflow.claims.runs import Runs

COLUMNS = [
    "prediction", "claim", "says", "quantity", "side", "threshold", "effect", "ci_low", "ci_high", "n", "n_missing",
    "interval_method", "p", "p_holm", "verdict", "tier",
]  # fmt: skip


def verdict(prediction: Prediction, interval: MeanInterval, fewest_seeds: int) -> str:
    """supported, refuted or undecided: where the whole interval lies, given at least so many seeds."""
    low, high, threshold = interval.low, interval.high, prediction.threshold
    if interval.n < fewest_seeds or low is None or high is None:
        return "undecided"
    if prediction.side == "below":
        low, high, threshold = -high, -low, -threshold
    return "supported" if low > threshold else "refuted" if high < threshold else "undecided"


def effects(runs: Runs, predictions: Predictions) -> dict[str, "pd.Series[float]"]:
    """Return every prediction's effect per seed; UserError names the prediction that does not fit the study."""
    found = {}
    for _, name, prediction in predictions.items():
        try:
            found[name] = prediction.measured.effects(runs)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    return found


def verdicts(runs: Runs, predictions: Predictions, tier: str, confidence: float = 0.95) -> pd.DataFrame:
    """One row per prediction (columns: COLUMNS): effect, interval over seeds, and verdict.

    p is of the two-sided t test of the effect against the threshold; p_holm is corrected over all predictions.

    Args:
        runs: the study's results; unfinished runs count as missing seeds.
        predictions: from `load_predictions`.
        tier: CPU or GPU.
        confidence: coverage of the intervals.
    """
    rows: list[dict[str, Any]] = []
    found = effects(runs, predictions)
    for claim, name, prediction in predictions.items():
        given = {"prediction": name, "claim": claim, "tier": tier, "side": prediction.side, "says": prediction.says}
        given |= {"quantity": prediction.quantity}
        rows.append(given | _judged(runs, prediction, found[name], predictions.fewest_seeds, confidence))
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return pd.DataFrame(rows, columns=COLUMNS)


def _not_in_study(runs: Runs, prediction: Prediction) -> list[str]:
    """Labels and networks that a prediction names and the study lacks: misspelt, or of another tier."""
    network = getattr(prediction.measured, "network", None)
    foreign = dict.fromkeys(label for label in prediction.measured.labels() if label not in set(runs.table["rule"]))
    return [*foreign, *([network] if network and network not in set(runs.table["network"]) else [])]


def _judged(
    runs: Runs, prediction: Prediction, values: "pd.Series[float]", fewest_seeds: int, confidence: float
) -> dict[str, Any]:
    """Effect, interval, p and verdict."""
    found = values.dropna()
    counts = {"threshold": prediction.threshold, "n": len(found), "n_missing": len(values) - len(found)}
    if found.empty:
        foreign = ", ".join(map(repr, _not_in_study(runs, prediction)))
        method = f"not in this study: {foreign}" if foreign else "no finished runs"
        return counts | {"p": None, "verdict": "undecided", "interval_method": method}
    interval = t_interval(found.to_numpy(), confidence)
    p = t_interval(found.to_numpy() - prediction.threshold, confidence).p
    method = f"Student's t {100 * confidence:g} % interval over {len(found)} seeds" if len(found) > 1 else "one seed"
    numbers = {"effect": interval.mean, "ci_low": interval.low, "ci_high": interval.high, "p": p}
    return counts | numbers | {"interval_method": method, "verdict": verdict(prediction, interval, fewest_seeds)}
