"""What NMNC's signal loses by averaging, by projection and by estimation: effects and the table of C6."""

from collections.abc import Sequence

import pandas as pd

from workflow.claims.runs import Runs

#: Exact signals by what is done to them: (signal, subspace) in the tables of python -m nmnc diagnose.
EXACT = {
    "averaged": ("mean_jacobian", ""),
    "projected": ("gradient", "principal"),
    "averaged and projected": ("mean_jacobian", "principal"),
    "projected at random": ("gradient", "random"),
}


def signal_loss_difference(
    runs: Runs, *, network: str, rule: str, space: str, layers: Sequence[str], d: int
) -> "pd.Series[float]":
    """Cosine lost by projecting the exact gradient on d principal components less that lost by averaging the Jacobian.

    Mean over layers, in networks trained by a rule; above 0 where the projection costs more.
    """
    averaged, projected = (_exact(runs, network, rule, space, layers, d, of) for of in ("averaged", "projected"))
    return averaged - projected


def estimation_loss(
    runs: Runs, *, network: str, rule: str, space: str, layers: Sequence[str], d: int
) -> "pd.Series[float]":
    """Cosine of the exact averaged and projected signal less the rule's own after its last epoch, mean over layers."""
    rows = runs.select(runs.alignment, rule, network)
    if rows.empty:
        return pd.Series(dtype=float)
    rows = rows[rows["space"].eq(space) & rows["layer"].isin(list(layers))]
    rows = rows[rows["epoch"].eq(rows.groupby("seed")["epoch"].transform("max"))]
    both = _exact(runs, network, rule, space, layers, d, "averaged and projected")
    return both - rows.groupby("seed")["cosine"].mean()


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
    own = runs.alignment
    own = own[own["epoch"].eq(own.groupby(["network", "rule", "seed"])["epoch"].transform("max"))]
    own = own.assign(signal="the rule's own", value=own["cosine"])
    measured = exact[["network", "rule", "seed"]].drop_duplicates()
    own = own.merge(measured, on=["network", "rule", "seed"])
    return pd.concat([exact[exact["signal"].ne("")][keys], own.dropna(subset=["value"])[keys]], ignore_index=True)


def _exact(
    runs: Runs, network: str, rule: str, space: str, layers: Sequence[str], d: int, name: str
) -> "pd.Series[float]":
    """Cosine per seed of one of the exact signals, mean over layers."""
    rows = runs.select(runs.manifold, rule, network)
    if rows.empty or "signal" not in rows:
        return pd.Series(dtype=float)
    signal, subspace = EXACT[name]
    chosen = rows["quantity"].eq(f"cosine_{space}") & rows["signal"].eq(signal) & rows["layer"].isin(list(layers))
    chosen &= rows["subspace"].fillna("").eq(subspace) & (rows["d"].eq(d) if subspace else True)
    return rows[chosen].groupby("seed")["value"].mean()
