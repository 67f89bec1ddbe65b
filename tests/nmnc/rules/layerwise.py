"""Small networks, trained or asked for signals by a layer-wise rule."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nmnc.config import Noise
from nmnc.networks import Network, layer_sizes
from nmnc.networks.convnet import convnet
from nmnc.networks.resnet import resnet
from nmnc.rules import make_rule
from nmnc.rules.base import Rule
from nmnc.training.trainer import Trainer

SHAPE, CLASSES, CPU = (1, 8, 8), 4, torch.device("cpu")


def plain(**arguments: Any) -> Network:
    return convnet(SHAPE, CLASSES, channels=[4, 6], hidden=[10], **arguments)


def residual() -> Network:
    return resnet(SHAPE, CLASSES, blocks=1, channels=[4, 6])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 24) -> Tensor:
    return torch.randn(count, *SHAPE, generator=generator(1))


def error(count: int = 24) -> Tensor:
    return torch.randn(count, CLASSES, generator=generator(2))


def relative(found: Tensor, true: Tensor) -> float:
    return ((found - true).norm() / true.norm()).item()


def started(kind: str, network: Network, **noise: Any) -> Any:
    """A rule that has seen the hidden stages' outputs to the images, but not yet a step."""
    rule = make_rule(kind, network, layer_sizes(network, SHAPE)[:-1], CLASSES, Noise(**noise), 5)
    rule.start([output.detach() for output in network.outputs(images(), connected=True)[:-1]])
    return rule


def gradients(network: Network, rule: Rule | None = None, step: int | None = None) -> list[Tensor]:
    """Of hidden outputs and all weights, as backprop or a rule sends them, the rule having seen the step if any."""
    if rule is None:
        outputs = network.outputs(images(), connected=True)
    else:
        with rule.carrying():
            outputs = network.outputs(images(), connected=True)
        if step is not None:
            rule.observe(step, [output.detach() for output in outputs[:-1]], {})
    return list(torch.autograd.grad(outputs[-1], [*outputs[:-1], *network.parameters()], error()))


def trainer(toy: Any, kind: str, network: str, epochs: int = 2, **noise: Any) -> Any:
    arguments = {
        "convnet": {"channels": [4, 6], "hidden": [16], "batch_norm": True, "dropout": 0.1},
        "resnet": {"blocks": 1, "channels": [8, 12]},
    }
    return toy.trainer(
        kind,
        networks={"net": {"kind": network, "arguments": arguments[network]}},
        training={"epochs": epochs},
        noise={"basis_every": 3, "basis_images": 32} | noise,
    )


def weights(run: Trainer) -> list[Tensor]:
    return [tensor.clone() for tensor in run.network.state_dict().values()]


class Seen(TorchDispatchMode):
    """Names of all operations, and the elements of the largest tensor any of them made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.names.add(operation.name())
        self.largest = max([self.largest, *(x.numel() for x in torch.utils._pytree.tree_leaves(result)
                                            if isinstance(x, Tensor))])  # fmt: skip
        return result
