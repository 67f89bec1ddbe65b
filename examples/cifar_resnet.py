"""An example of a network of your own for brain_eval: the CIFAR-10 residual networks of He et al. 2016.

    python -m brain_eval extract --model examples.cifar_resnet:resnet20 --weights resnet20-12fca82f.th \\
        --layers relu,layer1,layer2,layer3,linear --benchmark kriegeskorte2008 --out activations \\
        --preprocessing '{"image_size": 32, "channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}'

He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition", section 4.2: a 3x3
convolution, three groups of n blocks with 16, 32 and 64 channels, global average pooling, 10 outputs.
Shortcuts are of option A: no parameters, every second pixel, zeros for the new channels.

Parameters have the names of the weights that Idelbayev 2018 published ("Proper ResNet implementation
for CIFAR10/CIFAR100 in PyTorch", github.com/akamaster/pytorch_resnet_cifar10, BSD-2), so
that those weights load. The code is our own.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions and the shortcut around them.

    Input (batch, before, height, width); output (batch, after, height / stride, width / stride).
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride = stride
        self.new_channels = after - before

    def shortcut(self, x: Tensor) -> Tensor:
        """Return the input; where the shape changes, subsample it and pad with zero channels (option A)."""
        if self.stride == 1 and self.new_channels == 0:
            return x
        first = self.new_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, first, self.new_channels - first))

    def forward(self, x: Tensor) -> Tensor:
        """Apply both convolutions and add the shortcut."""
        inside = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inside)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Residual network of depth 6 n + 2; layers relu (the stem), layer1, layer2, layer3, linear (the logits)."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()  # a module used only here, so that the stem's output has a name
        self.layer1 = self._group(16, 16, blocks, stride=1)
        self.layer2 = self._group(16, 32, blocks, stride=2)
        self.layer3 = self._group(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _group(before: int, after: int, blocks: int, stride: int) -> nn.Sequential:
        rest = (Block(after, after, stride=1) for _ in range(blocks - 1))
        return nn.Sequential(Block(before, after, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (batch, 3, 32, 32) to logits (batch, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def resnet20(classes: int = 10) -> CifarResNet:
    """Return the network of 20 layers: three blocks per group."""
    return CifarResNet(3, classes)


def resnet32(classes: int = 10) -> CifarResNet:
    """Return the network of 32 layers: five blocks per group."""
    return CifarResNet(5, classes)
