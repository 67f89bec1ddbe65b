"""Layer-wise NMNC: what its estimate and its signals converge to."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nmnc.measure.diagnostics import diagnose
from nmnc.networks import Network, layer_sizes
from nmnc.networks.backward import replacing_backward, through
from nmnc.networks.convnet import convnet
from nmnc.networks.mlp import mlp
from nmnc.noise.manifold import random_basis
from nmnc.rules.layerwise_noise import LayerwiseManifoldNoiseCorrelation
from tests.nmnc.rules.layerwise import (
    CLASSES,
    CPU,
    SHAPE,
    Seen,
    error,
    generator,
    gradients,
    images,
    plain,
    relative,
    started,
)


def linear(hidden: list[int]) -> Network:
    torch.manual_seed(0)
    return mlp(SHAPE, CLASSES, hidden=hidden, activation="linear")


def layerwise(network: Network, bases: list[Tensor] | None, samples: int, **noise: Any) -> Any:
    """A rule of rate 1, in given bases if any."""
    settings = {"feedback": "layerwise", "images": samples, "rate": 1.0, "dimensions": 6, "basis_images": 24}
    rule = started("nmnc", network, **settings | noise)
    assert isinstance(rule, LayerwiseManifoldNoiseCorrelation)
    if bases is not None:
        rule.bases = bases
        rule.feedback = rule.make_feedback()
    return rule


def subspaces(network: Network, dimensions: int) -> list[Tensor]:
    sizes = layer_sizes(network, SHAPE)[:-1]
    return [random_basis(size, dimensions, generator(size), CPU) for size in sizes]


def projected_chain(network: Network, rule: LayerwiseManifoldNoiseCorrelation) -> list[Tensor]:
    """The signals whose estimates the rule makes: every layer's exact product, projected on the basis."""

    def back(layer: Any, basis: Tensor, gradient: Tensor, shape: torch.Size) -> Tensor:
        exact = through(layer, layer.weight.detach(), gradient, shape).flatten(1)
        return (exact @ basis @ basis.T).view(shape)

    ways = {layer: partial(back, layer, basis) for layer, basis in zip(rule.layers, rule.bases, strict=True)}
    with replacing_backward(ways):
        return gradients(network)


def test_the_estimate_of_a_layer_converges_to_its_projected_weight() -> None:
    network = linear([96, 50])
    for samples in (2_000, 32_000):
        rule = layerwise(network, subspaces(network, 12), samples)
        gradients(network, rule, 0)
        for layer, feedback, basis in zip(rule.layers, rule.feedback, rule.bases, strict=True):
            assert feedback.matrix.shape == (layer.out_features, 12)
            true = layer.weight.detach() @ basis
            assert relative(feedback.matrix, true) == pytest.approx(math.sqrt(13 / samples), rel=0.25)


def test_on_a_linear_network_the_signal_is_the_projected_jacobian() -> None:
    network = linear([96])
    basis = subspaces(network, 12)[0]
    rule = layerwise(network, [basis], 32_000)
    jacobian = network.stages[1][1].weight.detach()
    expected = error() @ jacobian @ basis @ basis.T
    assert relative(gradients(network, rule, 0)[0], expected) < 3 * math.sqrt(13 / 32_000)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_in_the_whole_space_it_converges_to_backprop(batch_norm: bool) -> None:
    torch.manual_seed(0)
    network = convnet(SHAPE, CLASSES, channels=[2, 3], hidden=[10], batch_norm=batch_norm)
    exact = gradients(network)
    rule = layerwise(network, [torch.eye(size) for size in (32, 12, 10)], 100_000)
    for ours, theirs in zip(gradients(network, rule, 0), exact, strict=True):
        if theirs.norm() > 1e-4:  # a convolution's bias before batch norm has none
            assert relative(ours, theirs) < 0.05


@pytest.mark.parametrize("build", [plain, partial(plain, batch_norm=True)])
def test_with_many_samples_it_tends_to_the_exactly_projected_chain(build: Callable[..., Network]) -> None:
    torch.manual_seed(0)
    network = build()
    errors = []
    for samples in (50, 5_000):
        rule = layerwise(network, None, samples)
        expected = projected_chain(network, rule)
        found = gradients(network, rule, 0)
        errors.append([relative(ours, theirs) for ours, theirs in zip(found[:3], expected[:3], strict=True)])
    ratio = [few / many for few, many in zip(*errors, strict=True)]
    assert ratio == pytest.approx([10, 10, 10], rel=0.5)  # the square root of a hundredfold
    assert max(errors[1]) < 0.2
    exact = gradients(network)  # the projection itself costs something
    assert all(F.cosine_similarity(a.flatten(), b.flatten(), dim=0) < 0.99 for a, b in
               zip(expected[:2], exact[:2], strict=True))  # fmt: skip


def test_a_moving_basis_takes_the_feedback_along() -> None:
    torch.manual_seed(0)
    network = plain()
    rule = layerwise(network, None, 50, basis_every=1, refresh_every=10)
    gradients(network, rule, 0)
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator(8))
    gradients(network, rule, 1)  # sees other activity, from which the next step has another basis
    before = [(feedback.matrix.clone(), basis) for feedback, basis in zip(rule.feedback, rule.bases, strict=True)]
    gradients(network, rule, 2)
    for (matrix, old), feedback, new in zip(before, rule.feedback, rule.bases, strict=True):
        assert not torch.equal(old, new)
        torch.testing.assert_close(feedback.matrix, matrix @ (old.T @ new), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(new.T @ new, torch.eye(new.shape[1]), rtol=0, atol=1e-5)


def test_nothing_of_units_squared_is_ever_made() -> None:
    torch.manual_seed(0)
    network = convnet(SHAPE, CLASSES, channels=[64, 64])
    clean = [output.detach() for output in network.outputs(images(), connected=True)[:-1]]
    with Seen() as seen:
        rule = layerwise(network, None, 4)
        rule.observe(0, clean, {})
        signals = [feedback.signal(torch.ones(24, len(feedback.matrix))) for feedback in rule.feedback]
    assert [signal.shape[1] for signal in signals] == [1024, 256, 128]
    assert [len(feedback.matrix) for feedback in rule.feedback] == [1024, 128, 4]
    assert seen.largest <= 24 * 64 * 64  # the first stage's clean maps, in place of 1024 x 1024


def test_diagnosis_shows_the_rules_own_subspace() -> None:
    torch.manual_seed(0)
    network = plain()
    rule = layerwise(network, None, 20_000)
    network.eval()
    gradients(network, rule, 0)
    rows = diagnose(rule, rule.noise, images(), torch.arange(24) % CLASSES, images())
    last = next(row for row in rows if row["layer"] == "fc1" and row["space"] == "activity")
    assert (last["d"], last["n"]) == (6, 10)
    # The last hidden layer's signal is the projected gradient: its cosine is the root of alpha, image by image.
    assert last["cosine"] ** 2 == pytest.approx(last["alpha_gradient"], rel=0.2)
