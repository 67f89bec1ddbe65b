"""Score one model on the benchmarks: compare every layer with every recording."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import brain_eval.benchmarks
from brain_eval.activations.reader import Activations, open_activations
from brain_eval.benchmarks.base import Benchmark
from brain_eval.benchmarks.recorded_rdms import CORRELATION, recorded_as, refuse_absent
from brain_eval.codes import CODEBOOK, Codebook, none, preprocessing_code
from brain_eval.files import netcdf_errors
from brain_eval.metrics import METRICS, RDMS
from brain_eval.metrics.base import metrics_of_rdms, metrics_of_responses
from brain_eval.metrics.rdms import UndefinedRow, upper_triangle
from brain_eval.scoring.draws_file import write_draws
from brain_eval.scoring.memory import refuse_too_much
from brain_eval.scoring.rdm_files import Rdms, whole_rdm, write_rdms
from brain_eval.scoring.response_scores import ResponseTarget
from brain_eval.scoring.rows import COLUMNS as COLUMNS
from brain_eval.scoring.rows import rows_of_layer
from brain_eval.scoring.settings import Scoring
from brain_eval.scoring.targets import Score, Scores, Target, pairs_of
from nmnc.errors import UserError
from nmnc.files.writing import claimed, replacing, write_csv

#: RDMs of benchmarks with more stimuli than this are not written: they are too large to look at.
MOST_STIMULI_STORED = 200
#: Seconds to wait for another process that writes the same scores.
WAIT = 600.0


class Outputs(NamedTuple):
    """Files that `score_model` writes.

    Attributes:
        scores: CSV, columns COLUMNS; one row per layer, recording and metric, then the means over the recordings of
            an animal and of a region. NAME_codebook.csv beside it explains the codes in it.
        rdms: NetCDF; per benchmark of at most 200 stimuli a variable of its name, (layer, row, column) float64, NaN
            for a layer without an RDM.
        draws: NetCDF (see brain_eval.inference.draws), for comparisons of models; None: not written.
    """

    scores: Path
    rdms: Path
    draws: Path | None = None


def score_model(
    activations_folder: Path,
    specs: Sequence[str],
    data: Path,
    outputs: Outputs,
    *,
    identity: str,
    settings: Scoring,
    ceilings: Path | None = None,
) -> None:
    """Compare one model's layers with every recording of the benchmarks and write the scores.

    Args:
        activations_folder: holds BENCHMARK.nc, as `extract` writes it.
        specs: benchmarks, each NAME or NAME=FOLDER.
        data: folder of the data sets.
        outputs: files to write.
        identity: "network,rule,kind,seed".
        settings: metrics, kinds of the recordings' RDMs, and the bootstrap. Metrics of responses give rows for
            recordings with responses only. A recording that lacks a kind of RDM (crossnobis needs repetitions) has no
            rows for it, and a warning. The draws depend on the seed and the benchmark, not on the model, so that
            models are compared on the same resampled stimuli.
        ceilings: folder in which noise ceilings are kept between calls; None: they are computed in every call.

    Raises:
        UserError: unknown metric, RDM or benchmark, an RDM that no recording has, activations missing or of
            other stimuli, NaN in them, a full disk.
    """
    who = _identity(identity)
    chosen, kinds = METRICS.known(settings.metrics), RDMS.known(settings.recorded_rdms)
    draws, seed = settings.bootstrap_draws, settings.seed
    out, rdms_out, draws_out = outputs
    rows: list[dict[str, Any]] = []
    stored: Rdms = {}
    reasons: dict[str, dict[str, str]] = {}
    scored: list[tuple[Target, str, dict[str, Scores]]] = []
    benchmarks = [brain_eval.benchmarks.load_benchmark(spec, data) for spec in specs]
    refuse_without_responses(benchmarks, chosen, is_partial=False)
    refuse_too_much(benchmarks, chosen, len(kinds), draws)
    for benchmark in benchmarks:
        name = benchmark.description.name
        ids = benchmark.stimulus_set.stimulus_ids
        sampling = f"{name}, {benchmark.stimulus_set.sha256}, seed {seed}, {draws} draws"
        with open_activations(activations_folder / f"{name}.nc", benchmark) as activations:
            about: dict[str, Any] = who | {"preprocessing": preprocessing_code(activations.preprocessing)}
            about |= {"benchmark": name, "version": benchmark.description.version}
            for target, responses in _targets(benchmark, chosen, kinds, draws, seed, ceilings, reasons):
                layers: dict[str, Scores] = {}
                for layer in tqdm(activations.layers, f"score {name}, {target.kind}", disable=None):
                    layers[layer] = _in_order(score_layer(target, responses, activations, layer), chosen)
                    rows += [
                        about | {"layer": layer, **row}
                        for row in rows_of_layer(target, layers[layer], settings.confidence)
                    ]
                scored.append((target, sampling, layers))
            if len(ids) <= MOST_STIMULI_STORED:
                every = np.arange(len(ids))
                stored[name] = ids, {layer: whole_rdm(activations.read(layer, every)) for layer in activations.layers}
    for kind in kinds:
        if kind not in {target.kind for target, _, _ in scored}:
            refuse_absent(kind, ", ".join(specs), reasons.get(kind, {}))
    # The lock keeps two processes from leaving scores of one model next to draws of another.
    with claimed(out.with_name(f".{out.name}.lock"), WAIT, out):
        # The larger files are written first, so that a full disk leaves the old scores and the old RDMs together.
        with replacing(rdms_out, digest=True) as rdms_part, netcdf_errors(rdms_out):
            write_rdms(rdms_part, who, stored)
            if draws_out is not None:
                with replacing(draws_out, digest=True) as draws_part, netcdf_errors(draws_out):
                    write_draws(draws_part, who, scored)
        write_csv(out.with_name(f"{out.stem}_codebook.csv"), CODEBOOK, Codebook.of(rows).rows, digest=True)
        write_csv(out, COLUMNS, rows, digest=True)


def _targets(
    benchmark: Benchmark, chosen: Sequence[str], kinds: Sequence[str],
    draws: int, seed: int, ceilings: Path | None, reasons: dict[str, dict[str, str]],
) -> Iterator[tuple[Target, ResponseTarget]]:  # fmt: skip
    """Yield the comparison targets: per kind the recorded RDMs, and with the first kind also the responses.

    For recordings that lack a kind, print a warning with the reason and add it to `reasons`; skip a kind that all
    recordings lack.
    """
    compared, of_responses = metrics_of_rdms(chosen), [metric.name for metric in metrics_of_responses(chosen)]
    # The target of the correlation RDMs includes every recording, so responses are scored with it.
    for kind in kinds if CORRELATION in kinds or not of_responses else (CORRELATION, *kinds):
        metrics = compared if kind in kinds else {}
        # Without metrics of RDMs the RDMs are not used, so they need not be defined.
        prepared, lacking = recorded_as(benchmark, kind) if metrics or kind != CORRELATION else (benchmark, {})
        for recording, reason in lacking.items():
            text = f"brain_eval: warning: {benchmark.description.name}, {recording}: no {kind} RDM: {reason}"
            tqdm.write(text, file=sys.stderr)
            reasons.setdefault(kind, {})[recording] = reason
        if prepared.recordings:
            target = Target(prepared, metrics, draws, seed, ceilings, kind)
            yield target, ResponseTarget(target, of_responses if kind == CORRELATION else [], draws)


def _identity(text: str) -> dict[str, str]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(parts) or not parts[3].isdecimal():
        raise UserError(f"--identity '{text}' is not network,rule,kind,seed; set it, e.g. to convnet,nmnc,nmnc,0")
    return dict(zip(("network", "rule", "kind", "seed"), parts, strict=True))


def refuse_undefined(
    benchmarks: Sequence[Benchmark], metrics: Sequence[str], kinds: Sequence[str], *, is_partial: bool
) -> None:
    """Make the recordings' RDMs that `score_model` would compare, so that its errors come before anything is computed.

    Args:
        benchmarks: loaded.
        metrics, kinds: names.
        is_partial: whether further benchmarks are scored, which may have what all of these lack.

    Raises:
        UserError: an RDM of a recording is undefined or constant, or no recording has one of a kind.
    """
    refuse_without_responses(benchmarks, metrics, is_partial=is_partial)
    compared = bool(metrics_of_rdms(metrics))
    for kind in (kind for kind in kinds if compared or kind != CORRELATION):
        reasons: dict[str, str] = {}
        found = False
        for benchmark in benchmarks:
            prepared, lacking = recorded_as(benchmark, kind)
            reasons |= lacking
            found |= bool([pairs_of(recording, benchmark.place) for recording in prepared.recordings])
        if benchmarks and not found and not is_partial:
            refuse_absent(kind, ", ".join(benchmark.place for benchmark in benchmarks), reasons)


def refuse_without_responses(benchmarks: Sequence[Benchmark], metrics: Sequence[str], *, is_partial: bool) -> None:
    """Raise UserError if all metrics need responses and no recording has them; warn if only some benchmarks lack them.

    Args:
        benchmarks, is_partial: see `refuse_undefined`.
        metrics: names.
    """
    if metrics_of_rdms(metrics):
        return
    lacking = [each.place for each in benchmarks if all(part.responses is None for part in each.recordings)]
    reason = f"RDMs without responses cannot be scored by {', '.join(metrics)}; add a metric of RDMs, such as spearman"
    if lacking and len(lacking) == len(benchmarks) and not is_partial:
        raise UserError(f"{', '.join(lacking)}: {reason}")
    for place in lacking:
        tqdm.write(f"brain_eval: warning: {place}: {reason}", file=sys.stderr)


def _in_order(scores: Scores, metrics: Sequence[str]) -> Scores:
    """Return the scores in the order of the metrics."""
    return {key: scores[key] for name in metrics for key in scores if key[1] == name}


def score_layer(target: Target, responses: ResponseTarget, activations: Activations, layer: str) -> Scores:
    """Compare one layer with every recording; a layer whose RDM is undefined has empty scores and a warning."""
    scores: Scores = {}
    for number, group in enumerate(target.groups):
        stimuli = target.stimuli(group)
        features = activations.read(layer, stimuli)
        where = f"{activations.path}, layer '{layer}'"
        sessions = f"session {', '.join(target.recordings[index].session for index in group)}"
        if target.metrics:
            try:
                scores |= target.compare(number, upper_triangle(RDMS[target.kind].of_layer(features)))
            except UndefinedRow as error:
                reason = f"{error.what} for stimulus '{target.stimulus_ids[stimuli[error.row]]}'"
                method = none("undefined-activity", reason, varies=True)
                scores |= {(i, name): Score(None, None, method) for i in group for name in target.metrics}
        scores |= responses.score(group, features)
        for reason in dict.fromkeys(s.method.meaning for (i, _), s in scores.items() if i in group and s.raw is None):
            # tqdm.write prints without breaking the progress bar.
            text = f"brain_eval: warning: {where}, {sessions}: {reason.removeprefix('none: ')}; its scores stay empty"
            tqdm.write(text, file=sys.stderr)
    return scores
