"""Check that the tables of a study's runs have every expected row exactly once."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nmnc.errors import UserError
from nmnc.files.reading import check_complete

#: Columns that identify a score, apart from the layer: the same for every layer and every model.
COMPARISON = ("benchmark", "session", "animal", "species", "region", "metric")
TRAIN, SCORE = "delete it and rerun python -m nmnc train", "delete it and rerun python -m brain_eval score"

Row = Mapping[str, object]
Key = tuple[str, ...]


def check_epochs(path: Path, last: str, rows: Sequence[Row]) -> None:
    """Check a run's epochs.csv or alignment.csv: each epoch is there once, in the latter with each layer and space.

    Args:
        path: the file, for errors.
        last: the epoch that the run ends with; empty: not known.
        rows: its rows.

    Raises:
        UserError: a row that is missing or there twice.
    """
    epochs = dict.fromkeys(_keys(rows, ["epoch"]))
    number = int(last) + 1 if last.isdecimal() else max(len(epochs), 1)
    layers = dict.fromkeys(_keys(rows, ["layer", "space"])) or {("", ""): None}
    expected = {(str(epoch), *layer): None for epoch in range(number) for layer in layers}
    check_complete(path, _keys(rows, ["epoch", "layer", "space"]), expected, TRAIN)


def check_scores(scored: Iterable[tuple[Path, str, Sequence[Row]]]) -> None:
    """Check the scores of a study's models against one another.

    Args:
        scored: per model its file of scores, what its layers are called after (models of one network have the same),
            and the rows.

    Raises:
        UserError: a layer, a recording or a metric that one model has and another lacks, or that is there twice.
    """
    files = [(path, network, _keys(rows, ["layer", *COMPARISON])) for path, network, rows in scored]
    comparisons = dict.fromkeys(key[1:] for _, _, keys in files for key in keys)
    layers: dict[tuple[str, str], dict[str, None]] = {}
    for _, network, keys in files:
        for layer, benchmark, *_ in keys:
            layers.setdefault((network, benchmark), {})[layer] = None
    for path, network, keys in files:
        expected = {
            (layer, *comparison): None
            for comparison in comparisons
            for layer in layers.get((network, comparison[0]), {})
        }
        if not keys:
            raise UserError(f"{path}: no rows; {SCORE}")
        check_complete(path, keys, expected, SCORE)


def _keys(rows: Iterable[Row], columns: Sequence[str]) -> list[Key]:
    return [tuple(str(row.get(column, "")) for column in columns) for row in rows]
