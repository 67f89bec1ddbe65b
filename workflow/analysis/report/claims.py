"""The claims in a study's report: verdicts and figures made by `workflow.analysis claims`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nmnc.errors import UserError
from nmnc.files.reading import read_json
from workflow.analysis.results import Results

_REMEDY = "run: python -m workflow.analysis claims"


@dataclass(frozen=True)
class ClaimFigure:
    """A finished figure: the PNG with its title, caption and alternative text."""

    path: Path
    title: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Claims:
    """Verdicts and figures of a study's claims.

    Attributes:
        table: claims.csv, every cell as text.
        figures: in the order in which they were drawn.
    """

    table: pd.DataFrame
    figures: tuple[ClaimFigure, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of predictions with each verdict."""
        return {str(verdict): int(n) for verdict, n in self.table["verdict"].value_counts(sort=False).items()}


def read_claims(study: Results) -> Claims | None:
    """Read tables/claims.csv and figures/claims of results/STUDY; None where the study has no verdicts.

    Raises:
        UserError: the table lacks a column, or the captions cannot be read.
    """
    if not study.path("claims").exists():
        return None
    return Claims(study.frame("claims"), _figures(study.folder / "figures" / "claims"))


def _figures(folder: Path) -> tuple[ClaimFigure, ...]:
    captions = folder / "captions.json"
    if not captions.exists():
        return ()
    try:
        entries: dict[str, dict[str, Any]] = read_json(captions, f"delete {folder} and {_REMEDY}")
        return tuple(
            ClaimFigure(folder / Path(name).name, str(entry["title"]), str(entry["caption"]), str(entry["alt"]))
            for name, entry in entries.items()
            if (folder / Path(name).name).exists()
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{captions} has no captions; delete {folder} and {_REMEDY}") from None
