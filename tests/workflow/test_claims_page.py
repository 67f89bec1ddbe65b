"""docs/predictions.md and docs/claims.md say what the predictions and the published verdicts say."""

import csv
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from workflow import claims_page
from workflow.claims.predictions import load_predictions
from workflow.claims.runs import Runs
from workflow.claims.verdicts import verdicts

CLAIMS = claims_page.ROOT / "docs" / "claims.md"


def test_the_page_is_what_its_command_writes() -> None:
    assert claims_page.PAGE.read_text(encoding="utf-8") == claims_page.page(), "run python -m workflow.claims_page"


def test_every_prediction_stands_on_the_page_once_with_its_threshold() -> None:
    text = claims_page.PAGE.read_text(encoding="utf-8")
    claims = yaml.safe_load(claims_page.PREDICTIONS.read_text(encoding="utf-8"))["claims"]
    for claim in claims.values():
        for name, prediction in claim["predictions"].items():
            (row,) = re.findall(rf"^\| {re.escape(name)} \|.*$", text, re.MULTILINE)
            threshold = prediction.get("above", prediction.get("below"))
            assert f"`{prediction['quantity']}`" in row
            assert f" {threshold:g} |" in row


def test_published_verdicts_and_their_intervals_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = tmp_path / "results" / "reference" / "claims" / "tables"
    tables.mkdir(parents=True)
    row = {"prediction": "C1.1", "effect": "0.25", "ci_low": "0.2", "ci_high": "0.3", "n": "6", "verdict": "supported"}
    row["p_holm"] = "0.0123"
    with (tables / "claims.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    monkeypatch.setattr(claims_page, "ROOT", tmp_path)
    text = claims_page.page()
    assert "| CPU | 0.250 [0.200, 0.300] | 6 | 0.012 | **supported** |" in text
    assert text.count("not run") >= 20
    assert text.startswith("# Predictions and verdicts\n")


def test_claims_quote_the_published_verdicts() -> None:
    """A row of docs/claims.md that ends in a code repeats that row of docs/predictions.md."""
    rows = [line.strip("|").split("|") for line in CLAIMS.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    quoted = {row[-1].strip(): [cell.strip() for cell in row] for row in rows if re.match(r" C\d+\.\d+ $", row[-1])}
    assert len(quoted) > 10
    page = claims_page.PAGE.read_text(encoding="utf-8")
    for code, (_, verdict, effect, n, _, _) in quoted.items():
        (row,) = re.findall(rf"^\| {re.escape(code)} \|.*$", page, re.MULTILINE)
        assert f"| {effect} | {n} |" in row, code
        assert f"| **{verdict}** |" in row, code


def test_published_verdicts_follow_from_the_published_runs() -> None:
    published = claims_page.ROOT / "results" / "reference" / "claims"
    table = pd.read_csv(published / "tables" / "claims.csv")
    found = verdicts(Runs(published), load_predictions(claims_page.PREDICTIONS), "CPU")
    pd.testing.assert_frame_equal(found[table.columns], table, check_dtype=False, rtol=1e-6)
