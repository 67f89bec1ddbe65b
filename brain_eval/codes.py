"""Codes: how a number was made, or why there is none, as a short value in tables; a codebook explains each in words."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Columns of tables that carry codes.
CODED = ("interval_method", "ceiling_definition", "preprocessing")
#: Columns of a codebook.
CODEBOOK = ("column", "code", "meaning")


@dataclass(frozen=True)
class Code:
    """How a number was made, or why there is none.

    Attributes:
        code: short, without spaces; the content of a table's cell.
        meaning: the same in words, for the codebook. A code has one meaning.
    """

    code: str
    meaning: str

    def __str__(self) -> str:
        return self.code

    def then(self, further: "Code | None", joint: str = "; ") -> "Code":
        """Return this code with a further one behind it."""
        return self if further is None else Code(f"{self.code}/{further.code}", self.meaning + joint + further.meaning)


def none(kind: str, reason: str, *, varies: bool = False) -> Code:
    """Return why there is no number.

    Args:
        kind: of the reason, e.g. "constant-rdm".
        reason: in words.
        varies: the reason names a stimulus or a number; the code then has a few digits of its hash.
    """
    return Code(f"none:{kind}{f':{_digest(reason)}' if varies else ''}", f"none: {reason}")


def preprocessing_code(text: str) -> Code:
    """Return the code of a preprocessing, given as its JSON."""
    return Code(f"p-{_digest(text)}", text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class Codebook(dict[tuple[str, str], str]):
    """Meanings by (column, code)."""

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> "Codebook":
        """Return the meaning of every Code in some rows of a table."""
        cells = ((column, row.get(column)) for row in rows for column in CODED)
        return cls({(column, cell.code): cell.meaning for column, cell in cells if isinstance(cell, Code)})

    def find(self, column: str, cell: str | Code | None) -> Code | None:
        """Return the code in a table's cell, None where it is empty; a code that is not explained means itself."""
        return Code(cell, self.get((column, cell), cell)) if isinstance(cell, str) and cell else cell or None

    @property
    def rows(self) -> list[dict[str, str]]:
        """Rows of CODEBOOK, sorted."""
        return [dict(zip(CODEBOOK, (*key, meaning), strict=True)) for key, meaning in sorted(self.items())]


#: Of tables without a codebook.
UNEXPLAINED = Codebook()
