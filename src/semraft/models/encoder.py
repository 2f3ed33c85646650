"""Convolutional encoder of RAFT: features of an image at 1/8 of its size, for matching or as context."""

from itertools import pairwise
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from semraft.kernels.conv2d import Kernel, convolve, direct, prepare
from semraft.kernels.norms import normalized
from semraft.models.convolution import Convolution

STRIDE = 8
"""Pixels of the image for one cell of the features, in each direction."""

Norm = Literal["instance", "batch", "none"]


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """A normalisation layer; `instance` has neither weights nor statistics, as in RAFT."""
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


def make_shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    """The shortcut of a block: the identity, or a projection where the size changes."""
    if stride == 1:
        return nn.Identity()
    return nn.Sequential(Convolution(in_channels, out_channels, 1, stride), make_norm(norm, out_channels))


def convolved(
    x: Float[Tensor, "B C H W"], convolution: Convolution, norm: nn.Module, rectify: bool = True
) -> Float[Tensor, "B D h w"]:
    """norm(convolution(x)), rectified unless told otherwise.

    Batch norm with frozen statistics is a scale and a shift, folded into the convolution's weights.
    """
    if isinstance(norm, nn.BatchNorm2d) and not norm.training:
        y = _convolve_scaled(x, convolution, norm)
        return F.relu(y, inplace=True) if rectify else y
    return normalized(convolution(x), norm, rectify)


def _convolve_scaled(x: Tensor, convolution: Convolution, norm: nn.BatchNorm2d) -> Tensor:
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    bias = cast(Tensor, convolution.bias)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    weight, bias = convolution.weight * scale[:, None, None, None], norm.bias + scale * (bias - mean)
    if convolution.stride != (1, 1):
        return direct(x, Kernel(weight, bias), convolution.stride[0])
    return convolve(x, prepare(weight, bias, x))


def shortcut(x: Float[Tensor, "B C H W"], layers: nn.Module) -> Float[Tensor, "B D h w"]:
    """The shortcut of a block, applied to its input."""
    if isinstance(layers, nn.Identity):
        return x
    convolution, norm = cast(nn.Sequential, layers)
    return convolved(x, cast(Convolution, convolution), norm, rectify=False)


def _rectified_sum(y: Float[Tensor, "B C H W"], other: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """relu(y + other), in place of y where no gradient needs it: a new tensor takes longer than the sum."""
    return F.relu(y + other if torch.is_grad_enabled() else y.add_(other), inplace=True)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. Differs from ResNet: the second is rectified before the sum.

    The convolutions have biases, which act only without a norm or with a frozen batch norm.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = Convolution(in_channels, out_channels, 3, stride)
        self.norm1 = make_norm(norm, out_channels)
        self.conv2 = Convolution(out_channels, out_channels, 3)
        self.norm2 = make_norm(norm, out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        y = convolved(x, self.conv1, self.norm1)
        y = convolved(y, self.conv2, self.norm2)
        return _rectified_sum(y, shortcut(x, self.shortcut))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions through a quarter of the channels: the block of RAFT small."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        middle = out_channels // 4
        self.conv1 = Convolution(in_channels, middle, 1)
        self.norm1 = make_norm(norm, middle)
        self.conv2 = Convolution(middle, middle, 3, stride)
        self.norm2 = make_norm(norm, middle)
        self.conv3 = Convolution(middle, out_channels, 1)
        self.norm3 = make_norm(norm, out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        y = convolved(x, self.conv1, self.norm1)
        y = convolved(y, self.conv2, self.norm2)
        y = convolved(y, self.conv3, self.norm3)
        return _rectified_sum(y, shortcut(x, self.shortcut))


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
        self.stem = Convolution(3, widths[0], 7, stride=2)
        self.stem_norm = make_norm(norm, widths[0])
        self.stages = nn.Sequential()
        for stage, (in_channels, channels) in enumerate(pairwise(widths)):
            stride = 2 if stage >= len(widths) - 3 else 1
            blocks = block(in_channels, channels, stride, norm), block(channels, channels, 1, norm)
            self.stages.append(nn.Sequential(*blocks))
        self.project = Convolution(widths[-1], out_channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        x = convolved(image, self.stem, self.stem_norm)
        features: Tensor = self.project(self.stages(x))
        return features
