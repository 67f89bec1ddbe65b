"""Perturbed copies share the clean batch's statistics and masks; the one-pass walk equals separate passes."""

import pytest
import torch
from torch import Tensor, nn

from nmnc.errors import UserError
from nmnc.networks import Network, layer_sizes
from nmnc.networks.convnet import convnet
from nmnc.perturbation import Perturbation, isotropic, responses
from nmnc.replay import recording, replaying

BATCH, IMAGES = 12, 5


def network_with_everything() -> Network:
    torch.manual_seed(3)
    return convnet((3, 16, 16), 6, channels=[8, 12], hidden=[24], batch_norm=True, dropout=0.4).train()


def images() -> Tensor:
    return torch.randn(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def perturbations(network: Network, scale: float) -> list[Perturbation]:
    generator = torch.Generator().manual_seed(2)
    return [isotropic(IMAGES, size, 4, scale, generator) for size in layer_sizes(network, (3, 16, 16))[:-1]]


def zero(perturbation: Perturbation) -> Perturbation:
    return Perturbation(torch.zeros_like(perturbation.noise), perturbation.coordinates, perturbation.divisor)


@pytest.mark.parametrize("antithetic", [True, False])
def test_zero_noise_changes_nothing_at_all_in_training_mode(antithetic: bool) -> None:
    network = network_with_everything()
    with recording(network) as record:
        clean = [output.detach() for output in network.outputs(images(), connected=True)[:-1]]
    noise = perturbations(network, 0.05)
    silent = responses(network, clean, [zero(one) for one in noise], record, antithetic)
    assert all(torch.equal(change, torch.zeros_like(change)) for change in silent)
    loud = responses(network, clean, noise, record, antithetic)
    assert all(change.abs().max() > 1e-4 for change in loud)


@pytest.mark.parametrize("count", [1, 3, 7, 13])
@pytest.mark.parametrize("width", [17, 130, 513])
def test_zero_noise_is_exact_at_sizes_where_matrix_products_have_odd_ends(width: int, count: int) -> None:
    torch.manual_seed(width)
    network = convnet((1, 8, 8), 5, channels=[width // 8, 33], hidden=[width, 70], batch_norm=True).train()
    batch = torch.randn(16, 1, 8, 8)
    with recording(network) as record:
        clean = [output.detach() for output in network.outputs(batch, connected=True)[:-1]]
    silent = [Perturbation(torch.zeros(count, x[0].numel()), torch.zeros(count, 1), 1.0) for x in clean]
    assert all(not change.any() for change in responses(network, clean, silent, record, antithetic=True))
    one_sided = responses(network, clean, silent, record, antithetic=False)
    assert all(change.abs().max() < 1e-6 for change in one_sided)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.AlphaDropout(), "AlphaDropout cannot be replayed"),
        (nn.BatchNorm1d(4, momentum=None), "momentum None cannot be replayed"),
    ],
)
def test_modules_that_cannot_be_replayed_are_refused(module: nn.Module, words: str) -> None:
    network = Network([("a", nn.Linear(4, 4)), ("b", module)]).train()
    with pytest.raises(UserError, match=words), recording(network):
        pass


@pytest.mark.parametrize("antithetic", [True, False])
def test_one_pass_equals_one_suffix_pass_per_stage(antithetic: bool) -> None:
    network = network_with_everything()
    with recording(network) as record:
        clean = [output.detach() for output in network.outputs(images(), connected=True)[:-1]]
    noise = perturbations(network, 0.05)
    found = responses(network, clean, noise, record, antithetic)
    for stage, (output, perturbation, change) in enumerate(zip(clean, noise, found, strict=True)):
        base, xi = output[:IMAGES], perturbation.noise.view_as(output[:IMAGES])
        with torch.no_grad(), replaying(network, record, IMAGES):
            up = network.suffix(base + xi, stage + 1)
            down = network.suffix(base - xi if antithetic else base, stage + 1)
        torch.testing.assert_close(change, (up - down) / (2 if antithetic else 1), rtol=1e-4, atol=1e-6)


def test_responses_agree_with_the_exact_jacobian() -> None:
    torch.manual_seed(5)
    network = convnet((1, 8, 8), 4, channels=[4], hidden=[10]).double().eval()
    batch = torch.randn(IMAGES, 1, 8, 8, dtype=torch.float64)
    clean = [output.detach() for output in network.outputs(batch, connected=True)[:-1]]
    small = [
        Perturbation(torch.randn(IMAGES, output[0].numel(), dtype=torch.float64) * 1e-6, torch.empty(0), 1.0)
        for output in clean
    ]
    found = responses(network, clean, small, {}, antithetic=True)
    for stage, (output, perturbation, change) in enumerate(zip(clean, small, found, strict=True)):

        def suffix(x: Tensor, first: int = stage + 1) -> Tensor:
            return network.suffix(x[None], first)[0]

        jacobian = torch.func.vmap(torch.func.jacrev(suffix))(output).flatten(2)
        exact = torch.einsum("mcn,mn->mc", jacobian, perturbation.noise)
        torch.testing.assert_close(change, exact, rtol=1e-6, atol=1e-12)


def test_recording_behaves_like_plain_training_mode() -> None:
    plain, recorded = network_with_everything(), network_with_everything()
    torch.manual_seed(0)
    expected = plain(images())
    torch.manual_seed(0)
    with recording(recorded):
        found = recorded(images())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for (name, one), two in zip(plain.named_buffers(), recorded.buffers(), strict=True):
        torch.testing.assert_close(two, one, msg=name)


def test_perturbing_leaves_running_statistics_and_forwards_alone() -> None:
    network = network_with_everything()
    with recording(network, update_statistics=False) as record:
        clean = [output.detach() for output in network.outputs(images(), connected=True)[:-1]]
    before = {name: value.clone() for name, value in network.named_buffers()}
    responses(network, clean, perturbations(network, 0.05), record, antithetic=True)
    assert all(torch.equal(before[name], value) for name, value in network.named_buffers())
    assert not any("forward" in vars(module) for module in network.modules())


def test_dropout_masks_of_whole_channels_are_replayed() -> None:
    network = Network([("a", nn.Conv2d(1, 3, 1)), ("b", nn.Sequential(nn.Dropout2d(0.5), nn.Flatten()))]).train()
    x = torch.randn(4, 1, 3, 3)
    with recording(network) as record:
        clean = network(x)
    with replaying(network, record, 4):
        again = network(torch.cat([x, x]))
    torch.testing.assert_close(again, torch.cat([clean, clean]))
    channels = clean.view(4, 3, 9)
    assert ((channels == 0).all(2) | (channels != 0).all(2)).all()
