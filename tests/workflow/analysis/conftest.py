"""A small results folder, written as the workflow writes it, from a seeded generator."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import workflow.analysis.report.study
from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.codes import Codebook
from brain_eval.inference.layer_choice import CHOSEN
from workflow.analysis.report import write_report
from workflow.analysis.results import TABLES, spelled

LAYERS = ("conv1", "conv2", "fc")
HOSTILE = "<i>nmnc<b> & $b$='20'"
RULES = {
    "backprop": "backprop",
    "vnc": "vnc",
    "nmnc": "nmnc",
    HOSTILE: "nmnc",
    "untrained": "untrained",
}
SEEDS = (0, 1)
EPOCHS = 2
#: As unlike what the report could know itself as the numbers.
ACCURACY_INTERVAL, MEANS_INTERVAL = "t:87:seeds", "t:88:seeds+stimuli"
CODES = {
    ("interval_method", ACCURACY_INTERVAL): "Student's t 87 % interval over seeds",
    ("interval_method", MEANS_INTERVAL): "Student's t 88 % interval over seeds and stimuli",
    ("ceiling_definition", "stated"): "a stated definition",
}
#: benchmark -> its recordings: (session, animal, species, region, neuroids, ceiling or None)
RECORDINGS: dict[str, list[tuple[str, str, str, str, int | None, tuple[float, float] | None]]] = {
    "objects": [
        ("average", "2 animals", "macaque", "IT", 674, None),
        *[("s1", f"S{i}", "human", "IT", 316, None) for i in (1, 2)],
    ],
    "scenes": [
        ("190923", "WE", "macaque", "V4", 33, None),
        ("201025", "PE", "macaque", "V4", 89, None),
        ("210325", "PE", "macaque", "V4", None, (0.55, 0.75)),
    ],
    "simulated": [(f"session {a}", a, "simulated", region, 100, None) for region in ("V1", "IT") for a in "AB"],
}
STIMULI = {"objects": 24, "scenes": 640, "simulated": 18}
NOTES = {"objects": "very noisy & small"}
#: (benchmark, species, region) with a leave-one-out ceiling on the mean row.
MEAN_CEILINGS = {("objects", "human", "IT"): (0.31, 0.42), ("simulated", "simulated", "IT"): (0.8, 0.9)}


@dataclass
class FakeStudy:
    """Where the fake study lies, and the benchmarks its report will load."""

    results: Path
    config: Path
    data: Path
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.results / f"tables/{name}.csv", dtype={"session": str, "animal": str})


def identities() -> list[dict[str, Any]]:
    runs = [
        {"network": "convnet", "rule": rule, "kind": kind, "seed": seed}
        for rule, kind in RULES.items()
        for seed in SEEDS
    ]
    return [*runs, {"network": "pixels", "rule": "pixels", "kind": "pixels", "seed": 0}]


def epochs_table(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for run in identities()[:-1]:
        trained = run["kind"] != "untrained"
        for epoch in range(EPOCHS + 1 if trained else 1):
            rows.append(
                run
                | {
                    "epoch": epoch,
                    "train_loss": 2.3 / (epoch + 1) if epoch else np.nan,
                    "test_accuracy": 0.1 + 0.08 * epoch + 0.02 * rng.standard_normal(),
                    "perturbations": 640 * epoch,
                    "forward_passes": 1980 * epoch,
                }
            )
    return pd.DataFrame(rows)


def accuracy_table(epochs: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds at each epoch. The interval is unlike any the report could make itself."""
    values = epochs.groupby(["network", "rule", "kind", "epoch"], sort=False)
    table = values["test_accuracy"].agg(n_seeds="count", mean="mean", min="min", max="max").reset_index()
    table["perturbations"] = values["perturbations"].mean().to_numpy()
    return table.assign(
        ci_low=table["mean"] - 0.0321, ci_high=table["mean"] + 0.0432, interval_method=ACCURACY_INTERVAL
    )


def alignment_table(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for run in identities()[:-1]:
        for epoch in range(EPOCHS + 1 if run["kind"] != "untrained" else 1):
            for place, layer in enumerate(LAYERS):
                n = 2048 // (4**place)
                cosine = 1.0 if run["kind"] == "backprop" else 0.1 * epoch + 0.1 * rng.standard_normal()
                alpha = 16 / n + 0.1 * epoch + 0.03 * rng.standard_normal()
                shared = run | {"epoch": epoch, "layer": layer, "d": 16, "n": n}
                rows.append(
                    shared
                    | {"space": "activity", "cosine": cosine, "cosine_batch": cosine, "alpha_gradient": alpha}
                    | {"alpha_jacobian": alpha + 0.05, "margin": alpha - (72 + 17) / (72 + n + 1)}
                )
                rows.append(shared | {"space": "weight", "cosine": min(1.0, cosine + 0.1)})
    return pd.DataFrame(rows)


def _score(raw: float, ceiling: tuple[float, float] | None, what: str) -> dict[str, Any]:
    row: dict[str, Any] = {"raw": raw, "ci_low": raw - 0.04, "ci_high": raw + 0.05, "n_draws": 1000}
    row |= {"interval_method": f"percentile:95:{what}"}
    if ceiling is not None:
        row |= {"ceiling_lower": ceiling[0], "ceiling_upper": ceiling[1], "ceiled": raw / ceiling[1]}
        row |= {"ceiling_definition": "stated"}
    return row


def scores_table(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for run in identities():
        for layer in LAYERS if run["network"] == "convnet" else ("pixels",):
            for benchmark, recordings in RECORDINGS.items():
                for species, region in dict.fromkeys((r[2], r[3]) for r in recordings):
                    own = [r for r in recordings if r[2:4] == (species, region)]
                    for metric in ("spearman", "rho-a"):
                        where = {"layer": layer, "benchmark": benchmark, "version": 1, "metric": metric}
                        where |= {"species": species, "region": region, "n_stimuli": STIMULI[benchmark]}
                        where |= {"preprocessing": "p-32"}
                        raws = 0.2 + 0.05 * rng.standard_normal(len(own))
                        for (session, animal, _, _, neuroids, ceiling), raw in zip(own, raws, strict=True):
                            rows.append(
                                run
                                | where
                                | {"session": session, "animal": animal, "n_neuroids": neuroids}
                                | _score(float(raw), ceiling, "stimuli")
                            )
                        ceiling = MEAN_CEILINGS.get((benchmark, species, region))
                        means: dict[str, Any] = {"all": raws} if len(own) > 1 else {}
                        for animal in dict.fromkeys(r[1] for r in own):
                            several = [x for r, x in zip(own, raws, strict=True) if r[1] == animal]
                            means |= {animal: several} if len(several) > 1 else {}
                        for animal, values in means.items():
                            rows.append(
                                run
                                | where
                                | {"session": "mean", "animal": animal, "n_neuroids": 400}
                                | _score(
                                    float(np.mean(values)),
                                    ceiling if animal == "all" else None,
                                    "stimuli+recordings",
                                )
                            )
    return pd.DataFrame(rows)


def means_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of all rows. The intervals are unlike any the report could make itself."""
    keys = ["network", "rule", "kind", "layer", "benchmark", "session", "animal", "species", "region", "metric"]
    seeds = scores.groupby(keys, sort=False)["raw"]
    table = seeds.agg(n_seeds="count", mean="mean").reset_index()
    table["ci_low"], table["ci_high"] = table["mean"] - 0.0412, table["mean"] + 0.0513
    return table.assign(interval_method=np.where(table["n_seeds"] > 0, MEANS_INTERVAL, ""))


def layers_table(rng: np.random.Generator) -> pd.DataFrame:
    """Layer x region, and the choice: conv2 in 70 % of the halves, fc in the rest."""
    rows: list[dict[str, Any]] = []
    for run in identities():
        layers = dict(zip(LAYERS, (0.0, 0.7, 0.3), strict=True)) if run["network"] == "convnet" else {"pixels": 1.0}
        for benchmark, recordings in RECORDINGS.items():
            for species, region in dict.fromkeys((r[2], r[3]) for r in recordings):
                where = run | {"benchmark": benchmark, "species": species, "region": region, "metric": "spearman"}
                rows += [
                    where | {"layer": layer, "raw": 0.2, "half": float(rng.normal(0.2, 0.02)), "chosen": chosen}
                    for layer, chosen in layers.items()
                ]
                half = float(rng.normal(0.2, 0.02))
                rows.append(where | {"layer": CHOSEN, "half": half, "same_images": half + 0.05, "n_choices": 40})
    return pd.DataFrame(rows)


def make_benchmark(name: str, rng: np.random.Generator) -> Benchmark:
    n = STIMULI[name]
    recordings = []
    for session, animal, species, region, neuroids, _ in RECORDINGS[name]:
        rdm = 1 - np.corrcoef(rng.standard_normal((n, 30)))
        np.fill_diagonal(rdm, 0)
        recordings.append(Recording(session, animal, species, region, np.arange(n), neuroids, rdm))
    all_species = tuple(dict.fromkeys(r.species for r in recordings))
    regions = tuple(dict.fromkeys(r.region for r in recordings))
    stimuli = StimulusSet(
        name,
        tuple(f"image{i}" for i in range(n)),
        lambda indices: [np.full((6, 5 + i % 3, 3), 40 + i, dtype=np.uint8) for i in indices],
        "ab" * 32,
        tuple(("face", "place", "tool")[i % 3] for i in range(n)),
    )
    about = Description(name, 1, all_species, regions, f"A & B (2026) {name}", "CC0", simulated=name == "simulated")
    return Benchmark(about, stimuli, tuple(recordings))


def write_rdms(path: Path, rng: np.random.Generator, layers: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with netCDF4.Dataset(path, "w") as file:
        for name, n in STIMULI.items():
            if n > 200:
                continue
            dims = (f"layer_{name}", f"row_{name}", f"column_{name}")
            for dim, size in zip(dims, (len(layers), n, n), strict=True):
                file.createDimension(dim, size)
            file.createVariable(dims[0], str, dims[:1])[:] = np.array(layers, dtype=object)
            rdms = np.stack([1 - np.corrcoef(rng.standard_normal((n, 30))) for _ in layers])
            file.createVariable(name, "f8", dims)[:] = rdms


def write_benchmark_json(path: Path, benchmark: Benchmark) -> None:
    about = benchmark.description
    content = {
        "name": about.name,
        "version": about.version,
        "species": list(about.species),
        "regions": list(about.regions),
        "citation": about.citation,
        "licence": about.licence,
        "note": NOTES.get(about.name, ""),
        "simulated": about.simulated,
        "n_stimuli": len(benchmark.stimulus_set.stimulus_ids),
        "stimulus_set_sha256": benchmark.stimulus_set.sha256,
        "recordings": [
            {"session": r.session, "animal": r.animal, "species": r.species, "region": r.region}
            | {"n_neuroids": r.n_neuroids, "n_stimuli": len(r.stimuli)}
            for r in benchmark.recordings
        ],
        "files": [
            {"path": "x/y.mat", "size": 5, "sha256": "cd" * 32, "url": "https://example.org/y.mat"},
            {"path": "x/z.nc", "size": None, "sha1": "ba" * 20, "url": "https://example.org/z.nc"},
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_provenance(folder: Path, run: dict[str, Any], rng: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = run | {
        "study": "fake",
        "config": {"rule": run["kind"], "diagnostics": {"images": 128}},
        "versions": {"python": "3.11.9", "torch": "2.14.1"},
        "hardware": {"cpu": "A CPU", "cores": 2, "memory_gb": 8.0, "gpu": None, "platform": "Linux"},
        "threads": 1,
        "device": "cpu",
        "dataset": {"name": "digits", "sha256": "ef" * 32, "citation": "C & D", "licence": "BSD"}
        | {"n_train": 1000, "n_test": 360},
        "started": "2026-11-23T10:00:00+00:00",
        "finished": "2026-11-23T10:01:00+00:00",
        "seconds": 61.25,
        "git": None,
        "weights_sha256": f"{int(rng.integers(2**60)):064x}",
    }
    (folder / "provenance.json").write_text(json.dumps(content))


def build(root: Path, seed: int = 0) -> FakeStudy:
    """Write a study's results, config and benchmarks below `root`."""
    rng = np.random.default_rng(seed)
    results = root / "results/fake"
    (results / "tables").mkdir(parents=True)
    runs, epochs, alignment, scores = identities(), epochs_table(rng), alignment_table(rng), scores_table(rng)
    tables = {
        "runs": pd.DataFrame(runs).assign(scored="yes", dimensions=16),
        "epochs": epochs,
        "accuracy": accuracy_table(epochs),
        "alignment": alignment,
        "scores": scores,
        "means": means_table(scores),
        "layers": layers_table(rng),
        "comparisons": pd.DataFrame([{"rule_a": "nmnc", "rule_b": "vnc", "difference": 0.0123, "n": 3}]),
        "timing": pd.DataFrame([{"stage": "train", "seconds": 61.25}]),
        "codebook": pd.DataFrame(Codebook(CODES).rows),
    }
    for name, table in tables.items():
        table = table.reindex(columns=[*table.columns, *(set(TABLES[name].columns) - set(table.columns))])
        table.to_csv(results / f"tables/{name}.csv", index=False, float_format="%.10g", lineterminator="\n")
    study = FakeStudy(results, root / "study.yaml", root / "data")
    for name in RECORDINGS:
        study.benchmarks[name] = make_benchmark(name, rng)
        write_benchmark_json(results / f"benchmarks/{name}.json", study.benchmarks[name])
    for run in runs:
        place = Path(run["network"]) / run["rule"]
        if run["kind"] != "pixels":
            write_provenance(results / "networks" / place / f"seed{run['seed']}", run, rng)
        layers = LAYERS if run["kind"] != "pixels" else ("pixels",)
        write_rdms(results / "scores" / place / f"seed{run['seed']}_rdms.nc", rng, layers)
    study.config.write_text("# a comment with <tags> & signs\nstudy: fake\nseeds: [0, 1, 2]\n")
    return study


@pytest.fixture
def fake_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStudy:
    """A complete study below tmp_path whose benchmarks need no data."""
    study = build(tmp_path)
    monkeypatch.setattr(workflow.analysis.report.study, "load_benchmark", lambda spec, data: study.benchmarks[spec])
    return study


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> FakeStudy:
    """The same with its report written, once for all tests, which only read it."""
    study = build(tmp_path_factory.mktemp("study"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(workflow.analysis.report.study, "load_benchmark", lambda spec, data: study.benchmarks[spec])
        write_report(study.results, study.config, study.data)
    return study


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    """Tables as the report reads them, without a folder around them."""
    rng = np.random.default_rng(0)
    epochs, alignment, scores = epochs_table(rng), alignment_table(rng), scores_table(rng)
    return {
        "runs": pd.DataFrame(identities()),
        "epochs": epochs,
        "alignment": alignment,
        "scores": spelled(scores, Codebook(CODES)),
        "means": spelled(means_table(scores), Codebook(CODES)),
        "layers": layers_table(rng),
    }


def mean_lines_of(axis: Axes) -> dict[str, np.ndarray]:
    """Colour -> y values, of the lines that have a marker."""
    return {
        to_hex(line.get_color()): np.asarray(line.get_ydata(), dtype=float)
        for line in axis.lines
        if line.get_marker() not in ("None", "", None) and len(line.get_ydata()) > 1
    }


@pytest.fixture
def mean_lines() -> Callable[[Axes], dict[str, np.ndarray]]:
    """What reads a panel's lines."""
    return mean_lines_of


@pytest.fixture
def means_of() -> Callable[[pd.DataFrame], pd.DataFrame]:
    """means.csv of given scores."""
    return means_table


@pytest.fixture
def objects() -> Benchmark:
    """A benchmark of 24 stimuli in three categories, and random RDMs."""
    return make_benchmark("objects", np.random.default_rng(0))


@pytest.fixture(scope="session")
def hostile() -> str:
    """A rule label that HTML, matplotlib's mathematics and a careless template would each mangle."""
    return HOSTILE
