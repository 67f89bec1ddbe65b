"""Replace sentences by codes in published tables of earlier versions: python -m workflow.recode FOLDER...

Sentences in interval_method, ceiling_definition and preprocessing become codes; all other cells are unchanged. Each
folder of tables gets a codebook.csv. For a study of your own, run the study again instead.
"""

import csv
import gzip
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from brain_eval.activations.preprocessing import Preprocessing
from brain_eval.codes import CODEBOOK, CODED, Code, Codebook, none, preprocessing_code
from brain_eval.inference.comparisons import PAIRED_T
from brain_eval.inference.intervals import FISHER_Z, STUDENT, interval_code
from brain_eval.metrics import METRICS
from brain_eval.scoring.ceilings import CKA_LOWER, SPEARMAN_BROWN, left_out, lower_of, split_halves
from brain_eval.scoring.response_scores import CEILING, splits_code
from brain_eval.scoring.rows import SPREAD, averaged
from nmnc.command_line import run_command
from nmnc.errors import UserError
from nmnc.files.reading import read_text
from nmnc.files.writing import write_csv, write_text

OVER = r"((?:(?:, | and )?(?:seeds|stimuli|recordings))+)"
ENDS = r"((?:(?:, )?(?:lower|upper) over \d+)+)"
RANKED = "corrected for counting pairs of stimuli twice; pairs ranked before resampling, not anew in every draw"
CKA = r"corrected for counting pairs of stimuli twice; linear CKA, (\w+) HSIC; draws are random halves of the stimuli"
HALVES = r"split-half over repetitions \((\d+) random splits; (\d+) images\): "


def _interval(method: tuple[str, str]) -> Callable[..., Code]:
    return lambda percent, over: interval_code(method, float(percent) / 100, re.findall(r"[a-z]{4,}", over))


def _mean(n: str, text: str) -> Code | None:
    ends = {name: [0.0] * int(known) for name, known in re.findall(r"(\w+) over (\d+)", text)}
    return averaged(ends.get("lower", []), ends.get("upper", []), int(n))


#: Pattern of a part of a sentence -> function from its groups to the code; None if other columns contain it.
PIECES: dict[str, Callable[..., Code | None]] = {
    rf"Student's t (\d+) % interval of rule_a - rule_b, paired by seed, over {OVER}": _interval(PAIRED_T),
    rf"Student's t (\d+) % interval \(Fisher z\) over {OVER}": _interval(FISHER_Z),
    rf"Student's t (\d+) % interval over {OVER}": _interval(STUDENT),
    r", variance by jackknife and draws": lambda: SPREAD,
    RANKED: lambda: METRICS["spearman"].method,
    CKA: lambda bias: METRICS[f"cka-{bias}"].method,
    r"test stimuli are drawn, fits are kept \(their own variation is not included\)": lambda: METRICS["pls"].method,
    r"(\d+) splits, median over neuroids, mean over splits": lambda n: splits_code(int(n), stratified=False),
    r"none: (PLS needs at least \d+ features)": lambda reason: none("few-features", reason, varies=True),
    r"leave-one-(\w+)-out over (\d+) \w+ \((\d+) RDMs; mean of ranks; Nili et al\. 2014\)": left_out,
    rf"{HALVES}lower = mean correlation of half RDMs; upper = sqrt\(Spearman-Brown reliability\)": (
        lambda splits, images: split_halves(splits, images, SPEARMAN_BROWN)
    ),
    rf"{HALVES}lower = mean similarity of half RDMs; upper unknown for (\w+ RDMs)": (
        lambda splits, images, what: split_halves(splits, images, lower_of(what))
    ),
    rf"{HALVES}lower = mean CKA of half averages; upper unknown for CKA": (
        lambda splits, images: split_halves(splits, images, CKA_LOWER)
    ),
    r"upper = median over neuroids of sqrt\(reliability\), the reliability [^;]*": lambda: CEILING,
    rf"mean over those of (\d+) recordings that have it: {ENDS}": _mean,
    r"ceiled = .*": lambda: None,
    r"Student's t 95 % \(Fisher z\) of bootstrap over (stimuli|stimuli and recordings)( jointly)?, pairs' variance "
    r"counted once; pairs ranked once": lambda over, jointly: Code(
        f"t-fisher-z:95:{over.replace(' and ', '+')}/bootstrap/pairs/ranked-once",
        f"Student's t 95 % interval (Fisher z) over {over}, variance by bootstrap; corrected for counting pairs of "
        "stimuli twice; pairs ranked before resampling, not in every draw",
    ),
}
SEEN = re.compile(r"(\d+)x\d+ RGB, antialiased bilinear, mean ([\d. ]+), std ([\d. ]+)")


def recoded(column: str, text: str) -> Code:
    """Return the code of a sentence in one of the columns CODED; UserError if it is unknown."""
    if column == "preprocessing" and (seen := SEEN.fullmatch(text)):
        mean, std = (tuple(float(value) for value in seen[number].split()) for number in (2, 3))
        return preprocessing_code(Preprocessing(int(seen[1]), 3, mean, std).to_json())
    codes: list[Code] = []
    remainder = text
    while remainder:
        found = next(
            ((match, make) for pattern, make in PIECES.items() if (match := re.match(pattern, remainder))), None
        )
        if found is None:
            raise UserError(
                f"{column}: {text!r} is not a sentence of an earlier version (from {remainder!r} on); fix it or "
                "run the study again"
            )
        code = found[1](*found[0].groups())
        codes += [code] if code else []
        remainder = remainder[found[0].end() :].removeprefix("; ")
    joined = codes[0]
    for code in codes[1:]:
        joined = joined.then(code, ", " if code == SPREAD else "; ")
    return joined


def recode(path: Path) -> Codebook:
    """Rewrite a table, which may be compressed, and return the meanings of its codes."""
    header, *rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    codebook = Codebook()
    columns = {index: name for index, column in enumerate(header) if (name := column.split(": ")[-1]) in CODED}
    for row in rows:
        for index, column in columns.items():
            if " " in row[index]:
                code = recoded(column, row[index])
                row[index], codebook[column, code.code] = code.code, code.meaning
    if codebook:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
        else:
            write_text(path, text.getvalue())
    return codebook


def main(folders: Annotated[list[Path], typer.Argument(help="Folders of published tables.")]) -> None:
    """Rewrite the tables in these folders, and in wide/ below them, and write a codebook to each folder."""
    for folder in folders:
        codebook = Codebook()
        for path in sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz"), *folder.glob("wide/*.csv")]):
            if path.name not in ("claims.csv", "codebook.csv"):
                codebook |= recode(path)
        if codebook:
            write_csv(folder / "codebook.csv", CODEBOOK, codebook.rows)


if __name__ == "__main__":
    run_command(lambda: typer.run(main), "recode")
