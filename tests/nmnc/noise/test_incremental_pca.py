"""One pass over batches against SVDs of everything at once, numpy's and scikit-learn's, and the memory it takes."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import IncrementalPCA as Oracle
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nmnc.measure.principal_angles import principal_angles
from nmnc.noise.incremental_pca import IncrementalPCA
from nmnc.noise.manifold import BLOCK, gram_matrix, principal_basis

pytestmark = pytest.mark.numeric


def stream(images: int, units: int, spectrum: Tensor, seed: int = 0) -> Tensor:
    """float32 (images, units): Gaussian along random directions, `spectrum` standard deviations, mean of size 1."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(units, len(spectrum), generator=generator)).Q
    return torch.randn(images, len(spectrum), generator=generator) * spectrum @ directions.T + torch.randn(
        units, generator=generator
    )


def passed(x: Tensor, sizes: list[int] | int, *arguments: int, **options: float) -> IncrementalPCA:
    """The state after one pass over `x` in batches."""
    pca = IncrementalPCA(*arguments, **options)
    for batch in x.split(sizes):
        pca.update(batch)
    return pca


def svd(x: Tensor, centred: bool = True) -> tuple[np.ndarray, Tensor]:
    """The oracle: singular values and right singular vectors (columns) of everything at once, float64."""
    wide = x.double().numpy()
    _, values, right = np.linalg.svd(wide - wide.mean(0) if centred else wide, full_matrices=False)
    return values, torch.from_numpy(right.T.copy())


SPECTRUM = 1 / torch.arange(1, 101) ** 0.75


@pytest.mark.parametrize("units", [40, 700])
def test_with_room_for_the_whole_rank_it_is_the_svd_of_everything(units: int) -> None:
    for sizes in [300, 30, [1, 2, 7, 90, 200], [250, 50]]:
        x = stream(300, units, SPECTRUM[:20])
        pca = passed(x, sizes, 20)
        values, right = svd(x)
        np.testing.assert_allclose(pca.singular_values.numpy(), values[:20], rtol=1e-5)
        for dimensions in (1, 6, 20):
            assert principal_angles(pca.basis(dimensions), right[:, :dimensions])[-1] < 0.01
        torch.testing.assert_close(pca.mean, x.double().mean(0), rtol=0, atol=1e-6)
        assert pca.count == 300


def test_truncated_it_is_scikit_learns() -> None:
    x = stream(400, 150, SPECTRUM)
    pca, oracle = passed(x, 50, 16), Oracle(16, batch_size=50).fit(x.double().numpy())
    np.testing.assert_allclose(pca.singular_values.numpy(), oracle.singular_values_, rtol=1e-5)
    np.testing.assert_allclose(pca.mean.numpy(), oracle.mean_, atol=1e-6)
    same = (pca.basis().double().T @ torch.from_numpy(oracle.components_.T.copy())).abs()
    torch.testing.assert_close(same, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-3)


def test_truncated_it_is_near_the_svd_and_nearer_the_more_it_carries() -> None:
    x = stream(1000, 500, SPECTRUM)
    values, right = svd(x)
    worst = []
    for carried in (8, 16, 32, 64, 100):
        pca = passed(x, 50, carried)
        errors = pca.singular_values[:8].numpy() / values[:8] - 1
        assert errors.max() < 1e-5  # what a merge drops is missing: singular values are never too large
        assert errors.min() > (-0.1 if carried == 8 else -0.003)
        worst.append(principal_angles(pca.basis(8), right[:, :8])[-1].item())
    assert worst == sorted(worst, reverse=True)
    assert worst[2] < 3
    assert worst[-1] < 0.01


def test_it_agrees_with_the_basis_of_one_batch() -> None:
    x = stream(200, 600, SPECTRUM[:30])
    assert principal_angles(passed(x, 40, 30).basis(12), principal_basis(x, 12))[-1] < 0.01


def test_not_centred_it_is_the_svd_of_the_rows_themselves() -> None:
    x = stream(90, 200, SPECTRUM[:10])
    pca = passed(x, 20, 11, centred=False)
    values, right = svd(x, centred=False)
    np.testing.assert_allclose(pca.singular_values.numpy(), values[:11], rtol=1e-5)
    assert principal_angles(pca.basis(), right[:, :11])[-1] < 0.02
    assert not pca.mean.any()


def test_memory_weighs_what_is_old_by_its_age_in_batches() -> None:
    x = stream(120, 60, SPECTRUM[:12])
    pca = passed(x, 20, 12, memory=0.7)
    weights = (0.7 ** torch.arange(5, -1, -1).double()).repeat_interleave(20)
    mean = (weights[:, None] * x.double()).sum(0) / weights.sum()
    values, right = svd(weights[:, None].sqrt() * (x.double() - mean), centred=False)
    np.testing.assert_allclose(pca.singular_values.numpy(), values[:12], rtol=1e-5)
    assert principal_angles(pca.basis(), right[:, :12])[-1] < 0.02
    torch.testing.assert_close(pca.mean, mean, rtol=0, atol=1e-6)
    assert pca.count == pytest.approx(weights.sum().item())


def test_memory_follows_a_manifold_that_moves() -> None:
    old, new = (stream(2000, 100, torch.ones(4), seed) for seed in (1, 2))
    angles = {
        memory: principal_angles(passed(torch.cat([old, new]), 50, 8, memory=memory).basis(4), svd(new)[1][:, :4])[-1]
        for memory in (1.0, 0.8)
    }
    assert angles[0.8] < 5
    assert angles[1.0] > 20


def test_directions_that_nothing_spans_are_left_out() -> None:
    x = stream(60, 300, torch.ones(3))
    assert passed(x, 10, 8).basis().shape == (300, 3)
    assert passed(x, 10, 8).basis(2).shape == (300, 2)
    assert passed(x[:1].repeat(9, 1), 3, 4).basis().shape == (300, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
def test_a_batch_that_is_not_finite_changes_nothing(value: float) -> None:
    x = stream(60, 30, SPECTRUM[:5]).double()
    pca, untouched = passed(x, 20, 5), passed(x, 20, 5)
    bad = x[:7].clone()
    bad[2, 3] = value
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        pca.update(bad)
    for state in (pca, untouched):
        state.update(x[:9])
    assert pca.count == untouched.count == 69
    assert torch.equal(pca.basis(), untouched.basis())


def test_half_precision_is_widened() -> None:
    x = stream(60, 50, SPECTRUM[:5]).bfloat16()
    pca = passed(x, 20, 5)
    assert pca.basis().dtype == torch.float32
    assert torch.equal(pca.basis(), passed(x.float(), 20, 5).basis())


@pytest.mark.parametrize(
    "arguments", [{"components": 0}, {"components": 3, "memory": 0.0}, {"components": 3, "memory": 2}]
)
def test_what_makes_no_sense_is_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        IncrementalPCA(**arguments)


def test_before_the_first_batch_there_is_nothing() -> None:
    with pytest.raises(ValueError, match="call update first"):
        IncrementalPCA(3).basis()


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation returns, in bytes."""

    bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: Any = None
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


def test_memory_grows_with_units_times_components_and_batch_never_with_units_squared() -> None:
    kept, images = 6, 10
    for units in (20_000, 200_000):
        batches = [torch.randn(images, units, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
        pca, largest = IncrementalPCA(kept), Largest()
        with largest:
            for batch in batches:
                pca.update(batch)
            assert pca.basis().shape == (units, kept)
        # The stack of batch, components and shift; a vector in float64 is smaller.
        assert largest.bytes == 4 * units * (kept + images + 1)


def test_the_gram_matrix_is_that_of_float64() -> None:
    x = 1000 + torch.randn(20, 2 * BLOCK + 5, generator=torch.Generator().manual_seed(0))
    wide = x.double()
    torch.testing.assert_close(gram_matrix(x), wide @ wide.T, rtol=1e-13, atol=0)
    x[3, 5] = float("nan")
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        gram_matrix(x)
