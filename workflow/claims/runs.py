"""The finished runs of a study as data frames: what the claims are computed from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from brain_eval.benchmarks.whole_regions import rows_of_whole_regions
from brain_eval.files import read_frame
from nmnc.errors import UserError
from nmnc.files.reading import read_object
from workflow.analysis.complete_tables import check_epochs, check_scores

#: Accuracy fluctuates by several points from epoch to epoch, so a run is judged by its last two.
LAST_EPOCHS = 2


#: Tables of all runs' own rows, written beside the verdicts (tables/claims/runs) so that these can be computed anew
#: from what is published, without the networks.
RECORDS = ("epochs", "alignment", "manifold", "scores")


@dataclass(frozen=True)
class Runs:
    """A study's results; runs that are not finished yet are left out.

    Attributes:
        folder: results/STUDY, with tables/runs.csv, tables/sweeps.csv and the runs' own files; or a published study,
            whose tables/claims/runs hold the rows of those files.
    """

    folder: Path

    @cached_property
    def table(self) -> pd.DataFrame:
        """runs.csv: one row per run with its parameters."""
        return self._table("runs")

    @cached_property
    def sweeps(self) -> pd.DataFrame:
        """sweeps.csv: sweep, rule, label, value."""
        return self._table("sweeps")

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """epochs.csv of all finished runs, with network, rule, kind and seed."""
        return self._collected("epochs", "networks", "/epochs.csv")

    @cached_property
    def alignment(self) -> pd.DataFrame:
        """alignment.csv of all finished runs."""
        return self._collected("alignment", "networks", "/alignment.csv")

    @cached_property
    def manifold(self) -> pd.DataFrame:
        """Dimensions, alpha and principal angles of the trained networks (python -m nmnc diagnose)."""
        return self._collected("manifold", "manifold", ".csv")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Scores of the networks that were compared with recordings; whole regions only."""
        scores = self._collected("scores", "scores", ".csv", identified=True)
        return scores if scores.empty else rows_of_whole_regions(scores)

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
            raise UserError(f"no sweep {names} over rule {rule!r} in this study; mend the prediction")
        return rows.assign(value=rows["value"].astype(float)).set_index("value")["label"].sort_index()

    def sweep_epoch(self, labels: Sequence[str]) -> int:
        """The last epoch that all points of a sweep have: where they are compared."""
        rows = self.table[self.table["rule"].isin(list(labels))]
        return int(rows["training.epochs"].astype(float).min())

    def _table(self, name: str) -> pd.DataFrame:
        path = self.folder / "tables" / f"{name}.csv"
        if not path.exists():
            raise UserError(f"{path} is missing; make it with: python -m nmnc runs")
        return read_frame(path, ("rule",), "make it with: python -m nmnc runs")

    def _collected(self, name: str, part: str, ending: str, identified: bool = False) -> pd.DataFrame:
        """Files of all runs as one frame; `identified`: they name their run themselves."""
        frames = []
        identity = ["network", "rule", "kind", "seed"]
        epochs = self.table.get("training.epochs", pd.Series("", self.table.index))
        identities = self.table[identity].assign(last=[str(number).removesuffix(".0") for number in epochs])
        if not (self.folder / "networks").is_dir():
            return self._recorded(name)
        for values in identities.itertuples(index=False, name=None):
            network, rule, kind, seed, last = values
            path = self.folder / part / str(network) / str(rule) / f"seed{seed}{ending}"
            if not path.exists():
                continue
            frame = read_frame(path, (), f"delete it and run the study again: it makes {path.name}")
            rows: list[dict[str, str]] = frame.astype(str).to_dict("records")  # type: ignore[assignment]
            if name in ("epochs", "alignment"):
                check_epochs(path, "" if kind == "untrained" else last, rows)
            elif name == "scores":
                check_scores([(path, str(network), rows)])
            frames.append(frame if identified else frame.assign(**dict(zip(identity, values[:-1], strict=True))))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=identity)

    def _recorded(self, name: str) -> pd.DataFrame:
        """Rows of all runs from a published table, which may be compressed."""
        path = self.folder / "tables" / "claims" / "runs" / f"{name}.csv"
        for candidate in (path, path.with_name(f"{path.name}.gz")):
            if candidate.exists():
                return read_frame(candidate, ("network", "rule", "seed"), "bring it back with git, or run the study")
        raise UserError(f"{self.folder}: neither networks/ nor {path.relative_to(self.folder)}; run the study first")
