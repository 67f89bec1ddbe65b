"""How often the 95 % intervals of every metric hold the truth, made by the code that makes the scores.

python bench/metric_coverage.py [--quick] [--part rdm|responses] [--data-sets N] [--out coverage.csv]

The data sets are those of bench/interval_coverage.py, from a population of 3,000 stimuli; the truth is the metric's
value on all of them: with one recording, or the mean over 24, of which four are drawn with replacement. tau-a, whose
draws are computed one by one, is run over one recording alone. The whitened cosine has another value for every number
of stimuli, since it whitens distances and does not take their mean away: its truth is its mean over all data sets of
that number. Part responses does the same for biased CKA, ridge and PLS over one recording; the truth is again the mean
over all data sets. Intervals of ridge and PLS have the test stimuli alone in them and keep the fits, which differ from
data set to data set: the coverage tells what is missing. About 25 minutes on one core, 15 for part responses.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from interval_coverage import POPULATION, Population, arrays, main, population, row
from numpy.typing import NDArray

from brain_eval.benchmarks.base import Benchmark, Description, Recording, stimuli_in_memory
from brain_eval.inference.intervals import correlation_interval
from brain_eval.inference.variation import Spread, joint_variance, stimulus_variance
from brain_eval.metrics.base import metrics_of_rdms
from brain_eval.metrics.rdms import correlation_rdm, upper_triangle
from brain_eval.metrics.similarity import correlate
from brain_eval.scoring.response_scores import ResponseTarget
from brain_eval.scoring.targets import Target

METRICS = metrics_of_rdms()

#: Of the population of which four are drawn.
RECORDINGS = 24
#: Low and high end of an interval, the score, its variance.
Result = tuple[float, float, float, float]


def truths(known: Population, metrics: Sequence[str]) -> dict[str, float]:
    """The metrics' values on all stimuli, on average over the recordings."""
    found: dict[str, list[float]] = {metric: [] for metric in metrics}
    model = upper_triangle(correlation_rdm(known.models[0]))
    seen = {METRICS[metric].transform: METRICS[metric].transform(model) for metric in metrics}
    for responses in known.recordings:
        pairs = upper_triangle(correlation_rdm(responses))
        recorded = {transform: transform(pairs) for transform in seen}
        for metric, values in found.items():
            transform = METRICS[metric].transform
            values.append(correlate(seen[transform], recorded[transform], METRICS[metric]))
    return {metric: float(np.mean(values)) for metric, values in found.items()}


def target(recordings: Sequence[NDArray[np.float64]], metrics: Sequence[str], draws: int, seed: int) -> Target:
    """What a score sees of these recordings, (stimuli, neuroids) each."""
    n = len(recordings[0])
    stimuli = stimuli_in_memory("simulated", [f"{i:04d}" for i in range(n)], np.zeros((n, 1, 1, 3), dtype=np.uint8))
    recorded = [
        Recording(
            str(number), str(number), "simulated", "IT", np.arange(n), None, correlation_rdm(values), None, values
        )
        for number, values in enumerate(recordings)
    ]
    benchmark = Benchmark(Description("simulated", 1, (), (), "", ""), stimuli, tuple(recorded))
    return Target(benchmark, {metric: METRICS[metric] for metric in metrics}, draws, seed)


def cover(
    signal: float, n: int, k: int, data_sets: int, metrics: Sequence[str], draws: int
) -> Iterator[dict[str, Any]]:
    """Yield a row per metric: the coverage of the interval of the mean score over k recordings."""
    known = population(signal, RECORDINGS if k > 1 else 1, 1, 0)
    true = truths(known, [metric for metric in metrics if not METRICS[metric].biased])
    rng = np.random.default_rng([5, n, k])
    found: dict[str, list[Result]] = {metric: [] for metric in metrics}
    for number in range(data_sets):
        stimuli = rng.choice(POPULATION, n, replace=False)
        own = [known.recordings[i][stimuli] for i in rng.integers(len(known.recordings), size=k)]
        model = upper_triangle(correlation_rdm(known.models[0][stimuli]))
        scores = target(own, metrics, draws, number).compare(0, model)
        for metric, results in found.items():
            chosen = [scores[index, metric] for index in range(k)]
            raw = np.array([[one.raw for one in chosen]])
            variations = [[one.variation for one in chosen if one.variation]]
            results.append(_result(float(raw.mean()), joint_variance(raw, *arrays(variations), n)))
    for metric, results in found.items():
        yield _row(metric, (n, k, 1), results, draws, true.get(metric))


def cover_responses(signal: float, n: int, data_sets: int, metrics: Sequence[str], draws: int) -> list[dict[str, Any]]:
    """A row per metric of responses: the coverage of the interval of one recording's score."""
    known, rng = population(signal, 1, 1, 0), np.random.default_rng([6, n])
    found: dict[str, list[Result]] = {metric: [] for metric in metrics}
    for number in range(data_sets):
        stimuli = rng.choice(POPULATION, n, replace=False)
        responses, features = known.recordings[0][stimuli], known.models[0][stimuli].astype(np.float32)
        scorer = ResponseTarget(target([responses], [], draws, number), metrics, draws)
        for (_, metric), one in scorer.score([0], features).items():
            if one.raw is None or one.variation is None:
                raise AssertionError(f"a score of these data sets is undefined: {one.method.meaning}")
            found[metric].append(_result(one.raw, stimulus_variance(one.variation)))
    return [_row(name, (n, 1, 1), results, draws) for name, results in found.items()]


def _result(score: float, spread: Spread) -> Result:
    return (*correlation_interval(score, spread, 0.95), score, spread.variance)


def _row(
    case: str, sizes: tuple[int, int, int], results: list[Result], draws: int, truth: float | None = None
) -> dict[str, Any]:
    """The row of a case from each data set's low, high, score and variance; the truth else is the mean score."""
    low, high, means, errors = np.array(results).T
    truth = float(means.mean()) if truth is None else truth
    hits = int(((low <= truth) & (truth <= high)).sum())
    widths = (high - low).tolist()
    return row(case, sizes, truth, (len(results), draws), hits, means.tolist(), errors.tolist(), widths)


def cases_of_responses(quick: bool, data_sets: int) -> Iterator[dict[str, Any]]:
    """Run case after case of part responses."""
    if quick:
        yield from cover_responses(1.1, 40, 10, ["cka-biased", "ridge", "pls"], 50)
        return
    for n in (92, 300):
        for signal in (0.0, 0.5, 1.1):
            yield from cover_responses(signal, n, data_sets, ["cka-biased", "ridge", "pls"], 300)


def cases(quick: bool, data_sets: int) -> Iterator[dict[str, Any]]:
    """Run case after case of part rdm."""
    if quick:
        yield from cover(1.1, 20, 1, 10, list(METRICS), 50)
        return
    fast = [name for name, metric in METRICS.items() if not metric.recomputed]
    slow = [name for name in METRICS if name not in fast]
    for n in (92, 20):
        for signal in (0.0, 0.5, 1.1):
            for k in (1, 4):
                yield from cover(signal, n, k, data_sets, fast, 300)
            yield from cover(signal, n, 1, data_sets, slow, 100)


PARTS = {"rdm": cases, "responses": cases_of_responses}


if __name__ == "__main__":
    main(__doc__, PARTS)
