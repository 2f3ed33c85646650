"""Convolutional layers with the parameters of `nn.Conv2d`, computed by `kernels.conv2d`."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semraft.kernels.conv2d import Kernel, computed_in, convolve, direct, prepare


class Convolution(nn.Conv2d):
    """A convolution with an output as large as its input, or half as large with a stride of 2.

    With `reads_parts` its input is that of `in_parts`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        reads_parts: bool = False,
    ) -> None:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        super().__init__(in_channels, out_channels, (height, width), stride, (height // 2, width // 2))
        self.reads_parts = reads_parts

    def prepare(self, like: Float[Tensor, "B _ H W"]) -> Kernel:
        weight = for_parts(self.weight, like) if self.reads_parts else self.weight
        return prepare(weight, self.bias, like)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K h w"]:
        if self.stride == (1, 1):
            return convolve(x, self.prepare(x))
        return direct(x, Kernel(self.weight, self.bias), self.stride[0])


def prepare_all(module: nn.Module, like: Float[Tensor, "B _ H W"]) -> dict[nn.Module, Kernel]:
    """The prepared weights of every convolution in `module`, for inputs like `like`."""
    return {part: part.prepare(like) for part in module.modules() if isinstance(part, Convolution)}


def in_parts(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
    """x split into channels that half precision holds without loss; x itself in full precision.

    The rounded value, the rest, and the rounded value again: three times the channels. With `for_parts` of
    the weights, x w = near_x w + rest_x w + near_x rest_w, without the product of both rests: 16 bits of both
    (22 in float16), because a convolution sums its products in float32.
    """
    dtype = computed_in(x)
    if dtype.itemsize > 2:
        return x
    near = x.to(dtype)
    return torch.cat([near, (x - near).to(dtype), near], dim=1)


def for_parts(weight: Float[Tensor, "K C kh kw"], like: Tensor) -> Float[Tensor, "K D kh kw"]:
    """The weights for the channels of `in_parts`."""
    dtype = computed_in(like)
    if dtype.itemsize > 2:
        return weight
    with torch.no_grad():  # The gradient of both parts together is the weight's own.
        rest = weight - weight.to(dtype)
    return torch.cat([weight, weight, rest], dim=1)
