"""Convolutions that keep the size, by the way that is fastest where they run: the numbers are conv2d's.

Weights are laid out for that way once (`prepare`), then used on many inputs: every refinement of a pair uses
the same. The parameters are those of `nn.Conv2d`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from semraft.kernels.cpu import winograd

MIN_CHANNELS = 32
MIN_TILES = 64
"""Below either, the transforms of Winograd's algorithm cost more than its products save."""
CONTIGUOUS_IS_FASTER = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
"""Without AVX-512 gradients of channels_last convolutions take up to three times as long as of contiguous
ones; with it half as long, in bfloat16 a fifth."""


class Kernel(NamedTuple):
    """The weights of a convolution, with Winograd's transforms of them where those are used."""

    weight: Float[Tensor, "K C kh kw"]
    bias: Float[Tensor, " K"] | None
    spectrum: Float[Tensor, "points C K"] | None = None
    mirrored_spectrum: Float[Tensor, "points K C"] | None = None


def prepare(
    weight: Float[Tensor, "K C kh kw"], bias: Float[Tensor, " K"] | None, like: Float[Tensor, "B _ H W"]
) -> Kernel:
    """The weights made ready for inputs with the batch, size, type and place of `like`.

    Under autocast they are rounded here, once for all refinements: torch would remember the rounded form of a
    parameter alone, and ConvGRU's weights are made of several.
    """
    if not _suits_winograd(weight, like):
        dtype = computed_in(like)
        # On the CPU oneDNN has a format of its own for weights.
        laid_out = torch.preserve_format if like.device.type == "cpu" else fast_format(like)
        weight = weight.to(dtype, memory_format=laid_out)
        return Kernel(weight, None if bias is None else bias.to(dtype))
    mirrored = winograd.spectrum(winograd.mirrored(weight.detach())) if torch.is_grad_enabled() else None
    return Kernel(weight, bias, winograd.spectrum(weight), mirrored)


def convolve(
    x: Float[Tensor, "B C H W"] | Sequence[Float[Tensor, "B _ H W"]], kernel: Kernel
) -> Float[Tensor, "B K H W"]:
    """`conv2d` of stride 1 with the padding that keeps the size; of several inputs, the channels in order."""
    weight, bias, spectrum, mirrored = kernel
    size = (weight.shape[2], weight.shape[3])
    if spectrum is not None:
        return winograd.convolve([x] if isinstance(x, Tensor) else x, size, spectrum, mirrored, bias)
    x = x if isinstance(x, Tensor) else torch.cat(list(x), dim=1)
    if size == (1, 1) and x.device.type == "cpu":
        # On rows of channels this is a matrix product, which a 1x1 convolution of one image is not made into.
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    return direct(x, kernel)


def direct(x: Float[Tensor, "B C H W"], kernel: Kernel, stride: int = 1) -> Float[Tensor, "B K h w"]:
    """`conv2d` itself, with the padding of a convolution that keeps the size when the stride is 1."""
    padding = (kernel.weight.shape[2] // 2, kernel.weight.shape[3] // 2)
    if x.device.type != "cpu" or not torch.is_grad_enabled() or not CONTIGUOUS_IS_FASTER:
        return F.conv2d(x, kernel.weight, kernel.bias, stride, padding)
    y = F.conv2d(x.contiguous(), kernel.weight, kernel.bias, stride, padding)
    return y.contiguous(memory_format=torch.channels_last)


class Convolution(nn.Conv2d):
    """A convolution whose output is as large as its input, or half as large with a stride of 2.

    With `reads_parts` it reads its input `in_parts`.
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
    """The kernel of every convolution in `module`, all of them for inputs of one size."""
    return {part: part.prepare(like) for part in module.modules() if isinstance(part, Convolution)}


def computed_in(x: Tensor) -> torch.dtype:
    """The type that a convolution of x computes in: autocast's, where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def in_parts(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
    """x as channels that a convolution in half precision reads without rounding them; else x itself.

    The nearest number, what that leaves, and the nearest once more, for three times the channels. With
    `for_parts` of the weights they give x w = near_x w + rest_x w + near_x rest_w, but for rest_x rest_w: 16
    bits of both (22 in float16), as a convolution adds up its products in float32.
    """
    dtype = computed_in(x)
    if dtype.itemsize > 2:
        return x
    near = x.to(dtype)
    return torch.cat([near, (x - near).to(dtype), near], dim=1)


def for_parts(weight: Float[Tensor, "K C kh kw"], like: Tensor) -> Float[Tensor, "K D kh kw"]:
    """The weights of the channels of `in_parts`, where those are more than x has."""
    dtype = computed_in(like)
    if dtype.itemsize > 2:
        return weight
    with torch.no_grad():  # The gradient of both parts together is the weight's own.
        rest = weight - weight.to(dtype)
    return torch.cat([weight, weight, rest], dim=1)


def fast_format(x: Tensor) -> torch.memory_format:
    """The order in memory that convolutions of x are fastest in.

    channels_last (the channels of a pixel together) on the CPU, and on a GPU in half precision, whose tensor
    cores read nothing else; its float32 kernels want whole planes.
    """
    together = x.device.type == "cpu" or computed_in(x).itemsize == 2
    return torch.channels_last if together else torch.contiguous_format


def in_fast_format(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """x in the order in memory that convolutions are fastest in, which what follows keeps."""
    return x.contiguous(memory_format=fast_format(x))


def _suits_winograd(weight: Tensor, like: Tensor) -> bool:
    size = (weight.shape[2], weight.shape[3])
    if size not in winograd.KERNELS or min(weight.shape[:2]) < MIN_CHANNELS:
        return False
    rows, columns = winograd.count_tiles(like.shape, size)
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and like.shape[0] * rows * columns >= MIN_TILES
    )
