"""AlexNet, for images of about 224 pixels a side."""

from itertools import pairwise

from torch import nn

from nmnc.errors import UserError
from nmnc.networks.network import Counts, Network, Probability

#: Output channels, kernel, stride and padding of each convolution, and whether it is pooled.
CONVOLUTIONS = ((64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False),
                (256, 3, 1, 1, True))  # fmt: skip


def alexnet(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    hidden: Counts | None = None,
    batch_norm: bool = False,
    dropout: Probability = 0.5,
) -> Network:
    """Stages conv1 to conv5, fc6, fc7, logits. A stage's output is taken after its pooling.

    The single column of Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks"
    (arXiv 1404.5997), in the sizes that torchvision gives it.

    Args:
        image_shape: (channels, height, width) of one image, 63 pixels a side or more; 224 as published.
        classes: number of outputs.
        hidden: units of the fully connected layers before the logits (default 4096, 4096).
        batch_norm: normalise between convolution and ReLU; without it training is slower.
        dropout: probability of dropping an input unit of each layer of `hidden`.
    """
    side = list(image_shape[1:])
    convolutions: list[nn.Module] = []
    before = image_shape[0]
    for after, kernel, stride, padding, pooled in CONVOLUTIONS:
        normalise = [nn.BatchNorm2d(after)] if batch_norm else []
        pool = [nn.MaxPool2d(3, 2)] if pooled else []
        convolution = nn.Conv2d(before, after, kernel, stride, padding)
        convolutions.append(nn.Sequential(convolution, *normalise, nn.ReLU(), *pool))
        side = [(extent + 2 * padding - kernel) // stride + 1 for extent in side]
        side = [(extent - 3) // 2 + 1 for extent in side] if pooled else side
        before = after
    if min(side) < 1:
        raise UserError(
            f"network alexnet: images of {image_shape[1]} x {image_shape[2]} pixels are too small; "
            "set dataset.image_size to 224 (63 at least)"
        )
    units = [before * side[0] * side[1], *([4096, 4096] if hidden is None else hidden)]
    stages: list[tuple[str, nn.Module]] = [(f"conv{number}", stage) for number, stage in enumerate(convolutions, 1)]
    for number, (ins, outs) in enumerate(pairwise(units), len(stages) + 1):
        drop = [nn.Dropout(dropout)] if dropout else []
        stages.append((f"fc{number}", nn.Sequential(nn.Flatten(), *drop, nn.Linear(ins, outs), nn.ReLU())))
    stages.append(("logits", nn.Sequential(nn.Flatten(), nn.Linear(units[-1], classes))))
    return Network(stages)
