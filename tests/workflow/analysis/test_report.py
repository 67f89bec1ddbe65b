"""The report: one file, nothing loaded, every number the table's own, every mistake one line."""

import base64
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import workflow.analysis.report.study
from brain_eval.benchmarks.base import Benchmark
from nmnc.errors import UserError
from tests.places import ROOT
from workflow.analysis.figures import palette
from workflow.analysis.report import render, write_report
from workflow.analysis.report.rows import MOST_ROWS, count, interval, listing, number, shown
from workflow.analysis.report.study import TABLES, read_study


class Page(HTMLParser):
    """Tags with their attributes, text outside style and script, and tables as lists of rows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self._raw = 0
        self._cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        self._raw += tag in ("style", "script")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._raw -= tag in ("style", "script")
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text += data
            if self._cell:
                self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def with_columns(self, *columns: str) -> list[list[list[str]]]:
        return [table for table in self.tables if set(columns) <= set(table[0])]


@pytest.fixture(scope="session")
def html(written: Any) -> str:
    return (written.results / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    return Page(html)


def test_codes_are_spelled_out_once_and_listed_as_they_are(html: str) -> None:
    rows = html[html.index("<summary>codebook") :]
    assert "<td>ceiling_definition</td><td>stated</td><td>a stated definition</td>" in rows
    assert "<b>interval_method</b> t:88:seeds+stimuli" in html[html.index("<summary>means") :]
    assert "Interval: Student&#39;s t 88 % interval over seeds and stimuli." in html


def test_nothing_is_loaded_from_anywhere(page: Page, html: str) -> None:
    assert not page.all("link")
    assert not page.all("iframe")
    assert not any("src" in script for script in page.all("script"))
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert all(anchor["href"].startswith("#") for anchor in page.all("a"))
    assert not any("style" in attributes and "url(" in attributes["style"] for _, attributes in page.tags)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert len(html) < 8e6


def test_every_figure_is_embedded_with_its_words(page: Page, written: Any) -> None:
    folder = written.results / "figures"
    drawn = {path.read_bytes(): path for path in folder.rglob("*.png")}
    shown_here = {base64.b64decode(image["src"].partition(",")[2]) for image in page.all("img")}
    assert shown_here <= set(drawn)
    # A network's RDMs alone are drawn to be shared; here they stand beside the recorded ones.
    left_out = {path.name.partition("_")[0] for data, path in drawn.items() if data not in shown_here}
    assert left_out <= {"modelrdms"}
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("figcaption")) == len(page.all("img"))


def test_contents_lead_somewhere(page: Page) -> None:
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [anchor["href"][1:] for anchor in page.all("a")]
    assert len(links) == 8
    assert set(links) <= targets


def test_labels_are_escaped(page: Page, html: str, hostile: str) -> None:
    assert hostile in page.text
    assert hostile not in html
    assert not page.all("i")
    assert "# a comment with <tags> & signs" in page.text
    assert not page.all("tags")


def test_simulated_is_said_wherever_it_stands(page: Page, html: str) -> None:
    for table in page.with_columns("rule", "noise ceiling"):
        assert table  # each has the heading before it, checked below
    for heading in html.split("<h4>")[1:]:
        title = heading.partition("</h4>")[0]
        assert ("simulated IT" in title or "simulated V1" in title or "simulated, version" in title) == (
            'class="badge">simulated' in title
        )
    for figure in html.split("<figcaption>")[1:]:
        caption = figure.partition("</figcaption>")[0]
        if "_simulated_" in caption:
            assert "(simulated, not recorded)" in caption
            assert "do not share" not in caption
    assert "say nothing about any brain" in page.text


def test_recorded_panels_are_marked(html: str) -> None:
    caption = next(
        part.partition("</figcaption>")[0]
        for part in html.split("<figcaption>")
        if "figures/local/rdms_objects" in part.partition("</figcaption>")[0]
    )
    assert "shows stimuli or recorded data: do not share" in caption


def test_headline_accuracy_is_the_tables(page: Page, written: Any) -> None:
    accuracy = written.table("accuracy")
    table = page.with_columns("rule", "test accuracy", "forward passes")[0]
    assert len(table) == 1 + accuracy["rule"].nunique()
    for row in table[1:]:
        own = accuracy[accuracy["rule"].eq(row[1])]
        last = own[own["epoch"].eq(own["epoch"].max())].iloc[0]
        assert row[3] == f"{last['mean']:.3f}[{last.ci_low:.3f}, {last.ci_high:.3f}]"
        assert row[4] == f"{last['min']:.3f} to {last['max']:.3f}"
        assert (row[5], row[6]) == ("2", "360")
        assert row[8].replace(",", "") == f"{last.perturbations:.0f}"


def test_intervals_are_told_in_the_tables_words_and_their_caution_is_said(page: Page) -> None:
    assert "Brackets: Student's t 87 % interval over seeds, unknown with one seed;" in page.text
    # The held-out table alone makes intervals of its own, at the study's confidence.
    assert (
        page.text.count("95 % interval over") == page.text.count("Interval: Student's t 95 % interval over seeds;") == 1
    )


def test_what_a_reader_of_a_benchmark_must_know_stands_at_its_heading_and_in_its_captions(
    page: Page, html: str
) -> None:
    assert page.text.count("Note: very noisy & small.") == 1
    for part in html.split("<figcaption>")[1:]:
        caption = part.partition("</figcaption>")[0]
        assert ("objects: very noisy &amp; small." in caption) == ("_objects" in caption), caption
    assert page.text.count("a neuron, a recording site or a voxel") == 1


def test_the_model_figure_says_which_seed_of_how_many(html: str) -> None:
    [caption] = [part for part in html.split("<figcaption>") if "/models_objects.png" in part.partition("</fig")[0]]
    assert "Networks of seed 0 (one of each rule's 2)" in caption.replace("&#39;", "'")


def test_the_coverage_told_is_that_of_the_committed_table(page: Page) -> None:
    table = pd.read_csv(ROOT / "results/reference/bench/interval_coverage.csv")
    table = table[table["case"].eq("score")]
    for stimuli, recordings, words in (
        (92, (1,), "in {} % of simulations for a single recording"),
        (92, (2, 3, 4, 7), "in {} % for a mean over two to seven recordings."),
        (20, (1, 2, 3, 4, 7), "With 20 stimuli the intervals cover the true value in {} %, but are too wide"),
    ):
        own = 100 * table[table["n_stimuli"].eq(stimuli) & table["n_recordings"].isin(recordings)]["covered"]
        assert words.format(f"{own.min():.0f} to {own.max():.0f}") in page.text


def test_every_layer_has_score_interval_ceiling_and_n(page: Page, written: Any) -> None:
    scores = written.table("scores").query(
        "benchmark == 'objects' and metric == 'spearman' and species == 'human' and session == 'mean'"
    )
    tables = page.with_columns("rule", "seeds", "conv1", "conv2", "fc", "noise ceiling")
    human = tables[1]
    assert [row[0] for row in human[1:]] == list(dict.fromkeys(scores["rule"]))
    for row in human[1:-1]:
        means = scores[scores["rule"].eq(row[0])].groupby("layer", sort=False)["raw"].mean()
        assert row[1] == "2"
        assert row[2:5] == [f"{mean:.3f}[{mean - 0.0412:.3f}, {mean + 0.0513:.3f}]" for mean in means]
        assert row[5] == "0.310 to 0.420"
    pixels = scores[scores["rule"].eq("pixels")].iloc[0].raw
    assert f"{pixels:.3f} [{pixels - 0.0412:.3f}, {pixels + 0.0513:.3f}]" in human[-1][2]
    assert "Interval: Student's t 88 % interval over seeds and stimuli. Ceiling" in page.text
    assert "n = 24 stimuli, 400 neuroids" in page.text


def test_unknown_ceiling_is_unknown_and_never_one(page: Page) -> None:
    monkey = page.with_columns("rule", "seeds", "conv1", "noise ceiling")[0]
    assert {row[-1] for row in monkey[1:]} == {"unknown"}
    for table in page.with_columns("raw", "ceiling_upper"):
        column = table[0].index("ceiling_upper")
        cells = {row[column] for row in table[1:]}
        assert "unknown" in cells
        assert not cells & {"", "1", "1.0", "nan"}
        ceiled = table[0].index("ceiled")
        assert all((row[ceiled] == "unknown") == (row[column] == "unknown") for row in table[1:])


def test_listed_scores_are_those_of_the_csv(page: Page, written: Any) -> None:
    scores = written.table("scores")
    listed = page.with_columns("raw", "ci_low", "ci_high")
    numbers = [float(row[table[0].index("raw")]) for table in listed for row in table[1:]]
    grouped = scores.groupby(["benchmark", "metric"], sort=False)
    expected = pd.concat([rows for _, rows in grouped])["raw"]
    assert len(numbers) == len(scores)
    np.testing.assert_allclose(numbers, expected, rtol=5.1e-4)


def test_provenance_tells_all(page: Page) -> None:
    for fact in (
        "torch 2.14.1", "A CPU", "unknown (not a git checkout)", "ef" * 32, "ab" * 32, "cd" * 32,
        "C & D", "A & B (2026) objects", "CC0", "BSD", "https://example.org/y.mat", "61.2",
    ):  # fmt: skip
        assert fact in page.text, fact
    assert len(page.with_columns("weights, sha256", "device")[0]) == 1 + 10


def test_files_have_whichever_hash_is_known_and_no_size_is_unknown(page: Page) -> None:
    for table in page.with_columns("file", "bytes", "hash", "source"):
        assert [row[:3] for row in table[1:]] == [
            ["x/y.mat", "5", f"sha256 {'cd' * 32}"],
            ["x/z.nc", "unknown", f"sha1 {'ba' * 20}"],
        ]
    assert len(page.with_columns("file", "bytes", "hash", "source")) == 3


def test_captions_of_training_say_how_many_images_are_behind_them(page: Page, html: str) -> None:
    captions = [part.partition("</figcaption>")[0] for part in html.split("<figcaption>")[1:]]
    accuracy = [caption for caption in captions if "figures/accuracy" in caption]
    diagnosed = [caption for caption in captions if re.search("figures/(alignment|alpha|margin)_", caption)]
    assert accuracy
    assert len(diagnosed) >= 3
    assert all("Test images: 360." in caption for caption in accuracy)
    assert all("Test images: 360, of which the first 128 are behind this figure." in caption for caption in diagnosed)
    others = [caption for caption in captions if caption not in accuracy + diagnosed]
    assert not any("Test images" in caption for caption in others)


def test_same_study_same_page(fake_study: Any) -> None:
    pages = []
    for _ in range(2):
        study = read_study(fake_study.results, fake_study.config, fake_study.data)
        pages.append(render(study, palette(study.tables["runs"]), []))
    assert pages[0] == pages[1]


def test_nothing_trained_still_makes_a_page(fake_study: Any, means_of: Any) -> None:
    tables = fake_study.results / "tables"
    runs = fake_study.table("runs").query("kind == 'pixels'")
    resnet = pd.DataFrame([{"network": "resnet20", "rule": "pretrained", "kind": "pretrained", "seed": 0}])
    pd.concat([resnet, runs]).to_csv(tables / "runs.csv", index=False)
    for name in ("accuracy", "epochs", "alignment"):
        fake_study.table(name).iloc[:0].to_csv(tables / f"{name}.csv", index=False)
    scores = fake_study.table("scores").query("rule in ['backprop', 'pixels'] and seed == 0")
    own = scores["rule"].eq("backprop")
    scores.loc[own, ["network", "rule", "kind"]] = ["resnet20", "pretrained", "pretrained"]
    scores.to_csv(tables / "scores.csv", index=False)
    means_of(scores).to_csv(tables / "means.csv", index=False)
    here = fake_study.results / "scores"
    (here / "resnet20/pretrained").mkdir(parents=True)
    shutil.copy(here / "convnet/backprop/seed0_rdms.nc", here / "resnet20/pretrained/seed0_rdms.nc")
    study = read_study(fake_study.results, fake_study.config, fake_study.data)
    text = Page(render(study, palette(study.tables["runs"]), [])).text
    assert "No network was trained in this study." in text
    assert "objects, macaque IT · resnet20" in text


@pytest.mark.parametrize("name", list(TABLES))
def test_missing_table_is_named_with_its_command(fake_study: Any, name: str) -> None:
    (fake_study.results / f"tables/{name}.csv").unlink()
    command = "python -m nmnc runs" if name == "runs" else "python -m workflow.analysis tables"
    with pytest.raises(UserError, match=rf"tables/{name}\.csv is missing; make it with: {command}") as error:
        write_report(fake_study.results, fake_study.config, fake_study.data)
    assert "\n" not in str(error.value)
    assert not (fake_study.results / "report.html").exists()
    assert not (fake_study.results / "figures").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("networks/convnet/vnc/seed1/provenance.json", r"provenance\.json is missing; .*python -m nmnc train"),
        ("benchmarks/scenes.json", r"scenes\.json is missing; .*brain_eval fetch --benchmark scenes"),
        ("scores/convnet/nmnc/seed0_rdms.nc", r"seed0_rdms\.nc is missing; .*brain_eval score"),
    ],
)
def test_other_missing_files_are_named(fake_study: Any, path: str, message: str) -> None:
    (fake_study.results / path).unlink()
    with pytest.raises(UserError, match=message):
        read_study(fake_study.results, fake_study.config, fake_study.data)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("tables/scores.csv", "network,rule\na,b\n", r"scores\.csv lacks the column kind"),
        ("tables/accuracy.csv", "", r"accuracy\.csv: empty; it needs a header line"),
        ("benchmarks/scenes.json", "{", r"scenes\.json: not JSON"),
        ("scores/convnet/nmnc/seed0_rdms.nc", "text", r"seed0_rdms\.nc: damaged, or not the NetCDF file"),
    ],
)
def test_damaged_files_are_named(fake_study: Any, path: str, content: str, message: str) -> None:
    (fake_study.results / path).write_text(content)
    with pytest.raises(UserError, match=message):
        read_study(fake_study.results, fake_study.config, fake_study.data)


def test_means_of_other_scores_are_refused(fake_study: Any) -> None:
    path = fake_study.results / "tables/means.csv"
    fake_study.table("means").replace({"region": {"IT": "V4"}}).to_csv(path, index=False)
    message = (
        r"means\.csv has a row that scores\.csv lacks \(.*V4.*\); remake both with: python -m workflow.analysis tables"
    )
    with pytest.raises(UserError, match=message):
        read_study(fake_study.results, fake_study.config, fake_study.data)


def test_text_for_a_number_is_named(fake_study: Any) -> None:
    path = fake_study.results / "tables/epochs.csv"
    fake_study.table("epochs").astype({"epoch": object}).replace({"epoch": {1: "one"}}).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"epochs\.csv: .*one.* is not a number; delete"):
        read_study(fake_study.results, fake_study.config, fake_study.data)


def test_missing_or_broken_config_is_named(fake_study: Any) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml is missing; give the study's YAML file"):
        read_study(fake_study.results, Path("absent.yaml"), fake_study.data)
    fake_study.config.write_text("a: [")
    with pytest.raises(UserError, match=r"study\.yaml line 1: not valid YAML"):
        read_study(fake_study.results, fake_study.config, fake_study.data)


def test_own_benchmarks_are_loaded_from_their_folder(fake_study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(spec: str, data: Path) -> Benchmark:
        asked.append(spec)
        return fake_study.benchmarks[spec.partition("=")[0]]

    monkeypatch.setattr(workflow.analysis.report.study, "load_benchmark", load)
    fake_study.config.write_text("evaluation:\n  benchmark_folders: {objects: my/objects}\n")
    read_study(fake_study.results, fake_study.config, fake_study.data)
    assert asked == ["objects=my/objects", "simulated"]


def test_numbers_and_intervals_in_words() -> None:
    assert count(float("nan")) == count(None) == "unknown"
    assert count(1234567.4) == "1,234,567"
    assert number(0.12345) == "0.123"
    assert number(None) == number(float("nan")) == "unknown"
    assert interval(0.1, None) == "unknown"
    assert interval(-0.1, 0.25) == "[-0.100, 0.250]"


def test_cells_keep_what_is_no_decimal() -> None:
    assert [shown(text) for text in ("0.123456", "1e-07", "190923", "1.2.3", "nmnc", "")] == [
        "0.1235", "1e-07", "190923", "1.2.3", "nmnc", "",
    ]  # fmt: skip


def test_long_tables_say_what_they_leave_out() -> None:
    table = pd.DataFrame({"a": ["x"] * (MOST_ROWS + 5), "b": [str(i) for i in range(MOST_ROWS + 5)]})
    cut = listing(table)
    assert (len(cut["rows"]), cut["total"]) == (MOST_ROWS, MOST_ROWS + 5)
    assert cut["common"] == {"a": "x"}
    assert listing(table.iloc[:1])["columns"] == ["a", "b"]


def test_report_starts_without_torch() -> None:
    code = "import workflow.analysis.report, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
