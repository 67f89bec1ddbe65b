"""Search over step sizes: every rule gets the same number of trials, compared on held-out training images."""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from nmnc.config import Study
from nmnc.errors import UserError
from nmnc.files.reading import check_complete, read_rows
from nmnc.runs import Identity

COLUMNS = (
    "network",
    "rule",
    "values",
    "label",
    "n_seeds",
    "epochs",
    "accuracy",
    "lowest",
    "highest",
    "trials",
    "chosen",
)
#: A trial's accuracy is averaged over its last two epochs, because accuracy fluctuates from epoch to epoch.
LAST_EPOCHS = 2


def rows(study: Study, results: Path, unfinished: bool = False) -> Iterator[dict[str, Any]]:
    """Yield one row per trial of the study's sweeps, the best of each rule marked `chosen`.

    A trial's accuracy is the mean over its seeds and last two epochs on the held-out images of `dataset`.

    Args:
        study: a study with sweeps and dataset.validation_images.
        results: results/STUDY, with every run's epochs.csv.
        unfinished: allow trials with missing runs (too large a step size stops them); they have no accuracy and are
            never chosen.

    Raises:
        UserError: no sweeps, no validation images, unequal numbers of trials, a run that is missing where that is
            not allowed, or a rule without a finished trial.
    """
    if not study.sweeps:
        raise UserError(f"study {study.study}: it has no sweeps; add the values to search under sweeps")
    if study.dataset is None or study.dataset.validation_images is None:
        raise UserError(f"study {study.study}: a search must not see the test set; set dataset.validation_images")
    trials: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in study.sweeps:
        for point in study.points(name):
            for network in study.networks_of(point.label):
                trial = _trial(study, results, network, point.label, unfinished)
                values = " ".join(f"{key}={value}" for key, value in point.values.items())
                trials.setdefault((network, point.rule), []).append(
                    {"network": network, "rule": point.rule, "values": values} | trial
                )
    numbers = {len(group) for group in trials.values()}
    if len(numbers) > 1:
        raise UserError(f"study {study.study}: rules have {sorted(numbers)} trials; give every rule the same number")
    for (network, rule), group in trials.items():
        finished = [trial for trial in group if trial["accuracy"] is not None]
        if not finished:
            raise UserError(f"study {study.study}: no trial of {rule} on {network} is finished; run it first")
        best = max(finished, key=lambda trial: float(trial["accuracy"]))
        for trial in group:
            yield trial | {"trials": len(group), "chosen": "yes" if trial is best else "no"}


def _trial(study: Study, results: Path, network: str, label: str, unfinished: bool) -> dict[str, Any]:
    """Return the accuracy of one label over its seeds: mean, lowest and highest."""
    about = {"label": label, "n_seeds": 0, "epochs": study.run(label).training.epochs}
    accuracies, kind = [], study.run(label).kind
    seeds = study.seeds_of(label)
    for seed in seeds:
        path = results / "networks" / Identity(network, label, kind, seed).folder / "epochs.csv"
        if not path.exists() and unfinished:
            return about | {"accuracy": None, "lowest": None, "highest": None}
        if not path.exists():
            raise UserError(f"{path} is missing; make it with: python -m nmnc train --rule {label} --seed {seed}")
        _, epochs = read_rows(path, ("test_accuracy",), "delete it and train again")
        expected = {(str(epoch),): None for epoch in range(study.run(label).training.epochs + 1)}
        check_complete(path, ((row.get("epoch", ""),) for row in epochs), expected, "delete it and train again")
        try:
            accuracies.append(mean(float(row["test_accuracy"]) for row in epochs[-LAST_EPOCHS:]))
        except ValueError:  # also for a file without rows
            raise UserError(f"{path}: no numbers in the column test_accuracy; delete it and train again") from None
    summary = {"accuracy": mean(accuracies), "lowest": min(accuracies), "highest": max(accuracies)}
    return about | {"n_seeds": len(seeds)} | summary
