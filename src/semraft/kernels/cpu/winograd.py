"""Convolution with 3x3, 1x5 and 5x1 kernels by Winograd's minimal filtering, on the CPU, in float32.

A tile of 4 (or 4x4) results needs 8 products a channel for 5 taps instead of 20, and 36 for 3x3 taps instead
of 144: evaluate input and kernel as polynomials at 8 (6) points, multiply, interpolate (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", CVPR 2016). The products are matrix products over channels, so
torch does them; the transforms around them are sums, done here by Numba for all channels of a pixel at once.

Interpolation magnifies rounding, above all that of the sums over channels. So the points are those that
magnify least (0, +-5/8, +-3/2 and infinity for 3 taps, 0, +-1, +-2, +-1/2 and infinity for 5), and sums are
short: four times the rounding of the best direct convolution (docs/performance.md, "Rounding"). Tensors are
channels_last: a pixel's channels lie together in memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from semraft.kernels.cpu import winograd_transforms as kernels
from semraft.kernels.cpu.threads import in_threads

TILE = 4
"""Results of a tile along each axis that the kernel extends over."""
BLOCK = 128
"""Tiles transformed and multiplied at a time: what they need stays in the caches."""
SUMMED = 64
"""Channels summed up in one go: sums of such sums round less than one long sum does."""

KERNELS = ((3, 3), (1, 5), (5, 1))
"""The kernel sizes there are transforms for."""

_TRANSFORMS = {
    3: (kernels.to_points_3x3, kernels.from_points_3x3, kernels.gradient_to_points_3x3),
    5: (kernels.to_points_5, kernels.from_points_5, kernels.gradient_to_points_5),
}


def evaluation(taps: int) -> Float[Tensor, "points taps"]:
    """The matrix G that evaluates a kernel of 3 or 5 taps at the points, divided by what interpolation needs.

    Row i holds the powers of point p_i over the product of p_i - p_j; the last, for infinity, the last tap.
    """
    near, far = float(kernels.NEAR), float(kernels.FAR)
    finite = np.array([0, near, -near, far, -far] if taps == 3 else [0, 1, -1, 2, -2, 0.5, -0.5])
    gaps = finite[:, None] - finite + np.eye(len(finite))
    rows = finite[:, None] ** np.arange(taps) / gaps.prod(1, keepdims=True)
    return torch.from_numpy(np.vstack([rows, np.eye(taps)[-1:]]))


def spectrum(weight: Float[Tensor, "K C kh kw"]) -> Float[Tensor, "points C K"]:
    """A kernel at the points, for `convolve`; differentiable."""
    matrices = [evaluation(taps) if taps > 1 else torch.ones(1, 1) for taps in weight.shape[2:]]
    both = torch.kron(matrices[0], matrices[1]).to(weight)
    taps = weight.permute(2, 3, 1, 0).reshape(both.shape[1], -1)
    return (both @ taps).view(-1, weight.shape[1], weight.shape[0])


def mirrored(weight: Float[Tensor, "K C kh kw"]) -> Float[Tensor, "C K kh kw"]:
    """The kernel that takes a gradient from the results of a convolution back to its input."""
    return weight.flip(2, 3).transpose(0, 1)


def convolve(
    parts: Sequence[Float[Tensor, "B _ H W"]],
    kernel_size: tuple[int, int],
    spectrum: Float[Tensor, "points C K"],
    mirrored_spectrum: Float[Tensor, "points K C"] | None,
    bias: Float[Tensor, " K"] | None,
) -> Float[Tensor, "B K H W"]:
    """`conv2d` of the parts' channels one after the other, with a padding that keeps the size.

    Gradients go to the parts, the spectrum and the bias. `mirrored_spectrum`, that of the `mirrored` kernel,
    is what those of the parts need.
    """
    parts = [part.contiguous(memory_format=torch.channels_last) for part in parts]
    result: Tensor = _apply(kernel_size, spectrum, mirrored_spectrum, bias, *parts)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernel_size: tuple[int, int],
        spectrum: Tensor,
        mirrored_spectrum: Tensor | None,
        bias: Tensor | None,
        *parts: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(mirrored_spectrum, *parts)
        ctx.kernel_size = kernel_size
        return _convolve(parts, kernel_size, spectrum, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mirrored_spectrum, *parts = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_spectrum = of_bias = None
        of_parts: Sequence[Tensor | None] = [None] * len(parts)
        if any(ctx.needs_input_grad[4:]):
            of_all = _convolve([gradient], ctx.kernel_size, mirrored_spectrum, None)
            of_parts = torch.split(of_all, [part.shape[1] for part in parts], dim=1)
        if ctx.needs_input_grad[1]:
            of_spectrum = _correlate(parts, gradient, ctx.kernel_size)
        if ctx.needs_input_grad[3]:
            of_bias = gradient.sum((0, 2, 3))
        return None, of_spectrum, None, of_bias, *of_parts


_apply: Any = _Convolution.apply


def _convolve(
    parts: Sequence[Tensor], kernel_size: tuple[int, int], spectrum: Tensor, bias: Tensor | None
) -> Tensor:
    _, from_points, _ = _TRANSFORMS[max(kernel_size)]
    points, channels, out_channels = spectrum.shape
    batch, _, height, width = parts[0].shape
    result = torch.empty((batch, out_channels, height, width), memory_format=torch.channels_last)
    shift = result.new_zeros(out_channels) if bias is None else bias.detach()
    results, shifts, block = _pixels(result), shift.numpy(), BLOCK * torch.get_num_threads()
    spectra, products = (
        result.new_empty(points, block, channels),
        result.new_empty(points, block, out_channels),
    )
    tiles = count_tiles(result.shape, kernel_size)
    for first in range(0, batch * tiles[0] * tiles[1], block):
        count = min(block, batch * tiles[0] * tiles[1] - first)
        _to_points(parts, kernel_size, spectra, first, count, tiles)
        _multiply(spectra[:, :count], spectrum, products[:, :count])
        arguments = (products.numpy(), results, shifts, first, tiles, kernel_size[1] == 1)
        in_threads(from_points, count, *arguments)
    return result


def _multiply(spectra: Tensor, spectrum: Tensor, products: Tensor) -> None:
    """Sums over channels, `SUMMED` at a time."""
    lefts, rights = torch.split(spectra, SUMMED, dim=2), torch.split(spectrum, SUMMED, dim=1)
    torch.bmm(lefts[0], rights[0], out=products)
    for left, right in zip(lefts[1:], rights[1:], strict=True):
        products.baddbmm_(left, right)


def _correlate(parts: Sequence[Tensor], gradient: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """The gradient of the spectrum: the sum over tiles of transformed input times transformed gradient."""
    *_, gradient_to_points = _TRANSFORMS[max(kernel_size)]
    points = int(np.prod([TILE + taps - 1 if taps > 1 else 1 for taps in kernel_size]))
    channels, out_channels = sum(part.shape[1] for part in parts), gradient.shape[1]
    total = gradient.new_zeros(points, channels, out_channels)
    block = 2 * BLOCK * torch.get_num_threads()
    left, right = total.new_empty(points, block, channels), total.new_empty(points, block, out_channels)
    tiles = count_tiles(gradient.shape, kernel_size)
    number = gradient.shape[0] * tiles[0] * tiles[1]
    for first in range(0, number, block):
        count = min(block, number - first)
        _to_points(parts, kernel_size, left, first, count, tiles)
        arguments = (_pixels(gradient), right.numpy(), first, tiles, kernel_size[1] == 1)
        in_threads(gradient_to_points, count, *arguments)
        total.baddbmm_(left[:, :count].transpose(1, 2), right[:, :count])
    return total


def _to_points(
    parts: Sequence[Tensor],
    kernel_size: tuple[int, int],
    spectra: Tensor,
    first: int,
    count: int,
    tiles: tuple[int, int],
) -> None:
    """Transforms `count` tiles of every part into its channels of `spectra`."""
    to_points, *_ = _TRANSFORMS[max(kernel_size)]
    offset = 0
    for part in parts:
        arguments = (_pixels(part), spectra.numpy(), offset, first, tiles, kernel_size[1] == 1)
        in_threads(to_points, count, *arguments)
        offset += part.shape[1]


def _pixels(x: Tensor) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).numpy()


def count_tiles(shape: torch.Size, kernel_size: tuple[int, int]) -> tuple[int, int]:
    """Numbers of tiles in the rows and columns of an image."""
    rows, columns = (
        -(-size // TILE) if taps > 1 else size for size, taps in zip(shape[2:], kernel_size, strict=True)
    )
    return rows, columns
