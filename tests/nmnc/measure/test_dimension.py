"""Estimators of dimension on manifolds whose dimension is known, and against scikit-dimension."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from nmnc.measure.dimension import (
    DISCARDED,
    FRACTIONS,
    QUANTITIES,
    SHARES,
    components_for,
    dimensions,
    estimate,
    participation_ratio,
    two_nn,
)
from nmnc.noise.manifold import gram_matrix


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embedded(points: Tensor, units: int = 60, seed: int = 9) -> Tensor:
    """The points in a space of more dimensions, rotated and shifted."""
    rotation = torch.linalg.qr(torch.randn(units, points.shape[1], generator=generator(seed)).double()).Q
    return points.double() @ rotation.T + 3


def sphere(images: int, d: int) -> Tensor:
    points = torch.randn(images, d + 1, generator=generator())
    return points / points.norm(dim=1, keepdim=True)


def swiss_roll(images: int) -> Tensor:
    angle, height = (
        1.5 * math.pi * (1 + 2 * torch.rand(images, generator=generator())),
        21 * torch.rand(images, generator=generator(1)),
    )
    return torch.stack([angle * angle.cos(), height, angle * angle.sin()], 1)


def torus(images: int) -> Tensor:
    """The flat torus in four dimensions: two circles."""
    angles = 2 * math.pi * torch.rand(images, 2, generator=generator())
    return torch.cat([angles.cos(), angles.sin()], 1)


def gaussian(images: int, rank: int, seed: int = 0) -> Tensor:
    return torch.randn(images, rank, generator=generator(seed))


def cube(images: int, d: int, seed: int = 0) -> Tensor:
    return torch.rand(images, d, generator=generator(seed))


IMAGES = 2000
MANIFOLDS = {
    "sphere of 2 dimensions": (sphere(IMAGES, 2), 2),
    "sphere of 5 dimensions": (sphere(IMAGES, 5), 5),
    "swiss roll": (swiss_roll(IMAGES), 2),
    "flat torus": (torus(IMAGES), 2),
    "line": (cube(IMAGES, 1), 1),
    "cube of 3 dimensions": (cube(IMAGES, 3), 3),
    "Gaussian of rank 3": (gaussian(IMAGES, 3), 3),
    "Gaussian of rank 6": (gaussian(IMAGES, 6), 6),
}


def values_of(x: Tensor) -> dict[str, float]:
    return dimensions(gram_matrix(x))


@pytest.mark.parametrize("name", MANIFOLDS)
def test_two_nn_finds_the_dimension_of_a_manifold(name: str) -> None:
    points, d = MANIFOLDS[name]
    x = embedded(points)
    found = two_nn(gram_matrix(x - x.mean(0)))
    # The slope's standard error is near d / sqrt(images); borders and density bias high dimensions downwards.
    assert found == pytest.approx(d, abs=3 * d / math.sqrt(IMAGES) + 0.01 * d**2)


def test_linear_estimators_see_the_space_around_a_curved_manifold() -> None:
    values = values_of(embedded(MANIFOLDS["flat torus"][0]))
    assert values["two_nn"] < 2.2
    assert values["participation_ratio"] == pytest.approx(4, abs=0.05)
    assert [values[name] for name in QUANTITIES[2:]] == [4, 4, 4]


@pytest.mark.parametrize("variances", [[1.0], [1, 1, 1, 1, 1], [4, 2, 1], [0.9, 0.06, 0.03, 0.01]])
def test_estimators_of_variance_on_a_subspace_with_known_variances(variances: list[float]) -> None:
    images = 50
    left = torch.linalg.qr(torch.cat([torch.ones(images, 1), gaussian(images, len(variances))], 1).double()).Q[:, 1:]
    values = values_of(embedded(left * torch.tensor(variances, dtype=torch.float64).sqrt()))
    spectrum = np.array(variances)
    assert values["participation_ratio"] == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum(), rel=1e-9)
    shares = np.cumsum(spectrum) / spectrum.sum()
    for share, name in ((0.9, "components_90"), (0.95, "components_95"), (0.99, "components_99")):
        if np.abs(shares - share).min() > 1e-6:  # on the edge itself rounding decides
            assert values[name] == 1 + (shares < share).sum()


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_gaussian_of_known_rank(rank: int) -> None:
    images = 400
    values = values_of(embedded(gaussian(images, rank)))
    # Of sampled eigenvalues: E sum lambda^2 / (E sum lambda)^2 = 1/rank + 1/images.
    assert values["participation_ratio"] == pytest.approx(1 / (1 / rank + 1 / images), rel=0.05)
    assert values["components_99"] == rank


def test_noise_off_a_subspace_counts_for_neighbours_before_it_counts_for_variance() -> None:
    clean, noise = embedded(cube(1000, 3)), gaussian(1000, 60, seed=5)
    small, large = (values_of(clean + size * noise) for size in (1e-4, 0.01))
    assert small["two_nn"] == pytest.approx(values_of(clean)["two_nn"], rel=0.02)
    assert large["two_nn"] > 5
    assert large["participation_ratio"] < 3.5
    assert large["components_90"] == small["components_90"] == 3


def test_nothing_depends_on_scale_place_or_direction() -> None:
    x = embedded(cube(200, 4) ** 2)
    rotation = torch.linalg.qr(gaussian(60, 60, seed=3).double()).Q
    for other in (1e-4 * x, 1e4 * x, x + 50, x @ rotation, x[torch.randperm(200, generator=generator())]):
        assert values_of(other) == pytest.approx(values_of(x), rel=1e-6)


def test_repeated_images_change_two_nn_nothing() -> None:
    x = embedded(cube(150, 4))
    once = values_of(x)["two_nn"]
    assert values_of(torch.cat([x, x[:40], x[:3]]))["two_nn"] == pytest.approx(once, rel=1e-9)


@pytest.mark.parametrize("images", [2, 12])
def test_what_never_varies_has_no_dimension(images: int) -> None:
    assert all(math.isnan(value) for value in values_of(torch.full((images, 5), 2.0)).values())


def test_equal_distances_have_no_dimension() -> None:
    assert math.isnan(two_nn(torch.eye(8, dtype=torch.float64)))


FITTED = pytest.mark.parametrize("name", ["swiss roll", "sphere of 5 dimensions", "Gaussian of rank 6"])


@FITTED
@pytest.mark.parametrize("images", [97, 500])
def test_they_are_the_formulas_in_scikit_learn(name: str, images: int) -> None:
    x = embedded(MANIFOLDS[name][0][:images]).numpy()
    distances = NearestNeighbors(n_neighbors=2).fit(x).kneighbors()[0]
    kept = int(images * (1 - DISCARDED))
    line = LinearRegression(fit_intercept=False).fit(
        np.sort(np.log(distances[:, 1] / distances[:, 0]))[:kept, None], -np.log(1 - np.arange(1, kept + 1) / images)
    )
    variances = PCA().fit(x).explained_variance_
    values = values_of(torch.from_numpy(x))
    assert values["two_nn"] == pytest.approx(line.coef_[0], rel=1e-6)
    assert values["participation_ratio"] == pytest.approx(variances.sum() ** 2 / (variances**2).sum(), rel=1e-9)


@FITTED
@pytest.mark.filterwarnings("ignore")  # of the library's own code
def test_they_are_scikit_dimensions(name: str) -> None:
    import skdim

    points = MANIFOLDS[name][0][:500].double()
    values = values_of(points)
    for x in (points, embedded(points)):  # few and many dimensions take different ways there
        assert values["two_nn"] == pytest.approx(skdim.id.TwoNN(DISCARDED).fit(x.numpy()).dimension_, rel=1e-6)
    whole = skdim.id.lPCA(ver="participation_ratio").fit(points.numpy()).dimension_
    assert int(values["participation_ratio"]) == int(whole)  # it gives the whole part only
    for share, quantity in zip(SHARES, QUANTITIES[2:], strict=True):
        assert values[quantity] == skdim.id.lPCA(ver="ratio", alphaRatio=share).fit(points.numpy()).dimension_


def test_the_shares_of_variance_are_counted_up_to_the_whole() -> None:
    eigenvalues = torch.tensor([5.0, 3, 1, 1]).double()
    assert [components_for(eigenvalues, share) for share in (0.1, 0.5, 0.51, 0.8, 0.85, 1.0)] == [1, 1, 2, 2, 3, 4]
    assert participation_ratio(eigenvalues) == pytest.approx(100 / 36)


def test_estimates_at_every_density_of_sampling() -> None:
    x = embedded(cube(400, 5))
    before = torch.get_rng_state()
    found = estimate(x.float(), generator=generator())
    assert torch.equal(before, torch.get_rng_state())
    assert [(one.quantity, one.fraction, one.images) for one in found] == [
        (name, fraction, round(400 * fraction)) for fraction in FRACTIONS for name in QUANTITIES
    ]
    whole = values_of(x.float())
    assert {one.quantity: one.value for one in found if one.fraction == 1} == pytest.approx(whole, rel=1e-5)
    assert all(one.low <= one.value <= one.high for one in found)
    width = [one.high - one.low for one in found if one.quantity == "two_nn"]
    assert width[0] < width[-1]
    assert found == estimate(x.float(), generator=generator())
    assert found != estimate(x.float(), generator=generator(1))


def test_too_few_images_are_passed_over() -> None:
    assert {one.images for one in estimate(embedded(cube(60, 2)), generator=generator())} == {60, 30, 15}
    assert estimate(embedded(cube(9, 2)), generator=generator()) == []


@pytest.mark.parametrize(("fraction", "images"), [(1.0, 100), (0.5, 200)])
def test_the_interval_holds_what_other_images_would_have_given(fraction: float, images: int) -> None:
    shape, draws = torch.tensor([2.0, 1, 1]), 40
    alone = [values_of(cube(100, 3, 1000 + seed) * shape) for seed in range(6 * draws)]
    found = [estimate(cube(images, 3, seed) * shape, [fraction], generator=generator(seed)) for seed in range(draws)]
    # Nearest neighbours change with the part of the images, so that TwoNN's error comes out too large, never too small.
    for number, (name, widest) in enumerate({"two_nn": 1.5, "participation_ratio": 1.2}.items()):
        intervals = [estimates[number] for estimates in found]
        assert {one.quantity for one in intervals} == {name}
        values = [value[name] for value in alone]
        # 95 % are meant; ten parts give the standard error itself to a quarter.
        assert np.mean([one.low <= np.mean(values) <= one.high for one in intervals]) >= 0.85
        error = np.mean([(one.high - one.low) / 2 / 1.96 for one in intervals])
        assert 0.85 < error / np.std(values) < widest


def test_activity_that_is_not_finite_is_refused() -> None:
    x = embedded(cube(30, 2))
    x[4, 5] = float("nan")
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        estimate(x, generator=generator())
