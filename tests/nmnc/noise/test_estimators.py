"""Responses to noise against the exact Jacobian: forward mode equals it, finite differences converge to it."""

import pytest
import torch
from torch import Tensor, nn

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.networks.convnet import convnet
from nmnc.networks.replay import Record, recording, replaying
from nmnc.networks.resnet import resnet
from nmnc.noise.perturbation import Perturbation, copies, joint_response, mean_jacobians, responses
from nmnc.rules import make_rule
from nmnc.settings import Noise

IMAGES, BATCH = 5, 9


def plain() -> Network:
    return convnet((3, 8, 8), 4, channels=[6, 5], hidden=[10])


def with_everything() -> Network:
    return convnet((3, 8, 8), 4, channels=[6, 5], hidden=[10], batch_norm=True, dropout=0.4)


class Residual(nn.Module):
    """A block with a way around it and a non-linearity that writes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def unusual() -> Network:
    return Network(
        [
            ("stem", nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2), nn.GELU())),
            ("block", Residual()),
            ("pool", nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.GroupNorm(2, 6), nn.Flatten())),
            ("out", nn.Linear(24, 4)),
        ]
    )


def residual() -> Network:
    return resnet((3, 8, 8), 4, blocks=1, channels=[4, 6])


NETWORKS = [plain, with_everything, unusual, residual]


def prepared(
    make: object, dtype: torch.dtype, scale: float
) -> tuple[Network, list[Tensor], list[Perturbation], Record]:
    """A network in training mode, its clean hidden outputs, noise for the first images, and the record."""
    torch.manual_seed(5)
    network = make().to(dtype).train()
    batch = torch.randn(BATCH, 3, 8, 8, dtype=dtype)
    with recording(network) as record:
        clean = [output.detach() for output in network.outputs(batch, connected=True)[:-1]]
    noise = [torch.randn(IMAGES, output[0].numel(), dtype=dtype) * scale for output in clean]
    return network, clean, [Perturbation(one, one, 1.0) for one in noise], record


def exact(network: Network, clean: list[Tensor], perturbations: list[Perturbation], record: Record) -> list[Tensor]:
    """J xi from the whole Jacobian of every image, by reverse mode; one image at a time."""
    found = []
    for stage, (output, perturbation) in enumerate(zip(clean, perturbations, strict=True)):

        def suffix(x: Tensor, first: int = stage + 1) -> Tensor:
            return network.suffix(x, first)

        with replaying(network, record, IMAGES):
            # Rows of a batch do not see each other under replay, so the batch's Jacobian is one block per image.
            blocks = torch.func.jacrev(suffix)(output[:IMAGES])
        jacobian = torch.stack([blocks[image, :, image].flatten(1) for image in range(IMAGES)])
        found.append(torch.einsum("mcn,mn->mc", jacobian, perturbation.noise))
    return found


@pytest.mark.parametrize("make", NETWORKS)
def test_forward_mode_is_the_exact_directional_derivative(make: object) -> None:
    network, clean, noise, record = prepared(make, torch.float32, 0.05)
    found = responses(network, clean, noise, record, "forward_mode")
    for one, true in zip(found, exact(network, clean, noise, record), strict=True):
        assert one.shape == (IMAGES, 4)
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, true, rtol=1e-5, atol=1e-5 * true.abs().max().item())


def test_forward_mode_agrees_with_one_jacobian_per_image() -> None:
    torch.manual_seed(1)
    network = plain().eval()
    clean = [output.detach() for output in network.outputs(torch.randn(IMAGES, 3, 8, 8), connected=True)[:-1]]
    noise = [Perturbation(one, one, 1.0) for one in (torch.randn(IMAGES, x[0].numel()) for x in clean)]
    found = responses(network, clean, noise, {}, "forward_mode")
    for stage, (output, perturbation, one) in enumerate(zip(clean, noise, found, strict=True)):

        def suffix(x: Tensor, first: int = stage + 1) -> Tensor:
            return network.suffix(x[None], first)[0]

        jacobian = torch.func.vmap(torch.func.jacrev(suffix))(output).flatten(2)
        true = torch.einsum("mcn,mn->mc", jacobian, perturbation.noise)
        torch.testing.assert_close(one, true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("estimator", "order"), [("one_sided", 1), ("antithetic", 2)])
def test_finite_differences_converge_at_their_order(estimator: str, order: int) -> None:
    torch.manual_seed(2)
    # Smooth everywhere, or a kink would spoil the order.
    network = Network(
        [("a", nn.Linear(12, 20)), ("b", nn.Sequential(nn.Tanh(), nn.Linear(20, 9))),
         ("c", nn.Sequential(nn.Tanh(), nn.Linear(9, 4)))]
    ).double()  # fmt: skip
    clean = [x.detach() for x in network.outputs(torch.randn(IMAGES, 12, dtype=torch.float64), connected=True)[:-1]]
    directions = [torch.randn_like(x) for x in clean]
    errors = []
    for scale in (1e-2, 1e-3):
        noise = [Perturbation(scale * one, one, 1.0) for one in directions]
        found = responses(network, clean, noise, {}, estimator)
        true = responses(network, clean, noise, {}, "forward_mode")
        errors.append(max(((a - b).norm() / b.norm()).item() for a, b in zip(found, true, strict=True)))
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(10**order, rel=0.15)


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("estimator", ["one_sided", "antithetic"])
def test_small_differences_agree_with_forward_mode_in_any_network(make: object, estimator: str) -> None:
    network, clean, noise, record = prepared(make, torch.float64, 1e-7)
    found = responses(network, clean, noise, record, estimator)
    true = responses(network, clean, noise, record, "forward_mode")
    for a, b in zip(found, true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize("make", NETWORKS)
def test_perturbing_all_stages_at_once_gives_the_sum_of_their_responses(make: object) -> None:
    network, clean, noise, record = prepared(make, torch.float32, 1.0)
    together = joint_response(network, clean, noise, record)
    apart = responses(network, clean, noise, record, "forward_mode")
    torch.testing.assert_close(together, torch.stack(apart).sum(0), rtol=1e-4, atol=1e-5)


def test_forward_mode_leaves_statistics_gradients_and_forwards_alone() -> None:
    network, clean, noise, record = prepared(with_everything, torch.float32, 0.05)
    before = {name: value.clone() for name, value in network.named_buffers()}
    found = [*responses(network, clean, noise, record, "forward_mode"), joint_response(network, clean, noise, record)]
    assert all(torch.equal(before[name], value) for name, value in network.named_buffers())
    assert not any(change.requires_grad for change in found)
    assert all(weight.grad is None for weight in network.parameters())
    assert not any("forward" in vars(module) for module in network.modules())


def test_a_network_without_hidden_stages_has_no_responses() -> None:
    network = Network([("out", nn.Linear(3, 2))])
    for estimator in ("antithetic", "one_sided", "forward_mode"):
        assert responses(network, [], [], {}, estimator) == []


@pytest.mark.parametrize(("estimator", "count"), [("antithetic", 8), ("one_sided", 5), ("forward_mode", 5)])
def test_rows_are_counted_per_perturbed_image(estimator: str, count: int) -> None:
    assert copies(estimator, 4) == count


@pytest.mark.parametrize("make", NETWORKS)
def test_the_mean_jacobian_is_the_mean_of_the_exact_ones(make: object) -> None:
    network, clean, noise, record = prepared(make, torch.float64, 1.0)
    found = mean_jacobians(network, clean, IMAGES, record)
    for stage, jacobian in enumerate(found):
        units = clean[stage][0].numel()
        for unit in range(0, units, max(units // 3, 1)):
            probe = torch.zeros(IMAGES, units, dtype=torch.float64)
            probe[:, unit] = 1.0
            along = [Perturbation(probe, probe, 1.0) if at == stage else one for at, one in enumerate(noise)]
            expected = exact(network, clean, along, record)[stage].mean(0)
            torch.testing.assert_close(jacobian[:, unit], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "feedback"), [("vnc", "full"), ("nmnc", "full"), ("nmnc", "factored"), ("random_subspace", "factored")]
)
def test_noise_correlation_tends_to_what_infinitely_many_perturbations_find(kind: str, feedback: str) -> None:
    torch.manual_seed(3)
    network = convnet((3, 8, 8), 4, channels=[4], hidden=[6])
    images = torch.randn(6, 3, 8, 8)
    outputs = [output.detach() for output in network.outputs(images, connected=True)[:-1]]
    sizes = [output[0].numel() for output in outputs]
    # The same six images over and over, so that only the noise is new.
    noise = {"images": 6, "dimensions": 3, "scale": 1e-3, "feedback": feedback, "basis_images": 6}
    error = torch.randn(5, 4)
    signals = {}
    for estimator, steps in (("forward_mode", 1000), ("infinite", 1)):
        settings = Noise.model_validate(noise | {"estimator": estimator, "rate": 1.0 if steps == 1 else 0.005})
        rule = make_rule(kind, network, sizes, 4, settings, 0)
        rule.start(outputs)
        for _ in range(steps):
            rule.correlate(outputs, {})  # type: ignore[attr-defined]
        signals[estimator] = rule.signals(error)
        assert rule.perturbations == (0 if estimator == "infinite" else 2 * 6 * steps)
    for estimated, known in zip(signals["forward_mode"], signals["infinite"], strict=True):
        # Six images at rate .005 are about 2,400 samples of at most 64 directions.
        assert torch.cosine_similarity(estimated.flatten(), known.flatten(), 0) > 0.97


@pytest.mark.parametrize(
    ("kind", "setting", "words"),
    [
        ("nmnc", {"adaptive": True}, r"noise\.adaptive True: noise\.estimator infinite .*; remove one of them"),
        ("nmnc", {"feedback": "layerwise"}, r"noise\.feedback layerwise: noise\.estimator infinite"),
        ("vnc", {"per_image": True}, r"noise\.per_image True: noise\.estimator infinite"),
        (
            "spectral",
            {},
            r"noise\.estimator infinite works only with the rules vnc, nmnc, .*; .* antithetic for spectral",
        ),
        (
            "fdfa",
            {},
            r"noise\.estimator infinite works only with the rules vnc, nmnc, .*; .* antithetic for fdfa",
        ),
    ],
)
def test_what_cannot_go_with_infinitely_many_perturbations_is_refused(
    kind: str, setting: dict[str, object], words: str
) -> None:
    network = convnet((3, 8, 8), 4, channels=[4], hidden=[6])
    with pytest.raises(UserError, match=words):
        make_rule(kind, network, [64, 6], 4, Noise.model_validate({"estimator": "infinite"} | setting), 0)
