"""Check, before the first step, that the stages of a network can be trained one by one."""

import torch
from torch import Tensor

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.networks.replay import recording, replaying

#: Largest relative difference of two passes without noise; unreplayed random numbers cause 1e-2 or more.
REPEATS = 1e-4


def check_stages(network: Network, images: Tensor, perturbed: bool) -> None:
    """Refuse stages that change each other's output in place, draw unreplayed random numbers, or mix images.

    Args:
        network: left in training mode, its running statistics unchanged.
        images: at least two training images, normalised, (images, channels, height, width).
        perturbed: whether the rule sends perturbed copies through the network.

    Raises:
        UserError: names the stage at fault and what to do.
    """
    network.train()
    outputs, versions = [], []
    with torch.random.fork_rng(), torch.no_grad():
        with recording(network, update_statistics=False) as record:
            for stage in network.stages:
                images = stage(images)
                outputs.append(images)
                versions.append(images._version)
        for name, output, version in zip(network.stage_names, outputs, versions, strict=True):
            if output._version != version:
                raise UserError(f"the stage after {name} changes {name}'s output in place; use inplace=False there")
        if not perturbed:
            return
        # Replaying half of the images must give each stage's recorded output for them.
        rows = len(outputs[0]) // 2
        with replaying(network, record, rows):
            replayed = [stage(x[:rows]) for stage, x in zip(list(network.stages)[1:], outputs[:-1], strict=True)]
    for name, repeated, output in zip(network.stage_names[1:], replayed, outputs[1:], strict=True):
        if not (repeated - output[:rows]).abs().max() <= REPEATS * output.abs().max().clamp_min(1.0):
            raise UserError(
                f"two passes through the stage {name} differ without noise: it draws random numbers, mixes images of "
                "a batch, or shares dropout or batch norm with another stage; use nn.Dropout and nn.BatchNorm, "
                "which can be replayed for perturbed copies, and separate ones in each stage"
            )
