"""Where rule a's signal should be better than rule b's, and where it was: one row per layer, setting and seed.

The law of docs/method.md: with K samples, E cos^2 is 1 / (1 + (n+1)/K) for noise in all n directions (b) and
alpha / (1 + (d+1)/K) for noise in a subspace of d (a).
"""

import math

import pandas as pd
from pydantic import Field

from nmnc.noise.averaging import averaged_samples
from workflow.claims.quantities import Effects, Pair, floats, networks
from workflow.claims.runs import Runs

COLUMNS = [
    "network", "setting", "rule_a", "rule_b", "layer", "seed", "epoch", "n", "d", "alpha", "K_a", "K_b", "law",
    "margin", "cosine_a", "cosine_b", "cosine_difference",
]  # fmt: skip


class LawAgreement(Pair):
    """Part of the points (layer x setting) where the law's sign is that of the difference of the cosines.

    Settings are rules a and b themselves, the points of all sweeps, and `others`: further pairs of labels by name.
    Seeds count once all settings are finished.
    """

    others: dict[str, tuple[str, str]] = Field({})

    def settings(self, runs: Runs) -> dict[tuple[str, str], str]:
        """Return the name of the setting of every compared pair of labels."""
        pairs = {(self.a, self.b): "centre"}
        for sweep in dict.fromkeys(runs.sweeps["sweep"]):
            rows = runs.sweeps[runs.sweeps["sweep"] == sweep]
            of_a, of_b = (rows[rows["rule"] == rule].set_index("value")["label"] for rule in (self.a, self.b))
            for value, label in of_a.items():
                pairs.setdefault((label, of_b.get(value, self.b)), f"{sweep} {value}")
        for name, labels in self.others.items():
            pairs.setdefault(labels, name)
        return pairs

    def points(self, runs: Runs) -> pd.DataFrame:
        """Return one row per network, setting, layer and seed, at the last epoch both runs have (columns: COLUMNS).

        `law` is a's expected squared cosine minus b's, at each rule's own K; `margin` is alpha less what the law
        asks for: positive where a should win.
        """
        frames = [_points(runs, *labels).assign(setting=name) for labels, name in self.settings(runs).items()]
        frames = [frame for frame in frames if not frame.empty]
        return pd.concat(frames, ignore_index=True)[COLUMNS] if frames else pd.DataFrame(columns=COLUMNS)

    def _effects(self, runs: Runs) -> Effects:
        table = self.points(runs)
        asked = {(network, label) for label, _ in self.settings(runs) for network in networks(runs, [label])}
        settings_of_seed = (table["network"] + " " + table["setting"]).groupby(table["seed"]).transform("nunique")
        table = table[settings_of_seed == len(asked)]
        right = (table["law"] > 0) == (table["cosine_difference"] > 0)
        return floats(table.assign(right=right).groupby("seed")["right"].mean())


def _points(runs: Runs, a: str, b: str) -> pd.DataFrame:
    if runs.select(runs.alignment, a).empty or runs.select(runs.alignment, b).empty:
        return pd.DataFrame()
    keys = ["network", "layer", "seed", "epoch"]
    table = _side(runs, a).merge(_side(runs, b), on=keys, suffixes=("_a", "_b"))
    table = table[table["epoch"] == table.groupby(["network", "seed"])["epoch"].transform("max")]
    table = table.rename(columns={"d_a": "d", "n_a": "n", "alpha_gradient_a": "alpha"})
    best_a = 1.0 / (1.0 + (table["d"] + 1) / table["K_a"])
    best_b = 1.0 / (1.0 + (table["n"] + 1) / table["K_b"])
    return table.assign(
        rule_a=a, rule_b=b, law=table["alpha"] * best_a - best_b, margin=table["alpha"] - best_b / best_a,
        cosine_difference=table["cosine_a"] - table["cosine_b"],
    )  # fmt: skip


def _side(runs: Runs, label: str) -> pd.DataFrame:
    """Rows of a label's signal in activity space, with K of its running feedback after each epoch."""
    rows = runs.select(runs.alignment, label)
    rows = rows[rows["space"] == "activity"]
    settings = runs.table[runs.table["rule"] == label].drop_duplicates("network").set_index("network")

    def samples(network: str, epoch: int) -> float:
        columns = ["training.batch_size", "noise.refresh_every", "noise.images", "noise.rate"]
        batch, every, images, rate = settings.loc[[network], columns].astype(float).to_numpy()[0]
        steps = epoch * (runs.training_images // int(batch))
        return averaged_samples(images, rate, math.ceil(steps / every))

    K = [samples(str(network), int(epoch)) for network, epoch in zip(rows["network"], rows["epoch"], strict=True)]
    return rows[["network", "layer", "seed", "epoch", "cosine", "alpha_gradient", "d", "n"]].assign(K=K)
