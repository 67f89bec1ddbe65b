"""rdm.nc: matrices of dissimilarities are used, all else is refused with the value, the stimulus_id and the way out."""

from typing import Any

import netCDF4
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from brain_eval.benchmarks import load_benchmark
from brain_eval.metrics.mahalanobis import crossnobis_rdm
from brain_eval.scoring.scores import refuse_without_responses
from nmnc.errors import UserError

N = 6
RESPONSES = np.random.default_rng(0).normal(size=(N, 9))
DISTANCES = squareform(pdist(RESPONSES, "correlation"))
UPPER = np.triu(DISTANCES)


def with_diagonal(values: Any, matrix: NDArray[np.float64] = DISTANCES) -> NDArray[np.float64]:
    changed = matrix.copy()
    np.fill_diagonal(changed, values)
    return changed


def with_pair(value: float, matrix: Any = DISTANCES) -> NDArray[np.float64]:
    changed = matrix.copy()
    changed[1, 4] = changed[4, 1] = value
    return changed


@pytest.mark.parametrize(
    "matrix",
    [
        DISTANCES,
        with_diagonal(np.nan),
        with_diagonal([0, np.nan, 0, 0, np.nan, 0]),
        with_diagonal(1e-8),
        DISTANCES.astype(np.float32),
        DISTANCES + 1e-8 * np.random.default_rng(1).normal(size=(N, N)),
        with_pair(0.0),
        with_pair(-1e-9),
        squareform(pdist(RESPONSES, "sqeuclidean")),
    ],
)
def test_distances_are_taken_up_to_rounding_whatever_their_scale(mine: Any, matrix: NDArray[Any]) -> None:
    for scale in [1e-9, 1.0, 1e9]:
        mine.rdm(matrix * scale)
        (recording,) = mine.recordings()
        expected = np.where(np.eye(N, dtype=bool), 0.0, matrix * scale)
        np.testing.assert_allclose(recording.rdm, expected, atol=1e-7 * scale)
        assert np.array_equal(recording.rdm, recording.rdm.T)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.corrcoef(RESPONSES), "'s0' from itself is 1 and not 0; this looks like similarities, give 1 - them"),
        (np.corrcoef(RESPONSES).astype(np.float32), "looks like similarities, give 1 - them"),
        (100 * np.corrcoef(RESPONSES), "looks like similarities, give 100 - them"),
        (np.exp(-DISTANCES), "looks like similarities, give 1 - them"),
        (with_diagonal(0, np.corrcoef(RESPONSES)), "is -0.*, below 0; give 1 - them if they are similarities"),
        (with_diagonal(np.nan, np.corrcoef(RESPONSES)), "below 0; give 1 - them if they are similarities"),
        (np.cov(RESPONSES), "from itself is .* and not 0; set the diagonal to 0"),
        (DISTANCES + 0.3, "'s0' from itself is 0.3 and not 0; set the diagonal to 0"),
        (1e-9 * (DISTANCES + 0.3), "'s0' from itself is 3e-10 and not 0"),
        (with_diagonal([0, 0, 0, 0.2, 0, 0]), "'s3' from itself is 0.2 and not 0"),
        (with_diagonal([0, 0, -0.2, 0, 0, 0]), "'s2' from itself is -0.2 and not 0"),
        (with_diagonal([0, 0, np.inf, 0, 0, 0]), "'s2' from itself is inf and not 0"),
        (with_pair(-0.1), r"'s1' and 's4' is -0\.1, below 0; .* 'distance: crossnobis' in benchmark\.yaml"),
        (-DISTANCES, "below 0"),
        (with_diagonal(0, np.ones((N, N))), "all distances are 1, so nothing can be compared"),
        (np.zeros((N, N)), "all distances are 0"),
        (with_pair(np.nan), "NaN or infinity in the row of stimulus_id 's1'"),
        (UPPER, "has only its upper triangle; fill the other"),
        (UPPER.T, "has only its lower triangle"),
        (np.where(np.tri(N, dtype=bool), np.nan, DISTANCES), "has only its upper triangle"),
        (squareform(DISTANCES), r"has shape \(15,\); an RDM is square: these are the pairs of 6 stimuli"),
        (np.arange(14.0), r"has shape \(14,\); an RDM is square$"),
        (DISTANCES[None], r"has shape \(1, 6, 6\); an RDM is square: average over"),
        (DISTANCES[:, :5], r"has shape \(6, 5\); an RDM is square$"),
        (DISTANCES + np.eye(N, k=1), "not symmetric in the row of stimulus_id"),
    ],
)
def test_what_is_no_matrix_of_distances_is_refused(mine: Any, matrix: NDArray[Any], message: str) -> None:
    ids = mine.ids if len(matrix) == N else [f"s{i % N}" for i in range(len(matrix))]
    mine.rdm(matrix, ids)
    with pytest.raises(UserError, match=message) as caught:
        mine.recordings()
    assert str(mine.path / "rdm.nc") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_crossnobis_distances_may_be_negative_where_that_is_said(mine: Any) -> None:
    trials = np.random.default_rng(0).normal(size=(3, N, 4))
    distances = crossnobis_rdm(trials)
    assert distances.min() < 0
    mine.rdm(distances)
    with pytest.raises(UserError, match="below 0"):
        mine.recordings()
    mine.about(distance="crossnobis")
    (recording,) = mine.recordings()
    np.testing.assert_allclose(recording.rdm, distances, atol=1e-12)
    assert recording.distance == "crossnobis"
    mine.rdm(with_diagonal(1, distances))
    with pytest.raises(UserError, match="from itself is 1 and not 0"):
        mine.recordings()


def test_a_named_distance_is_what_it_can_be(mine: Any) -> None:
    mine.rdm(with_pair(2.5))
    for kind in ("correlation", "cosine"):
        mine.about(distance=kind)
        with pytest.raises(UserError, match=f"'s1' and 's4' is 2.5, and {kind} distances are at most 2"):
            mine.recordings()
    for kind in ("euclidean", "mahalanobis"):
        mine.about(distance=kind)
        assert mine.recordings()[0].distance == kind
    mine.about(distance="correlations")
    with pytest.raises(UserError, match="unknown distance 'correlations'; did you mean 'correlation'"):
        mine.recordings()


@pytest.mark.parametrize(("kind", "metric"), [("correlation", "spearman"), ("crossnobis", "crossnobis-spearman")])
def test_a_published_matrix_is_of_its_own_kind_too(mine: Any, study: Any, kind: str, metric: str) -> None:
    mine.rdm(DISTANCES)
    mine.about(distance="crossnobis")
    features = np.random.default_rng(3).standard_normal((N, 9)).astype(np.float32)
    rows = study.score_of(mine.load(), {"conv": features}, metrics=["spearman"], recorded_rdms=[kind])
    assert [row["metric"] for row in rows] == [metric]


def test_keys_of_the_other_file_are_refused(mine: Any) -> None:
    mine.rdm(DISTANCES)
    mine.about(centre="true")
    with pytest.raises(UserError, match=r"benchmark\.yaml: centre describes responses\.nc"):
        mine.recordings()
    (mine.path / "rdm.nc").unlink()
    mine.responses(RESPONSES.T)
    mine.about(distance="correlation")
    with pytest.raises(UserError, match=r"benchmark\.yaml: distance describes rdm\.nc"):
        mine.recordings()


def test_attributes_that_scale_and_mark_are_obeyed(mine: Any) -> None:
    with netCDF4.Dataset(mine.path / "rdm.nc", "w") as file:
        for name in ("row", "column"):
            file.createDimension(name, N)
        file.createVariable("stimulus_id", str, ("row",))[:] = np.array(mine.ids, dtype=object)
        variable = file.createVariable("rdm", "i2", ("row", "column"), fill_value=-1)
        variable.scale_factor, variable.units = 0.001, "seconds since 2000-01-01"
        variable[:] = np.ma.masked_array(np.round(DISTANCES, 3), np.eye(N, dtype=bool))
    np.testing.assert_allclose(mine.recordings()[0].rdm, np.round(DISTANCES, 3), atol=1e-12)


def test_metrics_of_responses_alone_are_refused_where_only_rdms_are(
    mine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.rdm(DISTANCES)
    benchmark = load_benchmark(f"mine={mine.path}", mine.path)
    message = r"RDMs without responses cannot be scored by ridge, pls; add a metric of RDMs, such as spearman"
    with pytest.raises(UserError, match=message):
        refuse_without_responses([benchmark], ["ridge", "pls"], is_partial=False)
    refuse_without_responses([benchmark], ["ridge", "spearman"], is_partial=False)
    assert capsys.readouterr().err == ""
    refuse_without_responses([benchmark], ["ridge"], is_partial=True)
    assert "warning: " in capsys.readouterr().err
