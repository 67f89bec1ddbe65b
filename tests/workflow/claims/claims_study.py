"""A small study's results with known effects, written as the trainers and scorers write them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd

from workflow.analysis.results import RUN_TABLES

SEEDS = (1, 2, 3, 4, 5, 6)
LAYERS = {"conv1": 400, "fc1": 40}
#: Test accuracy at the last epoch by label; the swept copies stand beside their rule.
ACCURACY = {"backprop": 0.6, "nmnc": 0.5, "vnc": 0.4, "nmnc-images-1": 0.45, "vnc-images-1": 0.25, "untrained": 0.1}
IMAGES = {"nmnc": 8, "vnc": 8, "nmnc-images-1": 1, "vnc-images-1": 1}
COSINE = {"backprop": 1.0, "nmnc": 0.5, "vnc": 0.2, "nmnc-images-1": 0.3, "vnc-images-1": 0.1}


def write(folder: Path, seeds: tuple[int, ...] = SEEDS) -> Path:
    """Write the study; every value differs from the tables above by a tenth of a seed's own small number."""
    runs, rng = [], np.random.default_rng(0)
    (folder / "tables").mkdir(parents=True)
    for (label, accuracy), seed in itertools.product(ACCURACY.items(), seeds):
        kind = label.partition("-")[0]
        identity = {"network": "net", "rule": label, "kind": kind, "seed": seed}
        epochs = 1 if kind == "untrained" else 4
        noise = {"images": IMAGES.get(label, 8), "rate": 0.5, "refresh_every": 1}
        runs.append(identity | {"scored": "yes", "training.epochs": epochs, "training.batch_size": 10}
                    | {f"noise.{key}": value for key, value in noise.items()})  # fmt: skip
        shift = 0.01 * rng.standard_normal()
        below = folder / "networks" / "net" / label / f"seed{seed}"
        below.mkdir(parents=True)
        tables = {"epochs": _epochs(accuracy + shift, epochs, noise["images"])}
        tables["alignment"] = _alignment(COSINE.get(label, np.nan), shift, epochs)
        for name, table in tables.items():
            table.reindex(columns=RUN_TABLES[name].columns).to_csv(below / f"{name}.csv", index=False)
        scores = folder / "scores" / "net" / label
        scores.mkdir(parents=True, exist_ok=True)
        _scores(identity, accuracy / 10 + shift / 10).to_csv(scores / f"seed{seed}.csv", index=False)
    pd.DataFrame(runs).to_csv(folder / "tables" / "runs.csv", index=False)
    points = [("images", rule, f"{rule}-images-1" if value == 1 else rule, value, f"noise.images={value}")
              for rule in ("nmnc", "vnc") for value in (1, 8)]  # fmt: skip
    sweeps = pd.DataFrame(points, columns=["sweep", "rule", "label", "value", "values"])
    sweeps.to_csv(folder / "tables" / "sweeps.csv", index=False)
    (folder / "dataset.json").write_text(json.dumps({"n_train": 100}), encoding="utf-8")
    return folder


def _epochs(last: float, epochs: int, images: int) -> pd.DataFrame:
    """Accuracy rises in equal steps from .1 and stays for the last two epochs."""
    rise = np.linspace(0.1, last, epochs)
    accuracy = [*rise, last] if epochs > 1 else [0.1, 0.1]
    numbers = np.arange(len(accuracy))
    spent = numbers * images * 10
    return pd.DataFrame({"epoch": numbers, "test_accuracy": accuracy, "perturbations": spent, "forward_passes": spent})


def _alignment(cosine: float, shift: float, epochs: int) -> pd.DataFrame:
    rows = []
    for epoch, (layer, n), space in itertools.product(range(epochs + 1), LAYERS.items(), ("activity", "weight")):
        alpha = 0.1 + 0.1 * epoch + shift if space == "activity" else np.nan
        value = 0.0 if epoch == 0 else cosine + shift - (0.05 if space == "weight" else 0.0)
        rows.append(
            {"epoch": epoch, "layer": layer, "space": space, "cosine": value, "alpha_gradient": alpha,
             "alpha_jacobian": alpha, "d": 20, "n": n}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _scores(identity: dict[str, object], raw: float) -> pd.DataFrame:
    """Two sessions and their mean: the mean alone is the region's score."""
    base = identity | {
        "layer": "conv1",
        "benchmark": "simulated",
        "species": "monkey",
        "region": "IT",
        "metric": "spearman",
    }
    sessions = [("a", "one", raw + 1), ("b", "two", raw - 1), ("mean", "all", raw)]
    rows = [base | {"session": s, "animal": a, "raw": value} for s, a, value in sessions]
    return pd.DataFrame(rows, columns=RUN_TABLES["scores"].columns)
