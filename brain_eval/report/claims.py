"""The claims of a study in its report: verdicts and figures, where `python -m brain_eval claims` has made them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nmnc.errors import UserError

COLUMNS = (
    "prediction", "claim", "says", "side", "threshold", "effect", "ci_low", "ci_high", "n", "n_missing",
    "interval_method", "p_holm", "verdict", "tier",
)  # fmt: skip
_REMEDY = "make it anew with: python -m brain_eval claims"


@dataclass(frozen=True)
class ClaimFigure:
    """A finished figure: the PNG and its words."""

    path: Path
    title: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Claims:
    """What a study says of the claims.

    Attributes:
        table: claims.csv, every cell as text.
        figures: in the order in which they were drawn.
    """

    table: pd.DataFrame
    figures: tuple[ClaimFigure, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Predictions of each verdict."""
        return {str(verdict): int(n) for verdict, n in self.table["verdict"].value_counts(sort=False).items()}


def read_claims(results: Path) -> Claims | None:
    """Read tables/claims.csv and figures/claims of results/STUDY; None where the study has no verdicts.

    Raises:
        UserError: the table lacks a column, or the captions cannot be read.
    """
    path = results / "tables" / "claims.csv"
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        raise UserError(f"{path} is not a CSV table; delete it and {_REMEDY}") from None
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]}; delete it and {_REMEDY}")
    return Claims(table, _figures(results / "figures" / "claims"))


def _figures(folder: Path) -> tuple[ClaimFigure, ...]:
    captions = folder / "captions.json"
    if not captions.exists():
        return ()
    try:
        words: dict[str, dict[str, Any]] = json.loads(captions.read_text(encoding="utf-8"))
        return tuple(
            ClaimFigure(folder / Path(name).name, own["title"], own["caption"], own["alt"])
            for name, own in words.items()
            if (folder / Path(name).name).exists()
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{captions} holds no captions; delete {folder} and {_REMEDY}") from None
