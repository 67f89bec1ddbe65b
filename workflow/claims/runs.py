"""The finished runs of a study as data frames: what the claims are computed from."""

from collections.abc import Sequence
from functools import cached_property

import pandas as pd

from brain_eval.benchmarks.whole_regions import rows_of_whole_regions
from brain_eval.codes import CODEBOOK
from nmnc.errors import UserError
from nmnc.files.reading import read_object
from workflow.analysis.results import Results

#: Accuracy fluctuates by several points from epoch to epoch, so a run is judged by its last two.
LAST_EPOCHS = 2


#: Tables of all runs' own rows, written beside the verdicts (tables/claims/runs) so that these can be computed anew
#: from what is published, without the networks.
RECORDS = ("epochs", "alignment", "manifold", "scores", "codebook")


class Runs(Results):
    """A study's results; runs that are not finished yet are left out.

    Its folder is results/STUDY with the runs' files, or a published study whose tables/claims/runs have their rows.
    """

    @cached_property
    def table(self) -> pd.DataFrame:
        """runs.csv: one row per run with its parameters."""
        return self.numbers("runs")

    @cached_property
    def sweeps(self) -> pd.DataFrame:
        """sweeps.csv: sweep, rule, label, value."""
        return self.numbers("sweeps")

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """epochs.csv of all finished runs, with network, rule, kind and seed."""
        return self.collected("epochs")

    @cached_property
    def alignment(self) -> pd.DataFrame:
        """alignment.csv of all finished runs."""
        return self.collected("alignment")

    @cached_property
    def manifold(self) -> pd.DataFrame:
        """Dimensions, alpha and principal angles of the trained networks (python -m nmnc diagnose)."""
        return self.collected("manifold")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Scores of the networks that were compared with recordings; whole regions only."""
        scores = self.collected("scores")
        return scores if scores.empty else rows_of_whole_regions(scores)

    @cached_property
    def codebook(self) -> pd.DataFrame:
        """The meaning of every code in the scores."""
        found = self.collected("codebook").reindex(columns=list(CODEBOOK))
        return found.drop_duplicates(ignore_index=True)

    @cached_property
    def training_images(self) -> int:
        """Images that the networks were trained on."""
        advice = "make it with: python -m nmnc fetch"
        return int(read_object(self.folder / "dataset.json", {"n_train": int}, advice)["n_train"])

    def select(self, frame: pd.DataFrame, rule: str | Sequence[str], network: str | None = None) -> pd.DataFrame:
        """Rows of one label (or of several, on different networks), on one network or on all."""
        if frame.empty:
            return frame
        labels = [rule] if isinstance(rule, str) else list(rule)
        chosen = frame["rule"].isin(labels)
        return frame[chosen & (frame["network"] == network)] if network else frame[chosen]

    def accuracy(self, rule: str, network: str | None = None, until: int | None = None) -> "pd.Series[float]":
        """Test accuracy per seed, mean of the last two epochs (of those up to `until`)."""
        rows = self.select(self.epochs, rule, network)
        if rows.empty:
            return pd.Series(dtype=float)
        rows = rows[rows["epoch"] <= (rows["epoch"].max() if until is None else until)]
        last = rows.groupby("seed")["epoch"].transform("max")
        return rows[rows["epoch"] > last - LAST_EPOCHS].groupby("seed")["test_accuracy"].mean()

    def points(self, sweep: str | Sequence[str], rule: str) -> "pd.Series[str]":
        """Labels of a rule's points in a sweep, by value in ascending order."""
        names = [sweep] if isinstance(sweep, str) else list(sweep)
        rows = self.sweeps[self.sweeps["sweep"].isin(names) & (self.sweeps["rule"] == rule)]
        if rows.empty:
            raise UserError(f"no sweep {names} over rule {rule!r} in this study; fix the prediction")
        return rows.assign(value=rows["value"].astype(float)).set_index("value")["label"].sort_index()

    def sweep_epoch(self, labels: Sequence[str]) -> int:
        """The last epoch that all points of a sweep have: where they are compared."""
        rows = self.table[self.table["rule"].isin(list(labels))]
        return int(rows["training.epochs"].astype(float).min())
