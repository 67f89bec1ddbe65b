"""Residual networks for small images, as He et al. used for CIFAR-10."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from nmnc.errors import UserError
from nmnc.networks.network import Count, Counts, Network


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, and the shortcut around them.

    Input (batch, before, height, width); output (batch, after, height / stride, width / stride). The shortcut
    has no weights (option A of the paper): every second pixel, zeros for the new channels.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.new = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, before, height, width) to (batch, after, height / stride, width / stride)."""
        inside = F.relu(self.bn1(self.conv1(x)))
        around = x[:, :, :: self.stride, :: self.stride]
        if self.new:
            first = self.new // 2
            around = F.pad(around, (0, 0, 0, 0, first, self.new - first))
        return F.relu(self.bn2(self.conv2(inside)) + around)


class Mean(nn.Module):
    """Mean over the map: (batch, channels, height, width) -> (batch, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to (batch, channels)."""
        return x.mean((2, 3))


def resnet(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    blocks: Annotated[Count, Field(le=200)] = 3,
    channels: Counts | None = None,
    stages: str = "blocks",
) -> Network:
    """Depth 6 * blocks + 2 with three groups: blocks 3 is ResNet-20, 5 is ResNet-32, and so on.

    He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition" (arXiv 1512.03385), section 4.2;
    weights drawn as in He et al. 2015 (arXiv 1502.01852). A stage ends after a block's last ReLU.

    Args:
        image_shape: (channels, height, width) of one image.
        classes: number of outputs.
        blocks: blocks of every group.
        channels: channels of each group (default 16, 32, 64); every group after the first halves the map.
        stages: blocks (stem, group1_block1, ..., logits) or groups (stem, group1, group2, ..., logits).
    """
    channels = [16, 32, 64] if channels is None else channels
    if stages not in ("blocks", "groups"):
        raise UserError(f"network resnet: unknown stages {stages!r}; set it to blocks or groups")
    if not 1 <= blocks <= 1000 or not channels or channels != sorted(channels):
        raise UserError("network resnet: it needs 1 block or more (at most 1000), and channels that never become fewer")
    stem = nn.Sequential(
        nn.Conv2d(image_shape[0], channels[0], 3, padding=1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()
    )
    named_stages: list[tuple[str, nn.Module]] = [("stem", stem)]
    before = channels[0]
    for number, after in enumerate(channels, 1):
        first = Block(before, after, 1 if number == 1 else 2)
        group = [first, *(Block(after, after, 1) for _ in range(blocks - 1))]
        if stages == "groups":
            named_stages.append((f"group{number}", nn.Sequential(*group)))
        else:
            named_stages += [(f"group{number}_block{position}", block) for position, block in enumerate(group, 1)]
        before = after
    network = Network([*named_stages, ("logits", nn.Sequential(Mean(), nn.Linear(before, classes)))])
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return network
