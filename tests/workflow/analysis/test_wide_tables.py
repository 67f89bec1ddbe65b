"""The tables for reading against numbers computed here, and their formats read back by other means."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from brain_eval.codes import Code, Codebook
from brain_eval.inference.comparisons import ScoredRun
from brain_eval.inference.draws import Drawn
from brain_eval.inference.layer_choice import CHOSEN
from brain_eval.scoring.rows import COLUMNS as SCORE_COLUMNS
from workflow.analysis.wide_tables import (
    Page,
    accuracy_page,
    chosen_pages,
    layer_pages,
    mean_rows,
    wide_files,
    write_wide,
)
from workflow.analysis.wide_tables.formats import csv_text, markdown_escaped, markdown_text
from workflow.analysis.wide_tables.latex import latex_escaped, latex_text
from workflow.analysis.wide_tables.page import Cell, Section, count_of, file_stem, rounded

HOSTILE = r"nmnc|b_1 & 50 % of $\alpha^2$ {#~} <i>"
RULES = {"backprop": "backprop", HOSTILE: "nmnc", "untrained": "untrained"}
SEEDS = ("0", "1", "2")
LAYERS = ("conv1", "fc")
#: session, animal, species, region, ceiling
RECORDINGS = (
    ("210322", "PE", "macaque", "V4", ("", "")),
    ("210325", "WE", "macaque", "V4", ("", "")),
    ("mean", "all", "macaque", "V4", ("0.31", "0.42")),
    ("average", "2 animals", "macaque", "IT", ("", "")),
)


def score_rows(network: str, rule: str, kind: str, seed: str, rng: np.random.Generator) -> list[dict[str, str]]:
    rows = []
    for layer in ("pixels",) if kind == "pixels" else LAYERS:
        for session, animal, species, region, (low, high) in RECORDINGS:
            row = dict.fromkeys(SCORE_COLUMNS, "") | {
                "network": network, "rule": rule, "kind": kind, "seed": seed, "layer": layer, "benchmark": "bench",
                "session": session, "animal": animal, "species": species, "region": region, "metric": "rho-a",
                "raw": f"{rng.normal(0.2, 0.05):.10g}", "ci_low": "0.1", "ci_high": "0.4",
                "interval_method": "code-of-scores.csv", "ceiling_lower": low, "ceiling_upper": high,
                "ceiling_definition": "a definition" if low else "", "n_stimuli": "92",
            }  # fmt: skip
            rows.append(row)
    return rows


def make_runs(draws: dict[tuple[str, str], Drawn] | None = None) -> list[ScoredRun]:
    rng = np.random.default_rng(0)
    runs = [
        ScoredRun("net", rule, seed, 0.5, score_rows("net", rule, kind, seed, rng), draws or {})
        for rule, kind in RULES.items()
        for seed in SEEDS
    ]
    return [*runs, ScoredRun("pixels", "pixels", "0", None, score_rows("pixels", "pixels", "pixels", "0", rng))]


def raws(runs: list[ScoredRun], rule: str, layer: str, region: str) -> list[float]:
    session = "mean" if region == "V4" else "average"
    wanted = {"rule": rule, "layer": layer, "region": region, "session": session}
    return [float(row["raw"]) for run in runs for row in run.scores if wanted.items() <= row.items()]


def pages_of(runs: list[ScoredRun], confidence: float = 0.95) -> Iterator[Page]:
    return layer_pages(list(mean_rows(runs, confidence)), runs)


def cells_of(page: Page, section: int = 0) -> dict[str, tuple[Cell | None, ...]]:
    return {labels[-1]: cells for labels, cells in page.sections[section].rows}


# Numbers


def test_rows_are_means_over_seeds_with_students_interval_where_no_draws_are_known() -> None:
    runs = make_runs()
    [page] = pages_of(runs, 0.9)
    assert page.columns == ("macaque V4 (bench)", "macaque IT (bench)")
    assert [section.title for section in page.sections] == list(LAYERS)
    for number, layer in enumerate(LAYERS):
        assert list(cells_of(page, number)) == [*RULES, "pixels"]
        for rule in RULES:
            for cell, region in zip(cells_of(page, number)[rule], ("V4", "IT"), strict=True):
                values = raws(runs, rule, layer, region)
                low, high = stats.t.interval(0.9, 2, np.mean(values), stats.sem(values))
                assert cell is not None
                assert (cell.mean, cell.low, cell.high) == pytest.approx((np.mean(values), low, high), abs=1e-12)
                assert (cell.n, cell.method and cell.method.meaning) == (3, "Student's t 90 % interval over seeds")


def test_pixels_stand_in_every_layer_with_their_own_interval() -> None:
    runs = make_runs()
    [page] = pages_of(runs)
    first, second = (cells_of(page, number)["pixels"] for number in (0, 1))
    assert first == second
    assert first[0] is not None
    assert (first[0].low, first[0].high, str(first[0].method)) == (0.1, 0.4, "code-of-scores.csv")
    assert first[0].mean == raws(runs, "pixels", "pixels", "V4")[0]


def drawn(raw: float, recordings: int = 1) -> Drawn:
    """Scores of both layers, 40 stimuli, whose variations come from a seeded generator."""
    rng = np.random.default_rng(3)
    labels = tuple(("average", "2 animals", "macaque", "IT") for _ in range(recordings))
    shape = (len(LAYERS), recordings)
    influence = (rng.standard_normal((*shape, 40)) * 0.02).astype(np.float32)
    remainder = (rng.standard_normal((*shape, 200)) * 0.02).astype(np.float32)
    half, recorded = np.zeros((*shape, 2)), np.ones((recordings, 40), bool)
    return Drawn("one sampling", LAYERS, labels, np.full(shape, raw), influence, remainder, half, recorded)


def test_one_seed_and_recording_with_draws_has_fishers_interval_over_stimuli() -> None:
    """Variance L + Q from the draws by hand: the jackknife's L + 2Q less the draws' Q (variation.py)."""
    rng = np.random.default_rng(0)
    draws = drawn(0.3)
    rows = [row | {"raw": "0.3"} for row in score_rows("net", "vnc", "vnc", "0", rng) if row["region"] == "IT"]
    [page] = pages_of([ScoredRun("net", "vnc", "0", None, rows, {("bench", "rho-a"): draws})])
    for number in range(len(LAYERS)):
        [cell] = cells_of(page, number)["vnc"]
        jackknife = float((draws.influence[number, 0].astype(float) ** 2).sum())
        variance = max(jackknife - float((draws.remainder[number, 0].astype(float) ** 2).mean()), jackknife / 2)
        half = stats.t.ppf(0.975, 39) * np.sqrt(variance) / (1 - 0.3**2)
        assert cell is not None
        assert (cell.low, cell.high) == pytest.approx(np.tanh(np.arctanh(0.3) + np.array([-half, half])), abs=1e-9)
        assert cell.method == Code("t-fisher-z:95:stimuli", "Student's t 95 % interval (Fisher z) over stimuli")


def test_stimuli_widen_the_interval_over_seeds() -> None:
    rng = np.random.default_rng(1)
    runs, plain = [], []
    for seed, raw in enumerate((0.28, 0.3, 0.32)):
        rows = [
            row | {"raw": str(raw)} for row in score_rows("net", "vnc", "vnc", str(seed), rng) if row["region"] == "IT"
        ]
        runs.append(ScoredRun("net", "vnc", str(seed), None, rows, {("bench", "rho-a"): drawn(raw)}))
        plain.append(ScoredRun("net", "vnc", str(seed), None, rows))
    found, alone = (cells_of(next(iter(pages_of(own))))["vnc"][0] for own in (runs, plain))
    assert found is not None
    assert alone is not None
    assert found.mean == pytest.approx(alone.mean)
    assert str(found.method) == "t-fisher-z:95:seeds+stimuli"
    # Seeds of the same stimuli share their luck with them: more seeds do not average it away.
    shared = np.sqrt((0.02**2) * 40 / 2)
    assert found.high - found.low > 2 * 1.96 * shared
    assert alone.high - alone.low < 0.15 < found.high - found.low


def test_draws_of_other_stimuli_are_not_mixed() -> None:
    rng = np.random.default_rng(1)
    runs = []
    for seed, sampling in enumerate(("a", "b")):
        one = Drawn(sampling, *list(vars(drawn(0.3)).values())[1:])
        rows = [row for row in score_rows("net", "vnc", "vnc", str(seed), rng) if row["region"] == "IT"]
        runs.append(ScoredRun("net", "vnc", str(seed), None, rows, {("bench", "rho-a"): one}))
    [cell] = cells_of(next(iter(pages_of(runs))))["vnc"]
    assert cell is not None
    assert str(cell.method) == "t:95:seeds"


def test_an_undefined_score_is_left_out_and_counted() -> None:
    runs = make_runs()
    for run in runs:
        for row in run.scores:
            if run.rule == "backprop" and row["layer"] == "fc" and (run.seed == "1" or row["region"] == "IT"):
                row["raw"] = ""
    [page] = pages_of(runs)
    v4, it = cells_of(page, 1)["backprop"]
    assert v4 is not None
    assert v4.n == 2
    assert it is None
    assert rounded(it) == "-"
    assert csv_rows(page)[("fc", "backprop")]["macaque IT (bench): mean"] == ""


def test_unknown_ceilings_are_unknown_and_never_one() -> None:
    [page] = pages_of(make_runs())
    assert page.sections[0].ceilings == ((0.31, 0.42), (None, None))
    assert "| noise ceiling |  | 0.310 to 0.420 | unknown |" in markdown_text(page)
    assert r"\multicolumn{2}{l}{noise ceiling} & 0.310 to 0.420 & unknown \\" in latex_text(page)
    assert "a definition." in page.note


def layers_rows() -> list[dict[str, str]]:
    rows = []
    for seed, (half, conv1) in enumerate(((0.2, 0.9), (0.3, 0.4), (0.25, 0.8))):
        where = {"network": "net", "rule": "backprop", "seed": str(seed), "benchmark": "bench", "species": "macaque"}
        where |= {"region": "V4", "metric": "rho-a"}
        rows += [where | {"layer": "conv1", "half": "0.1", "chosen": str(conv1)}]
        rows += [where | {"layer": "fc", "half": "0.1", "chosen": str(1 - conv1)}]
        rows += [where | {"layer": CHOSEN, "half": str(half), "chosen": ""}]
    return rows


def accuracy_rows() -> list[dict[str, str]]:
    return [
        {"network": network, "rule": rule, "epoch": epoch, "n_seeds": "3", "mean": mean, "ci_low": "0.35",
         "ci_high": "0.45", "interval_method": "code-of-accuracy.csv"}
        for network, rule in (("net", "backprop"), ("net", HOSTILE), ("wide_net", "backprop"))
        for epoch, mean in (("0", "0.1"), ("1", "0.4"))
    ]  # fmt: skip


def test_accuracy_is_that_of_the_last_epoch() -> None:
    page = accuracy_page(accuracy_rows(), Codebook({("interval_method", "code-of-accuracy.csv"): "made so"}))
    assert page.columns == ("net", "wide_net")
    assert cells_of(page)["backprop"] == (Cell(0.4, 0.35, 0.45, 3, Code("code-of-accuracy.csv", "made so")),) * 2
    assert cells_of(page)[HOSTILE][1] is None
    assert "Interval: made so." in page.note
    assert "ceiling" not in csv_text(page)


def test_reach_is_the_larger_side_of_an_uneven_interval() -> None:
    assert Cell(0.5, 0.1, 0.6, 3).reach == pytest.approx(0.4)
    assert Cell(0.5, None, None, 1).reach is None
    assert rounded(Cell(0.5, 0.1, 0.6, 3, note="fc 60 %")) == "0.500 ± 0.400 (fc 60 %)"
    assert rounded(Cell(-0.01234, None, None, 1)) == "-0.012"
    assert count_of([Cell(0, None, None, 3), None, Cell(0, None, None, 2)]) == "2 to 3"
    assert count_of([None]) == "-"


# Formats


def csv_rows(page: Page) -> dict[tuple[str, ...], dict[str, str]]:
    first = ("layer", "rule") if page.section_head else page.heads
    return {tuple(row[key] for key in first): row for row in csv.DictReader(io.StringIO(csv_text(page)))}


def test_csv_holds_every_number_and_its_words() -> None:
    runs = make_runs()
    [page] = pages_of(runs)
    rows = csv_rows(page)
    assert len(rows) == len(LAYERS) * (len(RULES) + 1)
    for (layer, rule), row in rows.items():
        own = "pixels" if rule == "pixels" else layer
        for region in ("V4", "IT"):
            column = f"macaque {region} (bench)"
            assert float(row[f"{column}: mean"]) == pytest.approx(np.mean(raws(runs, rule, own, region)), abs=1e-9)
            assert row[f"{column}: n_seeds"] == ("1" if rule == "pixels" else "3")
            assert row[f"{column}: interval_method"]
        assert (row["macaque V4 (bench): ceiling_lower"], row["macaque IT (bench): ceiling_lower"]) == ("0.31", "")


def split_unescaped(line: str, mark: str) -> list[str]:
    return [part.strip() for part in re.split(rf"(?<!\\){re.escape(mark)}", line)]


def test_markdown_tables_have_equal_columns_and_give_labels_back() -> None:
    [page] = pages_of(make_runs())
    text = markdown_text(page)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(split_unescaped(line, "|")) for line in lines} == {4 + 2}
    labels = [re.sub(r"\\(.)", r"\1", split_unescaped(line, "|")[1].replace("\\\\", "\\\\\\\\")) for line in lines]
    assert len(lines) == len(LAYERS) * (2 + len(RULES) + 2)
    assert sum(label.startswith("nmnc|b_1 & 50 % of $") for label in labels) == len(LAYERS)
    assert text.count("## ") == len(LAYERS)
    assert "<i>" not in text.replace("\\<", "")


def test_markdown_leaves_no_mark_of_its_own() -> None:
    assert markdown_escaped("a_b*c|d") == r"a\_b\*c\|d"
    assert re.sub(r"\\(.)", r"\1", markdown_escaped(HOSTILE)) == HOSTILE


#: A cell of two lines is a table in the table.
INNER = re.compile(r"\\begin\{tabular\}\[[tb]\]\{@\{\}r@\{\}\}(.*?) \\\\ (.*?)\\end\{tabular\}")


def latex_tables(text: str) -> list[tuple[str, list[list[str]]]]:
    """Layout and rows of each table, the lines of a cell joined."""
    found = []
    for layout, content in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\n\\end\{tabular\}\n", text, flags=re.DOTALL):
        lines = [INNER.sub(r"\1 \2", line) for line in content.splitlines()]
        assert (lines[0], lines[2], lines[-1]) == (r"\toprule", r"\midrule", r"\bottomrule")
        found.append(
            (layout, [split_unescaped(line.removesuffix(r" \\"), "&") for line in lines if line.endswith(r" \\")])
        )
    return found


def test_latex_environments_nest_and_every_row_fills_the_table() -> None:
    for page in (*pages_of(make_runs()), accuracy_page(accuracy_rows())):
        text = latex_text(page)
        open_now: list[str] = []
        for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
            if kind == "begin":
                open_now.append(name)
            else:
                assert open_now.pop() == name
        assert not open_now
        tables = latex_tables(text)
        assert len(tables) == text.count(r"\begin{table}") == len(set(re.findall(r"\\label\{.*\}", text)))
        for layout, rows in tables:
            assert rows[0][:2] == ["rule", "seeds"]
            for row in rows:
                spanned = re.match(r"\\multicolumn\{(\d+)\}\{l\}\{noise ceiling\}", row[0])
                assert len(row) - 1 + int(spanned[1] if spanned else 1) == len(layout)


def test_latex_tables_are_as_wide_as_a_page_and_lose_no_column() -> None:
    columns = tuple(f"macaque V{i} (benchmark{i})" for i in range(9))
    cells = tuple(Cell(i / 10, i / 10 - 0.01, i / 10 + 0.01, 6, note="conv1 70 %") for i in range(9))
    rows = ((("net", "random_subspace"), cells), (("pixels", "pixels"), (None,) * 9))
    section = Section("", rows, ((0.25, 0.5),) * 9)
    text = latex_text(Page("chosen_x", "Title", "Note.", "", ("network", "rule"), columns, (section,)))
    tables = latex_tables(text)
    assert len(tables) > 1
    assert [head for _, lines in tables for head in lines[0][3:]] == [column for column in columns]
    for _, lines in tables:
        widths = [max(len(part) for row in lines[:-1] for part in row[i].split(" (")) for i in range(len(lines[0]))]
        assert sum(width + 1.5 for width in widths) < 90
        assert [row[1] for row in lines[1:-1]] == [r"random\_subspace", "pixels"]
    # The note once; the other parts say which they are.
    assert text.count("Note.") == 1
    assert [f"({i} of {len(tables)})" in text for i in range(1, len(tables) + 1)] == [True] * len(tables)
    alone = Page("x", "T", "N.", "", ("rule",), ("a" * 200,), (Section("", ((("r",), (None,)),)),))
    assert len(latex_tables(latex_text(alone))) == 1


def test_latex_shows_labels_as_they_stand() -> None:
    escaped = latex_escaped(HOSTILE)
    assert not re.search(r"(?<!\\)[&%#_]", escaped)
    assert escaped.count("{") == escaped.count("}")
    words = {r"\textbackslash{}": "\\", r"\textbar{}": "|", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~"}
    words |= {r"\textless{}": "<", r"\textgreater{}": ">", r"\texttt{\char34}": '"'}
    for word, letter in words.items():
        escaped = escaped.replace(word, f"\\{letter}" if letter != "\\" else "\0")
    assert re.sub(r"\\(.)", r"\1", escaped).replace("\0", "\\") == HOSTILE
    assert latex_escaped("-0.012±0.034") == r"$-$0.012$\pm$0.034"
    assert latex_escaped("rho-a 2-3") == "rho-a 2-3"
    assert latex_escaped("[0.1]") == "{}[0.1]"
    assert latex_escaped("a--b") == "a-{}-b"


def test_brackets_stand_on_a_second_line_of_their_cell() -> None:
    [page] = chosen_pages(layers_rows(), make_runs())
    text = latex_text(page)
    assert r"\begin{tabular}[b]{@{}r@{}}macaque V4 \\ (bench)\end{tabular}" in text
    assert r"\begin{tabular}[t]{@{}r@{}}0.250$\pm$0.124 \\ (conv1 70 \%)\end{tabular} \\" in text
    assert "both ends stand in chosen" in text
    assert "both ends stand in" not in latex_text(Page("x", "T", "N.", "", ("rule",), ("a",), ()))


def test_same_rows_same_bytes_and_three_formats_each(tmp_path: Path) -> None:
    first, second = (
        wide_files(make_runs(), accuracy_rows(), list(mean_rows(make_runs())), layers_rows()) for _ in range(2)
    )
    assert first == second
    assert {name.partition(".")[0] for name in first} == {"layers_rho-a_net", "chosen_rho-a", "accuracy"}
    assert {name.rpartition(".")[2] for name in first} == {"csv", "md", "tex"}
    for folder in ("a", "b"):
        write_wide(tmp_path / folder, first)
        assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / folder).iterdir()} == first


def test_tables_of_an_earlier_study_go_and_the_users_own_stay(tmp_path: Path) -> None:
    write_wide(tmp_path, {"layers_spearman_old.csv": "", "accuracy.tex": ""})
    (tmp_path / "mine.tex").write_text("the user's own")
    write_wide(tmp_path, {"chosen_rho-a.md": "new"})
    assert {path.name for path in tmp_path.iterdir()} == {"chosen_rho-a.md", "mine.tex"}


def test_file_names_stay_in_their_folder() -> None:
    assert file_stem("layers", "a/../b c", "ü") == "layers_a-..-b-c_-"
    empty = Page("x", "T", "N.", "", ("rule",), ("a",), (Section("", ((("r",), (None,)),)),))
    assert "| r | - | - |" in markdown_text(empty)
