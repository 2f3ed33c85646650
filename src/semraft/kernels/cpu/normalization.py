"""Instance and batch norm, with the rectifier behind them if there is one, on the CPU, compiled by Numba.

torch's norms of channels_last tensors are fast forward and slow backward. Here the gradient takes two passes
over memory, rectifier included, and nothing is kept for it but the input and two numbers a channel.
"""

from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from semraft.kernels.compiled import njit
from semraft.kernels.cpu.bfloat16 import as_array, close, opened, room
from semraft.kernels.cpu.threads import REORDERED_SUMS, in_threads

BLOCK = 64
"""Pixels that are summed in float32 before they are in float64."""


def normalize(
    x: Float[Tensor, "B C H W"],
    weight: Float[Tensor, " C"],
    bias: Float[Tensor, " C"],
    epsilon: float,
    per_image: bool,
    rectify: bool,
    inplace: bool = False,
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "G C"], Float[Tensor, "G C"]]:
    """weight (x - mean) / sqrt(variance + epsilon) + bias, and the mean and (biased) variance.

    Mean and variance are of each image's pixels (G = B), or of all pixels of the batch (G = 1). They get no
    gradient of their own; x, weight and bias do. With `rectify`, its relu. x is float32 or bfloat16, all else
    float32, on the CPU. `inplace` writes over x, where no gradient is asked for.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    if inplace:
        # Not as an autograd function's output: that is a view, which loses the memory format of one image.
        mean, variance = _write(x, x, weight, bias, epsilon, per_image, rectify)
        return x, torch.from_numpy(mean).float(), torch.from_numpy(variance).float()
    result: tuple[Tensor, Tensor, Tensor] = _apply(x, weight, bias, epsilon, per_image, rectify)
    return result


def _write(
    result: Tensor, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, per_image: bool, rectify: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Writes the normalised x to `result`, which may be x; returns mean and variance."""
    pixels = _groups(x, per_image)
    sums = np.zeros((3, len(pixels), x.shape[1]), np.float64)
    _sums(pixels, sums[0], sums[1], sums[2])
    change = sums[1] / pixels.shape[1]
    mean, variance = sums[0] + change, np.maximum(sums[2] / pixels.shape[1] - change**2, 0)
    factor = (weight.detach().numpy() / np.sqrt(variance + epsilon)).astype(np.float32)
    shift = (bias.detach().numpy() - mean * factor).astype(np.float32)
    floor = np.float32(0 if rectify else -np.inf)
    in_threads(_scale, pixels.shape[1], pixels, factor, shift, floor, _groups(result, per_image))
    return mean, variance


class _Normalization(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, per_image: bool, rectify: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        result = torch.empty_like(x)
        mean, variance = _write(result, x, weight, bias, epsilon, per_image, rectify)
        ctx.save_for_backward(x, weight, bias)
        ctx.moments, ctx.per_image = (mean, 1 / np.sqrt(variance + epsilon)), per_image
        ctx.floor = np.float32(0 if rectify else -np.inf)
        moments = torch.from_numpy(mean).float(), torch.from_numpy(variance).float()
        ctx.mark_non_differentiable(*moments)
        return result, *moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        mean, scale = (moment.astype(np.float32) for moment in ctx.moments)
        pixels = _groups(x, ctx.per_image)
        gradients = _groups(gradient.contiguous(memory_format=torch.channels_last), ctx.per_image)
        sums = np.zeros((2, *mean.shape), np.float64)
        own = weight.detach().numpy(), bias.detach().numpy(), ctx.floor
        _gradient_sums(pixels, gradients, mean, scale, *own, sums[0], sums[1])
        of_x = torch.empty_like(x)
        means = (sums / pixels.shape[1]).astype(np.float32)
        arguments = (pixels, gradients, mean, scale, *own, means[0], means[1], _groups(of_x, ctx.per_image))
        in_threads(_input_gradient, pixels.shape[1], *arguments)
        of_bias, of_weight = (torch.from_numpy(total.sum(0)).float() for total in sums)
        return of_x, of_weight, of_bias, None, None, None


_apply: Any = _Normalization.apply


def _groups(x: Tensor, per_image: bool) -> np.ndarray:
    """[group, pixel, channel] of a channels_last tensor: the same memory."""
    batch, channels, height, width = x.shape
    shape = (batch, height * width, channels) if per_image else (1, batch * height * width, channels)
    return as_array(x.permute(0, 2, 3, 1).reshape(shape))


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def _sums(pixels, first_pixel, total, squares):
    """A group's first pixel, sums of the differences from it, and of their squares.

    In float32 over short runs of pixels, in float64 over the runs: at full speed, and digits are not lost to
    a large mean.
    """
    groups, count, channels = pixels.shape
    part, part_squares = np.empty(channels, np.float32), np.empty(channels, np.float32)
    change, bits = np.empty(channels, np.float32), np.empty(BLOCK * channels, np.uint32)
    for g in range(groups):
        origin = opened(pixels[g, :1], bits)[0].copy()
        first_pixel[g] = origin
        for first in range(0, count, BLOCK):
            block = opened(pixels[g, first : min(first + BLOCK, count)], bits)
            part[:], part_squares[:] = 0, 0
            for p in range(len(block)):
                pixel = block[p]
                for c in range(channels):
                    change[c] = pixel[c] - origin[c]
                for c in range(channels):
                    part[c] = part[c] + change[c]
                for c in range(channels):
                    part_squares[c] = part_squares[c] + change[c] * change[c]
            for c in range(channels):
                total[g, c] += part[c]
                squares[g, c] += part_squares[c]


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def _scale(start, stop, pixels, factor, shift, floor, result):
    groups, _, channels = pixels.shape
    bits = np.empty(BLOCK * channels, np.uint32)
    for g in range(groups):
        own_factor, own_shift = factor[g], shift[g]
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            block, out = opened(pixels[g, first:last], bits), room(result[g, first:last], bits)
            for p in range(len(block)):
                pixel, new = block[p], out[p]
                for c in range(channels):
                    value = own_factor[c] * pixel[c] + own_shift[c]
                    new[c] = floor if value < floor else value
            close(result[g, first:last], bits)


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def _gradient_sums(pixels, gradients, mean, scale, weight, bias, floor, total, products):
    """Sums over pixels of the gradient behind the rectifier, and of its product with the normalised input."""
    groups, count, channels = pixels.shape
    part, part_products = np.empty(channels, np.float32), np.empty(channels, np.float32)
    masked, normal = np.empty(channels, np.float32), np.empty(channels, np.float32)
    bits, bits_slope = np.empty(BLOCK * channels, np.uint32), np.empty(BLOCK * channels, np.uint32)
    for g in range(groups):
        own_mean, own_scale = mean[g], scale[g]
        for first in range(0, count, BLOCK):
            last = min(first + BLOCK, count)
            block, slopes = opened(pixels[g, first:last], bits), opened(gradients[g, first:last], bits_slope)
            part[:], part_products[:] = 0, 0
            for p in range(len(block)):
                pixel, gradient = block[p], slopes[p]
                for c in range(channels):
                    normal[c] = (pixel[c] - own_mean[c]) * own_scale[c]
                for c in range(channels):
                    masked[c] = gradient[c] if weight[c] * normal[c] + bias[c] > floor else np.float32(0)
                for c in range(channels):
                    part[c] = part[c] + masked[c]
                for c in range(channels):
                    part_products[c] = part_products[c] + masked[c] * normal[c]
            for c in range(channels):
                total[g, c] += part[c]
                products[g, c] += part_products[c]


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def _input_gradient(
    start, stop, pixels, gradients, mean, scale, weight, bias, floor, total, products, result
):
    """weight scale (g - mean of g - x' mean of g x'), x' the normalised input, g behind the rectifier."""
    groups, _, channels = pixels.shape
    normal, masked = np.empty(channels, np.float32), np.empty(channels, np.float32)
    bits, bits_slope = np.empty(BLOCK * channels, np.uint32), np.empty(BLOCK * channels, np.uint32)
    for g in range(groups):
        own_mean, own_scale, own_total, own_products = mean[g], scale[g], total[g], products[g]
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            block, slopes = opened(pixels[g, first:last], bits), opened(gradients[g, first:last], bits_slope)
            out = room(result[g, first:last], bits)  # A pixel is read before its place is written.
            for p in range(len(block)):
                pixel, gradient, new = block[p], slopes[p], out[p]
                for c in range(channels):
                    normal[c] = (pixel[c] - own_mean[c]) * own_scale[c]
                for c in range(channels):
                    masked[c] = gradient[c] if weight[c] * normal[c] + bias[c] > floor else np.float32(0)
                for c in range(channels):
                    change = masked[c] - own_total[c] - normal[c] * own_products[c]
                    new[c] = weight[c] * own_scale[c] * change
            close(result[g, first:last], bits)
