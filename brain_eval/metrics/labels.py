"""What metrics are called, and what a reader of their scores must know."""

METRIC_NAMES = {
    "spearman": "Spearman correlation of RDMs",
    "rho-a": "rho-a of RDMs",
    "pearson": "Pearson correlation of RDMs",
    "cosine": "cosine of RDMs",
    "tau-a": "Kendall's tau-a of RDMs",
    "whitened-cosine": "whitened cosine of RDMs",
    "whitened-correlation": "whitened correlation of RDMs",
    "cka-biased": "linear CKA (biased)",
    "cka-unbiased": "linear CKA (unbiased)",
    "ridge": "ridge regression, median r over neuroids",
    "pls": "PLS regression, median r over neuroids",
}
_ENCODING = (
    "The score is the median correlation over neuroids (neurons, sites or voxels), not corrected for their "
    "reliability; the corrected one stands in the column ceiled of scores.csv. Intervals vary the test stimuli and "
    "keep the fits."
)
_OF_ITS_SIZE = "Its value depends on the number of stimuli: compare scores of as many only."
NOTES = {
    "ridge": _ENCODING,
    "pls": _ENCODING,
    "rho-a": "It credits no ties of distances; where there are none it is Spearman's correlation.",
    "whitened-cosine": _OF_ITS_SIZE,
    "cka-biased": _OF_ITS_SIZE,
}


def metric_name(metric: str) -> str:
    """A metric's name for an axis; crossnobis-spearman is Spearman's with the recording's crossnobis RDM."""
    kind, _, plain_metric = metric.partition("-")
    if metric not in METRIC_NAMES and plain_metric in METRIC_NAMES:
        return f"{METRIC_NAMES[plain_metric]} (recording: {kind})"
    return METRIC_NAMES.get(metric, metric)


def metric_note(metric: str) -> str:
    """What a reader of the scores must know, in sentences with a space behind them; mostly nothing."""
    return next((f"{note} " for name, note in NOTES.items() if metric == name or metric.endswith(f"-{name}")), "")
