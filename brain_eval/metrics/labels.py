"""What metrics are called, and what a reader of their scores must know."""

from brain_eval.metrics import METRICS, RDMS


def _plain(metric: str) -> tuple[str, str]:
    """The kind of RDM, "" where none is named, and the metric: ("crossnobis", "rho-a") of crossnobis-rho-a."""
    kind, _, plain = metric.partition("-")
    return (kind, plain) if metric not in METRICS and kind in RDMS else ("", metric)


def metric_name(metric: str) -> str:
    """A metric's name for an axis; crossnobis-spearman is Spearman's with the recording's crossnobis RDM."""
    kind, plain = _plain(metric)
    if plain not in METRICS:
        return metric
    return f"{METRICS[plain].label} (recording: {kind})" if kind else METRICS[plain].label


def metric_note(metric: str) -> str:
    """What a reader of the scores must know, in sentences with a space behind them; mostly nothing."""
    _, plain = _plain(metric)
    note = METRICS[plain].note if plain in METRICS else ""
    return f"{note} " if note else ""
