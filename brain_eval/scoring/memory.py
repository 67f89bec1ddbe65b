"""Memory that scoring needs at once, refused before it starts if there is not enough."""

from collections.abc import Sequence

from brain_eval.activations.memory_budget import refuse_without_memory
from brain_eval.benchmarks.base import Benchmark
from brain_eval.metrics.base import EncodingMetric, SubsetMetric, metrics_of_rdms, metrics_of_responses
from brain_eval.scoring.targets import SPLITS_OF_STIMULI


def refuse_too_much(benchmarks: Sequence[Benchmark], metrics: Sequence[str], kinds: int, draws: int) -> None:
    """Raise UserError if the machine lacks the memory to score these benchmarks; arguments as `bytes_to_score`."""
    parts = [bytes_to_score(benchmark, metrics, kinds, draws) for benchmark in benchmarks]
    # Targets of all benchmarks stay in memory to the end; layers are scored one at a time.
    needed = sum(kept for kept, _ in parts) + max((layer for _, layer in parts), default=0)
    names = ", ".join(benchmark.description.name for benchmark in benchmarks)
    refuse_without_memory(f"score {names}", needed, remedy="name fewer benchmarks or metrics, or end other programs")


def bytes_to_score(benchmark: Benchmark, metrics: Sequence[str], kinds: int, draws: int) -> tuple[int, int]:
    """Return bytes of the large matrices: those kept for the benchmark, and those of one layer at its peak.

    Per recording of n stimuli, in matrices of n x n float64: its pairs, and for every transform of RDMs the transformed
    pairs and their standardised matrix; a layer takes 5 more, and 6 above that where a metric computes its draws
    itself. Metrics in subsets of the stimuli (CKA) keep a Gram matrix and its sums over the stimuli of every subset
    (draws, halves, all but one stimulus); a layer takes as much again and the products of the two. Encoding models
    take a few Gram matrices of a layer. The estimate errs on the high side, by 10 to 60 % with 600 stimuli.

    Args:
        benchmark: with its recordings.
        metrics: names in brain_eval.metrics.METRICS.
        kinds: how many kinds of recorded RDMs are compared.
        draws: of the bootstrap.
    """
    compared, of_responses = metrics_of_rdms(metrics).values(), metrics_of_responses(metrics)
    aligned = sum(isinstance(metric, SubsetMetric) for metric in of_responses)
    sizes = [len(recording.stimuli) for recording in benchmark.recordings]
    responses = [len(recording.stimuli) for recording in benchmark.recordings if recording.responses is not None]
    kept = layer = 0.0
    if compared:
        transforms = len({metric.transform for metric in compared})
        drawn = any(metric.draws is not None for metric in compared)
        kept += kinds * sum(n**2 for n in sizes) * (0.5 + 1.5 * transforms)
        layer = (11 if drawn else 5) * max(sizes, default=0) ** 2
    if aligned and responses:
        largest = max(responses)
        subsets = draws + largest + 2 * SPLITS_OF_STIMULI + 1
        kept += sum(subsets * n + aligned * (n**2 + subsets * n) for n in responses)
        layer = max(layer, 3 * largest**2 + 3 * subsets * largest)
    if responses and any(isinstance(metric, EncodingMetric) for metric in of_responses):
        layer = max(layer, 5 * max(responses) ** 2 + draws * max(responses))
    return int(8 * kept), int(8 * layer)
