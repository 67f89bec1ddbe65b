"""The learning signal: how well it agrees with backprop's, where the Jacobian lies, and what exact signals lose."""

import numpy as np
import pandas as pd

from workflow.claims.quantities import Comparison, Effects, OfRule, floats
from workflow.claims.runs import Runs

#: Exact signals by what is done to them: (signal, subspace) in the tables of python -m nmnc diagnose.
EXACT = {
    "averaged": ("mean_jacobian", ""),
    "projected": ("gradient", "principal"),
    "averaged and projected": ("mean_jacobian", "principal"),
    "projected at random": ("gradient", "random"),
}


class AlignmentDifference(Comparison):
    """Cosine with backprop's gradient of rule a minus rule b, mean over layers and epochs from the first on."""

    space: str
    layers: list[str]

    def _cosine(self, runs: Runs, rule: str) -> Effects:
        rows = runs.select(runs.alignment, rule, self.network)
        rows = rows[(rows["space"] == self.space) & rows["layer"].isin(self.layers) & (rows["epoch"] > 0)]
        return rows.groupby("seed")["cosine"].mean()

    def _effects(self, runs: Runs) -> Effects:
        return self._cosine(runs, self.a) - self._cosine(runs, self.b)


class _Alpha(OfRule):
    column: str

    def alpha(self, runs: Runs, last: bool = True) -> pd.DataFrame:
        """Rows of the first or last epoch with alpha and d/n, which is what a random subspace has."""
        rows = runs.select(runs.alignment, self.rule, self.network)
        rows = rows[(rows["space"] == "activity") & rows["layer"].isin(self.layers)]
        rows = rows[rows["epoch"] == rows.groupby("seed")["epoch"].transform("max" if last else "min")]
        return rows.assign(alpha=rows[self.column], chance=rows["d"] / rows["n"])


class AlphaOverChance(_Alpha):
    """log2 of alpha over d/n after training, mean over layers; 0 is what a random subspace has."""

    def _effects(self, runs: Runs) -> Effects:
        rows = self.alpha(runs)
        return rows.assign(ratio=np.log2(rows["alpha"] / rows["chance"])).groupby("seed")["ratio"].mean()


class AlphaLevel(_Alpha):
    """alpha after training, mean over layers."""

    def _effects(self, runs: Runs) -> Effects:
        return self.alpha(runs).groupby("seed")["alpha"].mean()


class AlphaGrowth(_Alpha):
    """alpha after training minus alpha before it, mean over layers."""

    def _effects(self, runs: Runs) -> Effects:
        after, before = (self.alpha(runs, last).groupby("seed")["alpha"].mean() for last in (True, False))
        return after - before


class AngleDifference(OfRule):
    """Mean squared cosine of principal angles with the Jacobian's leading row space, manifold minus random subspace.

    Both subspaces have `d` dimensions; the mean is over angles and layers.
    """

    d: int

    def _effects(self, runs: Runs) -> Effects:
        rows = runs.select(runs.manifold, self.rule, self.network)
        if rows.empty:
            return pd.Series(dtype=float)
        rows = squared_cosines(rows[rows["layer"].isin(self.layers) & (rows["d"] == self.d)])
        table = rows.groupby(["seed", "subspace"])["shared"].mean().unstack()
        return floats(table["principal"] - table["random"])


class _Signal(OfRule):
    space: str
    d: int

    def exact(self, runs: Runs, signal: str) -> Effects:
        """Cosine per seed of one of EXACT, mean over layers."""
        rows = runs.select(runs.manifold, self.rule, self.network)
        if rows.empty or "signal" not in rows:
            return pd.Series(dtype=float)
        name, subspace = EXACT[signal]
        chosen = rows["quantity"].eq(f"cosine_{self.space}") & rows["signal"].eq(name) & rows["layer"].isin(self.layers)
        chosen &= rows["subspace"].fillna("").eq(subspace) & (rows["d"].eq(self.d) if subspace else True)
        return rows[chosen].groupby("seed")["value"].mean()


class SignalLossDifference(_Signal):
    """Cosine lost by projecting the exact gradient on d principal components less that lost by averaging the Jacobian.

    Mean over layers, in networks trained by a rule; above 0 where the projection costs more.
    """

    def _effects(self, runs: Runs) -> Effects:
        return self.exact(runs, "averaged") - self.exact(runs, "projected")


class EstimationLoss(_Signal):
    """Cosine of the exact averaged and projected signal less the rule's own after its last epoch, mean over layers."""

    def _effects(self, runs: Runs) -> Effects:
        rows = runs.select(runs.alignment, self.rule, self.network)
        if rows.empty:
            return pd.Series(dtype=float)
        rows = rows[rows["space"].eq(self.space) & rows["layer"].isin(self.layers)]
        rows = rows[rows["epoch"].eq(rows.groupby("seed")["epoch"].transform("max"))]
        return self.exact(runs, "averaged and projected") - rows.groupby("seed")["cosine"].mean()


def squared_cosines(manifold: pd.DataFrame) -> pd.DataFrame:
    """Rows of `manifold` that are principal angles (degrees), with their squared cosine as the column `shared`."""
    rows = manifold[manifold["quantity"] == "principal_angle"]
    return rows.assign(shared=np.cos(np.radians(rows["value"].to_numpy(dtype=float))) ** 2)


def losses(runs: Runs) -> pd.DataFrame:
    """Cosines of exact signals and of the rules' own after training: network, rule, seed, layer, space, signal, value.

    Rows of signals of diagnosed networks only; empty where none was measured.
    """
    keys = ["network", "rule", "seed", "layer", "space", "signal", "value"]
    rows = runs.manifold
    if rows.empty or "signal" not in rows:
        return pd.DataFrame(columns=keys)
    rows = rows[rows["quantity"].isin(["cosine_activity", "cosine_weight"])].fillna({"subspace": ""})
    names = {pair: name for name, pair in EXACT.items()}
    pairs = zip(rows["signal"], rows["subspace"], strict=True)
    exact = rows.assign(
        space=rows["quantity"].str.removeprefix("cosine_"), signal=[names.get(pair, "") for pair in pairs]
    )
    learned = runs.alignment.assign(signal="the rule's own", value=runs.alignment["cosine"])
    learned = learned[learned["epoch"].eq(learned.groupby(["network", "rule", "seed"])["epoch"].transform("max"))]
    learned = learned.merge(exact[["network", "rule", "seed"]].drop_duplicates(), on=["network", "rule", "seed"])
    return pd.concat([exact[exact["signal"].ne("")][keys], learned.dropna(subset=["value"])[keys]], ignore_index=True)
