"""The claims of a study in its report: verdicts and figures, where `workflow.analysis claims` made them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from brain_eval.files import read_frame
from nmnc.errors import UserError
from nmnc.files.reading import read_json

COLUMNS = (
    "prediction", "claim", "says", "side", "threshold", "effect", "ci_low", "ci_high", "n", "n_missing",
    "interval_method", "p_holm", "verdict", "tier",
)  # fmt: skip
_REMEDY = "make it anew with: python -m workflow.analysis claims"


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
    table = read_frame(path, (), f"delete it and {_REMEDY}", text=True)
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]}; delete it and {_REMEDY}")
    return Claims(table, _figures(results / "figures" / "claims"))


def _figures(folder: Path) -> tuple[ClaimFigure, ...]:
    captions = folder / "captions.json"
    if not captions.exists():
        return ()
    try:
        words: dict[str, dict[str, Any]] = read_json(captions, f"delete {folder} and {_REMEDY}")
        return tuple(
            ClaimFigure(folder / Path(name).name, str(own["title"]), str(own["caption"]), str(own["alt"]))
            for name, own in words.items()
            if (folder / Path(name).name).exists()
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{captions} holds no captions; delete {folder} and {_REMEDY}") from None
