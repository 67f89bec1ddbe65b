"""Perturbed copies share the clean batch's statistics and masks; the one-pass walk equals separate passes."""

import pytest
import torch
from torch import Tensor, nn

from nmnc.errors import UserError
from nmnc.networks import Network, layer_sizes
from nmnc.networks.convnet import convnet
from nmnc.networks.replay import recording, replaying
from nmnc.networks.stage_check import check_stages
from nmnc.noise.perturbation import Perturbation, isotropic, responses
from tests.tolerance import tolerance

pytestmark = pytest.mark.numeric

BATCH, IMAGES = 12, 5
ESTIMATORS = ("antithetic", "one_sided", "forward_mode")


def network_with_everything(batch_norm: bool = True) -> Network:
    torch.manual_seed(3)
    return convnet((3, 16, 16), 6, channels=[8, 12], hidden=[24], batch_norm=batch_norm, dropout=0.4).train()


def images() -> Tensor:
    return torch.randn(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def perturbations(network: Network, scale: float) -> list[Perturbation]:
    generator = torch.Generator().manual_seed(2)
    return [
        isotropic(torch.randn(IMAGES, size, generator=generator), 4, scale)
        for size in layer_sizes(network, (3, 16, 16))[:-1]
    ]


def zero(perturbation: Perturbation) -> Perturbation:
    return Perturbation(torch.zeros_like(perturbation.noise), perturbation.coordinates, perturbation.divisor)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_zero_noise_changes_nothing_at_all_in_training_mode(estimator: str) -> None:
    network = network_with_everything()
    with recording(network) as record:
        clean = [output.detach() for output in network.outputs(images(), connected=True)[:-1]]
    noise = perturbations(network, 0.05)
    silent = responses(network, clean, [zero(one) for one in noise], record, estimator)
    # A copy of the one-sided form flows beside an unperturbed one, whose row a product may round differently.
    most = tolerance(steps=max(layer_sizes(network, (3, 16, 16))), dtype="float32") if estimator == "one_sided" else 0.0
    assert all(change.abs().max() <= most for change in silent)
    loud = responses(network, clean, noise, record, estimator)
    assert all(change.abs().max() > 1e-4 for change in loud)


@pytest.mark.parametrize("width", [17, 130, 513])
def test_zero_noise_is_exact_at_sizes_where_matrix_products_have_odd_ends(width: int) -> None:
    for count in [1, 3, 7, 13]:
        torch.manual_seed(width)
        network = convnet((1, 8, 8), 5, channels=[width // 8, 33], hidden=[width, 70], batch_norm=True).train()
        batch = torch.randn(16, 1, 8, 8)
        with recording(network) as record:
            clean = [output.detach() for output in network.outputs(batch, connected=True)[:-1]]
        silent = [Perturbation(torch.zeros(count, x[0].numel()), torch.zeros(count, 1), 1.0) for x in clean]
        assert all(not change.any() for change in responses(network, clean, silent, record, "antithetic"))
        assert all(not change.any() for change in responses(network, clean, silent, record, "forward_mode"))
        one_sided = responses(network, clean, silent, record, "one_sided")
        assert all(change.abs().max() < tolerance(steps=width, dtype="float32") for change in one_sided)


@pytest.mark.parametrize("channels", [[8, 16, 24], [31, 9]])
def test_one_sided_without_batch_norm_agrees_with_the_clean_pass_itself(channels: list[int]) -> None:
    torch.manual_seed(1)
    network = convnet((3, 16, 16), 6, channels=channels, hidden=[24], dropout=0.4).train()
    batch = torch.randn(16, 3, 16, 16)
    with recording(network) as record:
        clean = [output.detach() for output in network.outputs(batch, connected=True)[:-1]]
    for count in (16, 8):
        silent = [Perturbation(torch.zeros(count, x[0].numel()), torch.zeros(count, 1), 1.0) for x in clean]
        changes = responses(network, clean, silent, record, "one_sided")
        # To the same bits where batches of both sizes meet the same kernel.
        most = tolerance(steps=max(layer_sizes(network, (3, 16, 16))), dtype="float32")
        assert all(change.abs().max() <= most for change in changes)


def test_one_sided_sends_an_unperturbed_copy_through_the_last_stage_only() -> None:
    network = network_with_everything(batch_norm=False)
    rows: list[list[int]] = [[] for _ in network.stages]
    with recording(network) as record:
        clean = [output.detach() for output in network.outputs(images(), connected=True)[:-1]]
    noise = perturbations(network, 0.05)
    for seen, stage in zip(rows, network.stages, strict=True):
        stage.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(len(inputs[0])))
    responses(network, clean, noise, record, "one_sided")
    assert rows == [[], [IMAGES], [2 * IMAGES], [4 * IMAGES]]


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


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("estimator", ["antithetic", "one_sided"])
def test_one_pass_equals_one_suffix_pass_per_stage(estimator: str, batch_norm: bool) -> None:
    network, antithetic = network_with_everything(batch_norm), estimator == "antithetic"
    with recording(network) as record:
        clean = [output.detach() for output in network.outputs(images(), connected=True)[:-1]]
    noise = perturbations(network, 0.05)
    found = responses(network, clean, noise, record, estimator)
    for stage, (output, perturbation, change) in enumerate(zip(clean, noise, found, strict=True)):
        base, xi = output[:IMAGES], perturbation.noise.view_as(output[:IMAGES])
        with torch.no_grad(), replaying(network, record, IMAGES):
            up = network.suffix(base + xi, stage + 1)
            down = network.suffix(base - xi if antithetic else base, stage + 1)
        torch.testing.assert_close(change, (up - down) / (2 if antithetic else 1), rtol=1e-4, atol=1e-6)


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
    responses(network, clean, perturbations(network, 0.05), record, "antithetic")
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


class Twice(nn.Module):
    """A stage that calls the same modules twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.norm, self.drop = nn.BatchNorm1d(12), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.second(self.drop(self.norm(self.first(x))))))


@pytest.mark.parametrize("estimator", ["antithetic", "one_sided"])
def test_a_module_that_is_called_twice_replays_each_call(estimator: str) -> None:
    torch.manual_seed(0)
    network = Network([("start", nn.Sequential(nn.Flatten(), nn.Linear(12, 12))), ("twice", Twice()),
                       ("again", Twice()), ("logits", nn.Linear(12, 5))]).train()  # fmt: skip
    x = torch.randn(8, 12)
    check_stages(network, x, True)
    with recording(network) as record:
        outputs = network.outputs(x, connected=True)
    with replaying(network, record, 6), torch.no_grad():
        for _ in range(2):
            replayed = network.suffix(outputs[0][:6], 1)
            torch.testing.assert_close(replayed, outputs[-1][:6], rtol=1e-4, atol=1e-5)
    silent = [Perturbation(torch.zeros(8, 12), torch.ones(8, 12), 1.0)] * 3
    changes = responses(network, [output.detach() for output in outputs[:-1]], silent, record, estimator)
    assert max(change.abs().max() for change in changes) < tolerance(steps=12, dtype="float32")


@pytest.mark.parametrize("kind", ["shared", "mixing"])
def test_stages_that_share_chance_or_mix_images_are_refused(kind: str) -> None:
    drop = nn.Dropout(0.5)
    stages: dict[str, list[nn.Module]] = {
        "shared": [nn.Sequential(nn.Flatten(), nn.Linear(12, 12), drop), nn.Sequential(nn.Linear(12, 12), drop)],
        "mixing": [nn.Sequential(nn.Flatten(), nn.Linear(12, 12)), Centred()],
    }
    network = Network([("one", stages[kind][0]), ("two", stages[kind][1]), ("logits", nn.Linear(12, 5))])
    with pytest.raises(UserError, match=r"two passes through the stage two differ .*, mixes images"):
        check_stages(network, torch.randn(8, 12), True)
    check_stages(network, torch.randn(8, 12), False)


class Centred(nn.Module):
    """A layer of the user's own that looks at the rest of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)
