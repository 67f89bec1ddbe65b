"""Bases of the manifold against numpy's SVD in float64, compared as subspaces."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nmnc.errors import UserError
from nmnc.noise.manifold import RELATIVE_TOLERANCE, layer_basis, principal_basis, random_basis

pytestmark = pytest.mark.numeric


def activity(images: int, units: int, spectrum: Tensor, offset: float = 0.0, seed: int = 0) -> Tensor:
    """float32 (images, units) whose centred singular values are `spectrum`, about a mean of size `offset`."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(images, len(spectrum), generator=generator, dtype=torch.float64)
    left = torch.linalg.qr(left - left.mean(0)).Q  # columns stay orthogonal to the constant vector
    right = torch.linalg.qr(torch.randn(units, len(spectrum), generator=generator, dtype=torch.float64)).Q
    mean = offset * torch.randn(units, generator=generator, dtype=torch.float64)
    return ((left * spectrum) @ right.T + mean).float()


def svd_basis(x: Tensor, dimensions: int) -> np.ndarray:
    """The oracle: right singular vectors of the centred activity, float64 (units, dimensions)."""
    centred = x.double().numpy()
    return np.linalg.svd(centred - centred.mean(0), full_matrices=False)[2][:dimensions].T


def distance(one: Tensor, other: np.ndarray) -> float:
    """Sine of the largest principal angle between two subspaces."""
    axes = one.double().numpy()
    assert axes.shape == other.shape
    return float(np.linalg.norm(other - axes @ (axes.T @ other), 2))


def orthonormality(basis: Tensor) -> float:
    """Largest deviation of U^T U from I."""
    wide = basis.double()
    return (wide.T @ wide - torch.eye(basis.shape[1], dtype=torch.float64)).abs().max().item()


DECAYING = 0.7 ** torch.arange(16, dtype=torch.float64)


@pytest.mark.parametrize(("images", "units"), [(40, 25), (40, 300), (64, 2000)])
def test_the_basis_is_that_of_the_svd(images: int, units: int) -> None:
    for size in [1e-6, 1.0, 1e6]:
        x = activity(images, units, size * DECAYING, offset=size)
        for dimensions in (1, 5, 12):
            basis = principal_basis(x, dimensions)
            assert basis.dtype == torch.float32
            assert orthonormality(basis) < 1e-5
            assert distance(basis, svd_basis(x, dimensions)) < 2e-4


def test_float64_is_more_exact() -> None:
    x = activity(40, 300, DECAYING).double()
    basis = principal_basis(x, 12)
    assert basis.dtype == torch.float64
    assert orthonormality(basis) < 1e-14
    assert distance(basis, svd_basis(x, 12)) < 1e-10


def test_nearly_equal_components_are_found_together() -> None:
    spectrum = torch.cat([torch.ones(6), 0.01 * torch.ones(10)]).double()
    x = activity(50, 400, spectrum)
    assert distance(principal_basis(x, 6), svd_basis(x, 6)) < 1e-4


@pytest.mark.parametrize("rank", [1, 2, 7])
@pytest.mark.parametrize(("images", "units"), [(30, 12), (40, 500), (512, 4000)])
def test_directions_that_activity_does_not_span_are_left_out(images: int, units: int, rank: int) -> None:
    x = activity(images, units, torch.linspace(1, 0.5, rank, dtype=torch.float64), offset=1)
    basis = principal_basis(x, 10)
    assert basis.shape == (units, rank)
    assert orthonormality(basis) < 1e-5
    assert distance(basis, svd_basis(x, rank)) < 1e-4


def test_few_or_repeated_images_span_few_directions() -> None:
    x = activity(8, 100, DECAYING[:7])
    assert principal_basis(x, 50).shape == (100, 7)
    assert principal_basis(x.repeat(5, 1), 50).shape == (100, 7)
    assert distance(principal_basis(x.repeat(5, 1), 5), svd_basis(x, 5)) < 1e-4
    assert principal_basis(activity(40, 9, DECAYING[:9]), 50).shape == (9, 9)


def test_components_below_the_tolerance_are_left_out_and_those_above_are_kept() -> None:
    for part, kept in ((30, 3), (1 / 30, 2)):
        x = activity(40, 60, torch.tensor([1, 0.5, part * RELATIVE_TOLERANCE], dtype=torch.float64))
        assert principal_basis(x, 8).shape[1] == kept


def test_one_silent_unit_or_a_constant_offset_changes_nothing() -> None:
    x = activity(40, 60, DECAYING[:6])
    shifted = x + torch.linspace(-5, 5, 60)
    assert distance(principal_basis(shifted, 4), svd_basis(x, 4)) < 1e-4
    padded = torch.cat([x, torch.full((40, 1), 3.0)], 1)
    assert principal_basis(padded, 4)[-1].abs().max() < 1e-6


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_activity_that_is_the_same_for_all_images_spans_nothing(scale: float) -> None:
    same = scale * torch.randn(700, generator=torch.Generator().manual_seed(0))
    for images in (20, 333, 512):
        assert principal_basis(same.repeat(images, 1), 5).shape == (700, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_activity_that_is_not_finite_is_refused_with_the_layers_name(value: float) -> None:
    x = activity(20, 30, DECAYING[:5])
    x[3, 4] = value
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        principal_basis(x, 5)
    with pytest.raises(UserError, match=r"layer conv2: .*; lower training\.learning_rate or set"):
        layer_basis("conv2", x, 5)


@pytest.mark.parametrize(("units", "dimensions"), [(50, 1), (50, 20), (50, 50), (3000, 64)])
def test_a_random_basis_is_orthonormal_and_follows_its_generator(units: int, dimensions: int) -> None:
    device = torch.device("cpu")
    before = torch.get_rng_state()
    bases = [random_basis(units, dimensions, torch.Generator().manual_seed(seed), device) for seed in (3, 3, 4)]
    assert torch.equal(before, torch.get_rng_state())
    assert bases[0].shape == (units, dimensions)
    assert bases[0].dtype == torch.float32
    assert orthonormality(bases[0]) < 1e-5
    assert torch.equal(bases[0], bases[1])
    assert not torch.equal(bases[0], bases[2])


def test_random_subspaces_favour_no_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    units, dimensions, draws = 6, 2, 4000
    total = torch.zeros(units, units)
    for _ in range(draws):
        basis = random_basis(units, dimensions, generator, torch.device("cpu"))
        total += basis @ basis.T
    # A projector's entries have variance below 1/4 on the diagonal: five standard errors are 5 / (2 sqrt(draws)).
    expected = torch.eye(units) * dimensions / units
    assert (total / draws - expected).abs().max() < 2.5 / draws**0.5
