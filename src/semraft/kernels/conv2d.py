"""Convolutions that keep the size, by the fastest algorithm of the device; equivalent to `conv2d`.

Weights are laid out for the algorithm once (`prepare`), then used on many inputs: by all refinements.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from semraft.kernels.choice import has_cpu_kernel
from semraft.kernels.cpu import winograd

MIN_CHANNELS = 32
MIN_TILES = 64
"""Fewer channels or tiles are convolved directly: Winograd's transforms cost more than its products save."""
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
    """The weights prepared for inputs with the batch, size, type and device of `like`.

    Under autocast weights are rounded here, once for all refinements: torch caches the rounded form of
    parameters only, and ConvGRU's weights are concatenated from several.
    """
    if not _suits_winograd(weight, like):
        dtype = computed_in(like)
        # On the CPU oneDNN reorders weights to a format of its own.
        laid_out = torch.preserve_format if like.device.type == "cpu" else fast_format(like)
        weight = weight.to(dtype, memory_format=laid_out)
        return Kernel(weight, None if bias is None else bias.to(dtype))
    mirrored = winograd.spectrum(winograd.mirrored(weight.detach())) if torch.is_grad_enabled() else None
    return Kernel(weight, bias, winograd.spectrum(weight), mirrored)


def convolve(
    x: Float[Tensor, "B C H W"] | Sequence[Float[Tensor, "B _ H W"]], kernel: Kernel
) -> Float[Tensor, "B K H W"]:
    """`conv2d` of stride 1 with the padding that keeps the size; several inputs are joined by channel."""
    weight, bias, spectrum, mirrored = kernel
    size = (weight.shape[2], weight.shape[3])
    if spectrum is not None:
        return winograd.convolve([x] if isinstance(x, Tensor) else x, size, spectrum, mirrored, bias)
    x = x if isinstance(x, Tensor) else torch.cat(list(x), dim=1)
    if size == (1, 1) and x.device.type == "cpu":
        # A matrix product over pixels: torch does not turn a 1x1 convolution of one image into it.
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    return direct(x, kernel)


def direct(x: Float[Tensor, "B C H W"], kernel: Kernel, stride: int = 1) -> Float[Tensor, "B K h w"]:
    """`conv2d` itself, with the padding of a convolution that keeps the size when the stride is 1."""
    padding = (kernel.weight.shape[2] // 2, kernel.weight.shape[3] // 2)
    if x.device.type != "cpu" or not torch.is_grad_enabled() or not CONTIGUOUS_IS_FASTER:
        return F.conv2d(x, kernel.weight, kernel.bias, stride, padding)
    y = F.conv2d(x.contiguous(), kernel.weight, kernel.bias, stride, padding)
    return y.contiguous(memory_format=torch.channels_last)


def computed_in(x: Tensor) -> torch.dtype:
    """The type of a convolution of x: autocast's type where it is on, else x's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def fast_format(x: Tensor) -> torch.memory_format:
    """The fastest memory format for convolutions of x.

    channels_last on the CPU, and on a GPU in half precision, because tensor cores read nothing else; the
    GPU's float32 kernels are faster on contiguous planes.
    """
    together = x.device.type == "cpu" or computed_in(x).itemsize == 2
    return torch.channels_last if together else torch.contiguous_format


def in_fast_format(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """x in the fastest memory format, which the following operations keep."""
    return x.contiguous(memory_format=fast_format(x))


def _suits_winograd(weight: Tensor, like: Tensor) -> bool:
    size = (weight.shape[2], weight.shape[3])
    if size not in winograd.KERNELS or min(weight.shape[:2]) < MIN_CHANNELS:
        return False
    rows, columns = winograd.count_tiles(like.shape, size)
    return (
        has_cpu_kernel(weight)
        and not torch.is_autocast_enabled("cpu")
        and like.shape[0] * rows * columns >= MIN_TILES
    )
