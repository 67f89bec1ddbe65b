"""Where NMNC's signal should be the better one, and where it was: one row per layer, setting and seed.

The law of docs/method.md: with K samples, E cos^2 is 1 / (1 + (n+1)/K) for VNC and alpha / (1 + (d+1)/K) for NMNC.
"""

import math
from collections.abc import Callable, Iterator

import pandas as pd

from workflow.claims.runs import Runs

COLUMNS = (
    "network", "setting", "layer", "seed", "epoch", "n", "d", "alpha", "K_a", "K_b", "law", "margin",
    "cosine_a", "cosine_b", "cosine_difference",
)  # fmt: skip


def effective_samples(images: float, rate: float, refreshes: float) -> float:
    """K of a running average over `images` samples each at weight `rate`, zero at the start, after some refreshes.

    (sum of weights)^2 / sum of squared weights; M (2 - eta) / eta after many refreshes.
    """
    kept = (1.0 - rate) ** refreshes
    return images * (2.0 - rate) / rate * (1.0 - kept) ** 2 / (1.0 - kept**2) if kept < 1.0 else 0.0


def settings(runs: Runs, a: str, b: str) -> Iterator[tuple[str, str, str]]:
    """(setting, label of a, label of b): the centre, all points of the sweeps, other networks' labels a-*, b-*."""
    labels = set(runs.table["rule"])
    pairs = {(a, b): "centre"}
    for sweep in dict.fromkeys(runs.sweeps["sweep"]):
        rows = runs.sweeps[runs.sweeps["sweep"] == sweep]
        others = dict(zip(rows["value"][rows["rule"] == b], rows["label"][rows["rule"] == b], strict=True))
        for row in rows[rows["rule"] == a].itertuples():
            pairs.setdefault((str(row.label), str(others.get(row.value, b))), f"{sweep} {row.value}")
    swept = set(runs.sweeps["label"])
    for label in sorted(labels - swept):
        setting = label.removeprefix(f"{a}-")
        if setting != label and f"{b}-{setting}" in labels:
            pairs.setdefault((label, f"{b}-{setting}"), setting)
    for (of_a, of_b), setting in pairs.items():
        yield setting, of_a, of_b


def points(runs: Runs, a: str, b: str) -> pd.DataFrame:
    """The map: one row per network, setting, layer and seed, at the last epoch both runs have (columns: COLUMNS).

    `law` is NMNC's expected squared cosine minus VNC's, at each rule's own K; `margin` is alpha less what the law
    asks for: positive where NMNC should win.
    """
    pairs = (_pair(runs, setting, of_a, of_b) for setting, of_a, of_b in settings(runs, a, b))
    frames = [frame for frame in pairs if frame is not None]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))


def _pair(runs: Runs, setting: str, a: str, b: str) -> pd.DataFrame | None:
    keys = ["network", "layer", "seed", "epoch"]
    sides = []
    for label in (a, b):
        rows = runs.select(runs.alignment, label)
        if rows.empty:
            return None
        rows = rows[rows["space"] == "activity"]
        samples = _samples(runs, label)
        places = zip(rows["epoch"], rows["network"], strict=True)
        rows = rows.assign(K=[samples(int(epoch), str(network)) for epoch, network in places])
        sides.append(rows[[*keys, "cosine", "alpha_gradient", "d", "n", "K"]])
    both = sides[0].merge(sides[1], on=keys, suffixes=("_a", "_b"))
    if both.empty:
        return None
    both = both[both["epoch"] == both.groupby(["network", "seed"])["epoch"].transform("max")]
    d, n, alpha = both["d_a"], both["n_a"], both["alpha_gradient_a"]
    nmnc = 1.0 / (1.0 + (d + 1) / both["K_a"])
    vnc = 1.0 / (1.0 + (n + 1) / both["K_b"])
    found = {
        "network": both["network"], "setting": setting, "layer": both["layer"], "seed": both["seed"],
        "epoch": both["epoch"], "n": n, "d": d, "alpha": alpha, "K_a": both["K_a"], "K_b": both["K_b"],
        "law": alpha * nmnc - vnc, "margin": alpha - vnc / nmnc,
        "cosine_a": both["cosine_a"], "cosine_b": both["cosine_b"],
        "cosine_difference": both["cosine_a"] - both["cosine_b"],
    }  # fmt: skip
    return pd.DataFrame(found)[list(COLUMNS)]


def _samples(runs: Runs, label: str) -> Callable[[int, str], float]:
    """Function (epoch, network) -> K of a label's running feedback after that epoch."""
    rows = runs.table[runs.table["rule"] == label].drop_duplicates("network")
    columns = ["training.batch_size", "noise.refresh_every", "noise.images", "noise.rate"]
    table: dict[str, list[float]] = dict(
        zip(rows["network"], rows[columns].astype(float).to_numpy().tolist(), strict=True)
    )

    def of(epoch: int, network: str) -> float:
        batch_size, refresh_every, images, rate = table[network]
        steps = epoch * (runs.training_images // int(batch_size))
        return effective_samples(images, rate, math.ceil(steps / refresh_every))

    return of
