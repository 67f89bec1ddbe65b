"""What README shows is what results/reference holds, and what it names is there."""

import re

import pandas as pd
import pytest

from tests.places import ROOT

REFERENCE = ROOT / "results" / "reference" / "cifar10"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table() -> pd.DataFrame:
    """README's table of the CIFAR-10 study, its cells as text."""
    lines = [line for line in README.splitlines() if line.startswith("|")]
    start = next(number for number, line in enumerate(lines) if "test accuracy" in line and "conv1" in line)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 8]]
    width = len(rows[0])
    body = [row for row in rows[2:] if len(row) == width]
    return pd.DataFrame(body, columns=rows[0]).set_index("rule")


def test_accuracies_of_the_readme_are_those_of_the_reference() -> None:
    accuracy = pd.read_csv(REFERENCE / "tables" / "accuracy.csv")
    last = accuracy.sort_values("epoch").groupby("rule").last()
    shown = table()["test accuracy"]
    for rule, cell in shown.items():
        if rule == "pixels":
            continue
        row = last.loc[rule]
        assert cell == f"{row['mean']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]", rule


def test_similarities_of_the_readme_are_those_of_the_reference() -> None:
    scores = pd.read_csv(REFERENCE / "tables" / "scores.csv.gz")
    monkey = scores[(scores.benchmark == "kriegeskorte2008") & (scores.species == "macaque")]
    mean = monkey[monkey.metric == "spearman"].groupby(["rule", "layer"])["raw"].mean()
    shown = table().drop(columns="test accuracy")
    assert set(shown.index) == {"backprop", "nmnc", "vnc", "random_subspace", "untrained", "pixels"}
    for rule, row in shown.iterrows():
        if rule == "pixels":
            assert row["conv1"] == f"{mean['pixels', 'pixels']:.3f} (no layers)"
            continue
        assert [row[layer] for layer in row.index] == [f"{mean[rule, layer]:.3f}" for layer in row.index], rule


def test_every_file_the_readme_links_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("word", ["@@", "TODO", "FIXME"])
def test_nothing_is_left_open(word: str) -> None:
    assert word not in README
