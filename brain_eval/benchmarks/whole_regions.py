"""Which rows of scores.csv, or of a table with its columns, speak for a whole region."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

#: In the column session: the mean over several recordings. In the column animal: of all animals.
MEAN, ALL = "mean", "all"
REGION = ("benchmark", "species", "region", "metric")

Row = Mapping[str, str]


def whole_regions(scores: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows of whole regions: the mean over all recordings, else the only recording.

    The metric counts: only some of a region's recordings may have what a metric needs, e.g. repetitions.
    """
    averaged = {tuple(row[key] for key in REGION) for row in scores if _is_mean_of_all(row)}
    for row in scores:
        several = tuple(row[key] for key in REGION) in averaged
        if _is_mean_of_all(row) if several else row["session"] != MEAN:
            yield row


def rows_of_whole_regions(scores: pd.DataFrame) -> pd.DataFrame:
    """The same rows of a table."""
    columns = (*REGION, "session", "animal")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*(scores[column] for column in columns), strict=True)]
    whole = {id(row) for row in whole_regions(rows)}
    return scores[np.array([id(row) in whole for row in rows], dtype=bool)]


def _is_mean_of_all(row: Row) -> bool:
    return row["session"] == MEAN and row["animal"] == ALL
