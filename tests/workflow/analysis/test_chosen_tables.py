"""Tables at the layer chosen on held-out images: their numbers, intervals and words."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from brain_eval.inference.comparisons import ScoredRun
from brain_eval.inference.draws import Drawn
from brain_eval.inference.layer_choice import CHOSEN, choose_layers, variance_of_choice
from brain_eval.inference.variation import Part, Spread, joint_variance
from brain_eval.scoring.rows import COLUMNS
from workflow.analysis.wide_tables import Cell, Page, chosen_pages, layer_pages, mean_rows, wide_files

LAYERS = ("conv1", "fc")
WHERE = {"benchmark": "bench", "species": "macaque", "region": "V4", "metric": "rho-a"}
SESSIONS = ("210322", "210325")


def drawn(seed: int, sessions: Sequence[str] = SESSIONS, sampling: str = "one") -> Drawn:
    """Both layers' scores, the second's higher by .1, with 40 stimuli that move all seeds and recordings alike."""
    own, shared = np.random.default_rng(seed), np.random.default_rng(99)
    labels = tuple((session, "PE", "macaque", "V4") for session in sessions)
    shape = (len(LAYERS), len(sessions))
    raw = 0.2 + 0.1 * np.arange(2)[:, None] + 0.01 * own.standard_normal(shape)
    influence, remainder = (
        (0.01 * (shared.standard_normal((2, 1, n)) + 0.1 * own.standard_normal((*shape, n)))).astype(np.float32)
        for n in (40, 200)
    )
    half = raw[..., None] - 0.02 + 0.06 * own.standard_normal((*shape, 20))
    return Drawn(sampling, LAYERS, labels, raw, influence, remainder, half, np.ones((len(sessions), 40), bool))


def made(draws: Sequence[Drawn], benchmark: str = "bench") -> tuple[list[dict[str, str]], list[ScoredRun]]:
    """Rows of layers.csv, and runs, of one rule with these draws, a seed each."""
    layers, runs = [], []
    for seed, one in enumerate(draws):
        who = {"network": "net", "rule": "nmnc", "kind": "nmnc", "seed": str(seed)}
        chosen = choose_layers({(benchmark, "rho-a"): one})
        layers += [
            {key: "" for key in ("half", "chosen")} | who | {key: str(value) for key, value in row.items()}
            for row in chosen
        ]
        where = {"ceiling_lower": "0.31", "ceiling_upper": "0.42", "n_stimuli": "40", "session": "mean"}
        where |= WHERE | {"benchmark": benchmark, "animal": "all", "ceiling_definition": "a definition"}
        scores = [
            dict.fromkeys(COLUMNS, "") | who | where | {"layer": layer, "raw": str(one.raw[number].mean())}
            for number, layer in enumerate(LAYERS)
        ]
        runs.append(ScoredRun("net", "nmnc", str(seed), None, scores, {(benchmark, "rho-a"): one}))
    return layers, runs


def without_draws(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    return [ScoredRun(run.network, run.rule, run.seed, None, run.scores) for run in runs]


def cell_of(pages: Sequence[Page]) -> Cell:
    [page] = pages
    [(labels, (cell,))] = page.sections[-1].rows
    assert labels[-1] == "nmnc"
    assert cell is not None
    return cell


def shares_and_scores(rows: Sequence[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """(seeds, layers) shares of the choices, and (seeds,) held-out scores."""
    shares = [float(row["chosen"]) for row in rows if row["layer"] != CHOSEN]
    return np.reshape(shares, (-1, 2)), np.array([float(row["half"]) for row in rows if row["layer"] == CHOSEN])


def test_the_chosen_layer_has_its_held_out_score_and_its_name() -> None:
    layers, runs = made([drawn(seed) for seed in range(3)])
    [page] = chosen_pages(layers, without_draws(runs), 0.9)
    cell = cell_of([page])
    shares, held_out = shares_and_scores(layers)
    low, high = stats.t.interval(0.9, 2, held_out.mean(), stats.sem(held_out))
    assert (cell.mean, cell.low, cell.high, cell.n) == pytest.approx((held_out.mean(), low, high, 3))
    assert str(cell.method) == "t:90:seeds"
    assert cell.note == f"fc {100 * shares[:, 1].mean():.0f} %"
    assert 0.5 < shares[:, 1].mean() < 1
    assert (page.name, page.sections[0].ceilings) == ("chosen_rho-a", ((0.31, 0.42),))


def test_its_interval_is_over_seeds_stimuli_and_recordings_in_the_shares_of_the_choice() -> None:
    draws = [drawn(seed) for seed in range(3)]
    layers, runs = made(draws)
    cell = cell_of(list(chosen_pages(layers, runs)))
    shares, held_out = shares_and_scores(layers)

    def mixed(name: str) -> np.ndarray:
        return np.stack([
            np.einsum("l,l...->...", share, getattr(one, name).astype(float))
            for share, one in zip(shares, draws, strict=True)
        ])  # fmt: skip

    values = mixed("raw")
    values += (held_out - values.mean(axis=1))[:, None]
    spread = joint_variance(values, mixed("influence"), mixed("remainder"), 40)
    parts = [
        np.stack([getattr(one, name).astype(float).mean(axis=1) for one in draws])
        for name in ("raw", "influence", "remainder")
    ]
    choice = variance_of_choice(*parts, shares, draws[0].half.shape[2] // 2)
    assert choice > 0
    spread = Spread(spread.variance + choice, (*spread.parts, Part(choice, 39)))
    middle = held_out.mean()
    reach = spread.quantile(0.025) * np.sqrt(spread.variance) / (1 - middle**2)
    assert cell.mean == pytest.approx(middle)
    assert (cell.low, cell.high) == pytest.approx(np.tanh(np.arctanh(middle) + np.array([-reach, reach])), abs=1e-9)
    assert str(cell.method) == "t-fisher-z:95:seeds+stimuli+recordings"


def test_stimuli_that_all_seeds_share_widen_it() -> None:
    layers, runs = made([drawn(seed) for seed in range(6)])
    joint, alone = (cell_of(list(chosen_pages(layers, own))) for own in (runs, without_draws(runs)))
    assert joint.low is not None
    assert joint.high is not None
    assert alone.low is not None
    assert alone.high is not None
    assert joint.high - joint.low > 2 * (alone.high - alone.low)


def test_where_one_layer_is_always_chosen_it_is_that_layers_interval_at_the_held_out_score() -> None:
    one = drawn(0, SESSIONS[:1])
    layers, runs = made([one])
    for row in layers:
        if row["layer"] != CHOSEN:
            row["chosen"] = str(float(row["layer"] == "fc"))
    cell, whole = cell_of(list(chosen_pages(layers, runs))), cell_of(list(layer_pages(list(mean_rows(runs)), runs)))
    assert cell.low is not None
    assert cell.high is not None
    assert whole.low is not None
    assert whole.high is not None
    # Fisher's z: the same width on the scale on which a correlation's spread does not depend on it, divided by it.
    widths = [(np.arctanh(one.high) - np.arctanh(one.low)) * (1 - one.mean**2) for one in (cell, whole)]
    assert widths[0] == pytest.approx(widths[1], rel=1e-9)
    assert str(cell.method) == "t-fisher-z:95:stimuli"


def test_one_seed_without_draws_has_no_interval() -> None:
    layers, runs = made([drawn(0)])
    [page] = chosen_pages(layers, without_draws(runs))
    cell = cell_of([page])
    assert (cell.low, cell.high, cell.method, cell.n) == (None, None, None, 1)
    assert "Interval:" not in page.note


@pytest.mark.parametrize("other", [drawn(1, sampling="another"), drawn(1, ("210322", "201025"))])
def test_draws_of_other_stimuli_or_recordings_are_not_mixed(other: Drawn) -> None:
    layers, runs = made([drawn(0), other])
    assert str(cell_of(list(chosen_pages(layers, runs))).method) == "t:95:seeds"


def test_what_a_reader_of_a_benchmark_must_know_is_said_below_the_table() -> None:
    noisy, plain = made([drawn(0)], "algonauts2019"), made([drawn(0)])
    for pages in (chosen_pages(*noisy), layer_pages(list(mean_rows(noisy[1])), noisy[1])):
        assert "algonauts2019: very noisy: leave-one-subject-out ceilings below .02 (EVC" in next(iter(pages)).note
    assert "noisy" not in next(iter(chosen_pages(*plain))).note


def test_without_a_choice_there_is_no_such_table() -> None:
    assert not list(chosen_pages([], made([drawn(0)])[1]))
    assert wide_files([], [], [], []) == {}


def test_notes_tell_regions_apart_whose_intervals_are_over_other_things() -> None:
    means = [
        {"network": "net", "rule": "a", "kind": "a", "layer": "fc", "benchmark": "b", "session": session,
         "animal": "all", "species": "macaque", "region": region, "metric": "rho-a", "n_seeds": "3", "mean": "0.2",
         "ci_low": "0.1", "ci_high": "0.3", "interval_method": f"Student's t 95 % interval over {over}"}
        for region, session, over in (("V4", "mean", "seeds and recordings"), ("IT", "mean", "seeds and recordings"),
                                      ("V1", "one", "seeds"))
    ]  # fmt: skip
    [page] = layer_pages(means, [])
    interval = "Student's t 95 % interval over"
    both, alone = (
        f"{interval} seeds and recordings (macaque V4 (b), macaque IT (b))",
        f"{interval} seeds (macaque V1 (b))",
    )
    assert f"Interval: {both}; {alone}. " in page.note
    [page] = layer_pages(means[:2], [])
    assert f"Interval: {interval} seeds and recordings. " in page.note
