"""Principal components against scipy, random projections against scikit-learn, and their error bound."""

from math import log
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import subspace_angles, svd
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.random_projection import SparseRandomProjection, johnson_lindenstrauss_min_dim

from brain_eval.activations.reductions.pca import SMALLEST, bytes_needed, principal_components
from brain_eval.activations.reductions.principal_layers import components_note
from brain_eval.activations.reductions.random_projection import (
    WIDTH,
    bound_text,
    error_bound,
    projection_seed,
    random_projection,
)
from brain_eval.activations.reductions.reduction import Reduction, reduce_layer
from nmnc.errors import UserError

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")


def features_of(n: int, p: int, spectrum: NDArray[np.float64], seed: int = 0, mean: float = 3.0) -> NDArray[np.float64]:
    """(n, p) features whose centred singular values are `spectrum`, far from the origin."""
    rng = np.random.default_rng(seed)
    rank = len(spectrum)
    left = rng.standard_normal((n, rank))
    left = np.linalg.qr(left - left.mean(0))[0]
    right = np.linalg.qr(rng.standard_normal((p, rank)))[0]
    return left * spectrum @ right.T + mean * rng.standard_normal(p)


class Blocks:
    """Features that are only given out block by block, and count what is read."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values, self.shape, self.largest, self.read = values, values.shape, 0, 0

    def __getitem__(self, block: tuple[Any, Any]) -> NDArray[Any]:
        part = self.values[block]
        self.largest, self.read = max(self.largest, part.size), self.read + part.size
        return part


@pytest.mark.parametrize(("n", "p"), [(40, 300), (300, 40), (50, 50), (7, 3), (3, 7)])
@pytest.mark.parametrize("block_bytes", [10**4, 10**9])
def test_components_are_those_of_a_full_singular_value_decomposition(n: int, p: int, block_bytes: int) -> None:
    spectrum = np.geomspace(10, 2e-3, min(n - 1, p))
    features = features_of(n, p, spectrum)
    centred = features - features.mean(0)
    left, singular, _ = svd(centred, full_matrices=False)
    found = principal_components(features, min(n, p), block_bytes)
    kept = len(found.singular_values)
    assert kept == len(spectrum)
    np.testing.assert_allclose(found.singular_values, singular[:kept], atol=1e-10 * singular[0])
    np.testing.assert_allclose(found.variance, (singular**2).sum(), rtol=1e-10)
    scores = found.scores()
    for count in range(1, kept + 1, 5):  # as subspaces: a pair of close values may turn in its plane
        own, other = np.linalg.qr(scores[:, :count])[0], left[:, :count]
        assert np.max(subspace_angles(own, other)) < 1e-8
        # What is kept of the features: the angle of a small component matters as little as it is.
        apart = own @ (own.T @ centred) - other @ (other.T @ centred)
        assert np.linalg.norm(apart, 2) < 1e-10 * singular[0]
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), singular[:kept], atol=1e-10 * singular[0])


@pytest.mark.parametrize(("n", "p"), [(30, 200), (200, 30)])
def test_components_are_scikit_learns(n: int, p: int) -> None:
    features = np.random.default_rng(1).standard_normal((n, p)) * np.linspace(1, 3, p)
    oracle = PCA(8, svd_solver="full").fit(features)
    found = principal_components(features, 8)
    expected, scores = oracle.transform(features), found.scores()
    signs = np.sign((expected * scores).sum(0))
    np.testing.assert_allclose(scores * signs, expected, rtol=1e-8, atol=1e-10 * np.abs(expected).max())
    assert found.explained() == pytest.approx(oracle.explained_variance_ratio_.sum(), rel=1e-10)
    assert found.dropped == 0
    np.testing.assert_allclose(found.scores(slice(3, 9)), scores[3:9], rtol=1e-12, atol=1e-12)


def test_components_lost_to_rounding_are_dropped_and_said_so() -> None:
    spectrum = np.array([1, 0.1, 1.2 * SMALLEST, 0.8 * SMALLEST, 1e-7])
    found = principal_components(features_of(20, 90, spectrum), 5)
    np.testing.assert_allclose(found.singular_values, spectrum[:3], rtol=1e-4)
    assert found.dropped == 2
    note = components_note(found, 90, 5)
    assert "3 principal components of 90 values" in note
    assert "2 dropped, below 0.0001 of the largest" in note


@pytest.mark.parametrize("case", ["duplicates", "ties", "constant rows", "three images", "constant units"])
@pytest.mark.parametrize("wide", [True, False])
def test_components_of_degenerate_features_are_those_of_a_full_decomposition(case: str, wide: bool) -> None:
    rng = np.random.default_rng(3)
    n, p = (12, 60) if wide else (60, 12)
    features = {
        "duplicates": np.repeat(rng.standard_normal((n // 3, p)), 3, axis=0),
        "ties": rng.integers(0, 3, (n, p)).astype(float),
        "constant rows": np.where((np.arange(n) < 4)[:, None], rng.standard_normal((n, 1)), rng.random((n, p))),
        "three images": rng.standard_normal((n, p))[:3],
        "constant units": np.where(np.arange(p) % 2, rng.standard_normal((n, p)), 7.1),
    }[case]
    left, singular, _ = svd(features - features.mean(0), full_matrices=False)
    rank = int((singular > 1e-10 * singular[0]).sum())
    found = principal_components(features, min(features.shape))
    assert len(found.singular_values) == rank
    np.testing.assert_allclose(found.singular_values, singular[:rank], atol=1e-10 * singular[0])
    # All components together are the features, however those of equal values turn in their plane.
    scores = found.scores()
    np.testing.assert_allclose(scores @ scores.T, left * singular**2 @ left.T, atol=1e-10 * singular[0] ** 2)
    assert found.explained() == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_components_refuse_nan_by_name(shape: tuple[int, int]) -> None:
    for dtype in [np.float32, np.float64]:
        for bad in [np.nan, np.inf, -np.inf]:
            features = np.random.default_rng(0).standard_normal(shape).astype(dtype)
            features[4, 2] = bad
            with pytest.raises(UserError, match="features contain NaN or infinity in row 4"):
                principal_components(Blocks(features), 3, block_bytes=8 * 6 * 3)
            with pytest.raises(UserError, match="squares of the features overflow"):
                principal_components(np.where(np.isfinite(features), features, 0).astype(np.float64) * 1e200, 3)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_a_layer_that_never_changes_is_one_component_of_zeros(shape: tuple[int, int]) -> None:
    found = principal_components(np.full(shape, 2.5), 4)
    assert found.scores().shape == (shape[0], 1)
    assert not found.scores().any()
    assert "the same" in components_note(found, shape[1], 4)


@pytest.mark.parametrize(("n", "p", "reads"), [(40, 500, 1), (500, 40, 2)])
def test_features_are_read_by_blocks_and_no_oftener_than_needed(n: int, p: int, reads: int) -> None:
    blocks = Blocks(np.random.default_rng(0).standard_normal((n, p)).astype(np.float32))
    found = principal_components(blocks, 5, block_bytes=8 * 40 * 50)
    assert blocks.largest <= 40 * 50
    assert blocks.read == reads * n * p
    assert found.scores(slice(0, 10)).shape == (10, 5)


def test_the_memory_told_for_components_holds_the_products_and_the_vectors() -> None:
    seeking, kept = bytes_needed(3000, 10**6, 100)
    assert kept >= 8 * 3000 * 100
    assert 8 * 3000**2 + kept < seeking < 2 * 8 * 3000**2
    assert bytes_needed(10**6, 3000, 100)[0] == seeking  # the smaller of the two decides


@pytest.mark.parametrize(("n", "k"), [(92, 1000), (1000, 5000), (20000, 10000), (500, 2000)])
def test_the_error_bound_is_the_one_scikit_learn_sizes_its_projections_by(n: int, k: int) -> None:
    # scikit-learn asks for 4 ln n dimensions, which is a chance of failure of 1 - 1/n.
    error = error_bound(n, k, failure=(n - 1) / n)
    assert johnson_lindenstrauss_min_dim(n, eps=error) in (k - 1, k)
    assert error_bound(n, k) > error


def test_the_error_bound_falls_with_dimensions_and_ends_where_nothing_is_guaranteed() -> None:
    bounds = [error_bound(100, k) for k in (300, 1000, 3000, 10**4)]
    assert bounds == sorted(bounds, reverse=True)
    assert error_bound(100, 50) is None
    assert error_bound(1, 5) == 0
    text = bound_text(100, 50)
    least = int(text.split("needs ")[1].split()[0])
    assert "no error below 1" in text
    assert error_bound(100, least) is not None
    assert error_bound(100, least - 1) is None
    assert least == int(12 * log(100 * 99 / 0.05)) + 1
    assert f"1 +- {error_bound(100, 2000):.3f}" in bound_text(100, 2000)


def test_no_distance_changes_by_more_than_the_bound() -> None:
    for seed in range(20):
        n, k, p = 30, 400, 2000
        points = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, p)).astype(np.float32))
        kept = reduce_layer("layer", (p,), 0, Reduction("random_projection", k, seed), n, CPU)
        before, after = torch.pdist(points) ** 2, torch.pdist(kept.take(points)) ** 2
        assert float((after / before - 1).abs().max()) <= error_bound(n, k)


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "part of a larger one", "bfloat16", "tokens"])
def test_a_random_projection_is_scikit_learns_for_its_layer_and_seed(layout: str) -> None:
    # More values than are multiplied at once, and not a multiple of them.
    shape = (6, 30, 40) if layout != "tokens" else (60, 120)
    assert WIDTH < 7200
    outputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    if layout == "channels last":
        outputs = outputs.contiguous(memory_format=torch.channels_last)
    elif layout == "part of a larger one":
        outputs = torch.cat([outputs, outputs], 3)[..., :40]
    elif layout == "bfloat16":
        outputs = outputs.bfloat16()
    kept = reduce_layer("of this test", shape, 0, Reduction("random_projection", 50, seed=3), 4, CPU)
    oracle = SparseRandomProjection(50, random_state=projection_seed("of this test", 3)).fit(csr_matrix((1, 7200)))
    expected = oracle.transform(outputs.flatten(1).double().numpy())
    np.testing.assert_allclose(kept.take(outputs).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert kept.take(outputs).dtype == torch.float32
    assert (kept.shape, kept.placed) == ((50, 1, 1), False)
    assert f"density {oracle.density_:.6g}" in kept.note


def test_a_random_projection_depends_on_the_layers_name_and_the_seed_alone() -> None:
    maps = torch.randn(4, 6, 10, 10, generator=torch.Generator().manual_seed(0))
    taken = []
    for layer, seed in (("conv", 3), ("conv", 3), ("conv", 4), ("another", 3)):
        random_projection.cache_clear()  # else the second is the first
        taken.append(reduce_layer(layer, (6, 10, 10), 0, Reduction("random_projection", 50, seed), 4, CPU).take(maps))
    one, again, other_seed, other_layer = taken
    assert torch.equal(again, one)
    assert not torch.equal(other_seed, one)
    assert not torch.equal(other_layer, one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_spatial_mean_is_taken_in_float32_over_the_places_of_maps_only(dtype: Any) -> None:
    for memory_format in [torch.contiguous_format, torch.channels_last]:
        for axis in [0, 1, 2]:
            maps = torch.randn(3, 4, 5, 6).to(dtype).to(memory_format=memory_format)
            kept = reduce_layer("maps", (4, 5, 6), axis, Reduction("spatial_mean"), 3, CPU)
            channels, *places = [(4, 5, 6)[axis], *(extent for extent in (4, 5, 6) if extent != (4, 5, 6)[axis])]
            assert (kept.shape, kept.placed) == ((channels, 1, 1), False)
            assert f"{places[0]} x {places[1]} places" in kept.note
            taken = kept.take(maps)
            assert taken.dtype == torch.float32
            expected = maps.double().movedim(1 + axis, 1).mean((2, 3))
            torch.testing.assert_close(taken.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_the_spatial_mean_keeps_tokens_whole(axis: int | None) -> None:
    for shape in ((7,), (5, 7)):
        whole = reduce_layer("tokens", shape, axis, Reduction("spatial_mean"), 3, CPU)
        values = torch.randn(3, *shape)
        assert whole.placed
        assert whole.note == "kept whole"
        assert torch.equal(whole.take(values), values)


def test_a_mean_over_places_needs_a_known_channel_axis_and_nothing_else_does() -> None:
    with pytest.raises(UserError, match=r"layer 'maps' gives \(4, 5, 6\) .* set --channel-axis .* first or last"):
        reduce_layer("maps", (4, 5, 6), None, Reduction("spatial_mean"), 3, CPU)
    for name in ("none", "pca", "random_projection"):
        assert reduce_layer("maps", (4, 5, 6), None, Reduction(name), 3, CPU).channel_axis == 0


def test_a_layer_smaller_than_the_projection_is_kept_whole() -> None:
    kept = reduce_layer("fc", (20,), 0, Reduction("random_projection", 20), 3, CPU)
    values = torch.randn(3, 20)
    assert torch.equal(kept.take(values), values)
    assert (kept.shape, kept.placed, kept.note) == ((20, 1, 1), True, "kept whole")


@pytest.mark.parametrize(
    ("name", "dimensions", "message"),
    [
        ("mean", 5, "unknown reduction 'mean'; known: none, pca"),
        ("pca", 0, "must be at least 1"),
    ],
)
def test_mistakes_are_one_line(name: str, dimensions: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Reduction(name, dimensions)


def test_each_description_names_what_decides_the_values() -> None:
    told = [Reduction(*given).describe() for given in
            (("none", 5), ("spatial_mean", 5), ("pca", 5), ("pca", 6), ("random_projection", 5),
             ("random_projection", 6), ("random_projection", 5, 1))]  # fmt: skip
    assert len(set(told)) == len(told)
    assert Reduction("none", 5).describe() == Reduction("none", 6, 1).describe()
