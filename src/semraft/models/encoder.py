"""The convolutional encoder of RAFT: an image to features at 1/8 of its size, for matching or as context."""

from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 8
"""Pixels of the image for one cell of the features, in each direction."""

Norm = Literal["instance", "batch", "none"]


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """A normalisation layer; `instance` has neither weights nor statistics, as in RAFT."""
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


def make_shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    """What a block adds its result to: the input, projected where the size changes."""
    if stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride), make_norm(norm, out_channels))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. Differs from ResNet: the second is rectified before the sum.

    The convolutions keep their biases, which a following norm makes idle: a frozen batch norm does not.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        self.norm1 = make_norm(norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = make_norm(norm, out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.shortcut(x) + y)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions through a quarter of the channels: the block of RAFT small."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        middle = out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, middle, 1)
        self.norm1 = make_norm(norm, middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1)
        self.norm2 = make_norm(norm, middle)
        self.conv3 = nn.Conv2d(middle, out_channels, 1)
        self.norm3 = make_norm(norm, out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = F.relu(self.norm3(self.conv3(y)))
        return F.relu(self.shortcut(x) + y)


class Encoder(nn.Module):
    """A stem at 1/2, stages of two blocks, a 1x1 projection (paper, section 3.1 and appendix A).

    `widths` are the channels of the stem and of each stage: the last two stages halve the size, any before
    keep it.
    """

    def __init__(
        self,
        block: type[ResidualBlock] | type[BottleneckBlock],
        widths: tuple[int, ...],
        out_channels: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 7, stride=2, padding=3)
        self.stem_norm = make_norm(norm, widths[0])
        self.stages = nn.Sequential()
        for stage, (in_channels, channels) in enumerate(pairwise(widths)):
            stride = 2 if stage >= len(widths) - 3 else 1
            blocks = block(in_channels, channels, stride, norm), block(channels, channels, 1, norm)
            self.stages.append(nn.Sequential(*blocks))
        self.project = nn.Conv2d(widths[-1], out_channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        x = F.relu(self.stem_norm(self.stem(image)))
        features: Tensor = self.project(self.stages(x))
        return features
