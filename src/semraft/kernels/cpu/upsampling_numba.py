"""Convex upsampling by 8, compiled by Numba; reference: `models.upsampling`, by tensor operations."""

from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from semraft.kernels.compiled import njit
from semraft.kernels.cpu.threads import REORDERED_SUMS, in_threads

STRIDE = 8


def upsample_convex(
    cells: Float[Tensor, "B C h w"], mask: Float[Tensor, "B 576 h w"]
) -> Float[Tensor, "B C 8*h 8*w"]:
    """`models.upsampling.upsample_convex` of float32 cells; gradients to cells and mask."""
    upsampled: Tensor = _apply(cells, mask.float().contiguous(memory_format=torch.channels_last))
    return upsampled


class _ConvexUpsampling(torch.autograd.Function):
    """Only the logits are kept for the gradient: their softmax is as large, and cheap to compute again."""

    @staticmethod
    def forward(ctx: Any, cells: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(cells, mask)
        batch, channels, height, width = cells.shape
        pixels = cells.new_empty(batch, channels, STRIDE * height, STRIDE * width)
        arguments = (_weights(mask), _neighbours(cells), pixels.numpy())
        in_threads(_combine, batch * height, *arguments)
        return pixels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        cells, mask = ctx.saved_tensors
        batch, channels, height, width = cells.shape
        of_mask = torch.empty_like(mask)
        of_neighbours = cells.new_empty(batch, height, width, 9, channels)
        arguments = (_weights(mask), _neighbours(cells), gradient.contiguous().numpy())
        results = of_mask.permute(0, 2, 3, 1).view(batch, height, width, 9, -1), of_neighbours
        in_threads(_combine_backward, batch * height, *arguments, *(result.numpy() for result in results))
        columns = of_neighbours.permute(0, 4, 3, 1, 2).reshape(batch, channels * 9, height * width)
        return F.fold(columns, (height, width), 3, padding=1), of_mask


_apply: Any = _ConvexUpsampling.apply


def _weights(mask: Tensor) -> np.ndarray:
    """[image, row, column, neighbour, pixel of the cell], summing to 1 over neighbours."""
    batch, _, height, width = mask.shape
    logits = mask.detach().permute(0, 2, 3, 1).view(batch, height, width, 9, STRIDE**2)
    return logits.softmax(dim=3).numpy()


def _neighbours(cells: Tensor) -> np.ndarray:
    """[image, row, column, neighbour, channel]."""
    batch, channels, height, width = cells.shape
    columns = F.unfold(cells.detach(), 3, padding=1).view(batch, channels, 9, height, width)
    return columns.permute(0, 3, 4, 2, 1).contiguous().numpy()


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def _combine(start, stop, weights, neighbours, pixels):
    _, height, width, _, channels = neighbours.shape
    total = np.empty(64, np.float32)
    for line in range(start, stop):
        image, y = divmod(line, height)
        for x in range(width):
            for c in range(channels):
                total[:] = 0
                for k in range(9):
                    value, weight = neighbours[image, y, x, k, c], weights[image, y, x, k]
                    for p in range(64):
                        total[p] = total[p] + value * weight[p]
                for i in range(8):
                    pixels[image, c, 8 * y + i, 8 * x : 8 * x + 8] = total[8 * i : 8 * i + 8]


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def _combine_backward(start, stop, weights, neighbours, gradient, of_mask, of_neighbours):
    """Through the softmax: a logit gets weight times (its neighbour's share - the mean share)."""
    _, height, width, _, channels = neighbours.shape
    own, mean = np.empty((channels, 64), np.float32), np.empty(64, np.float32)
    for line in range(start, stop):
        image, y = divmod(line, height)
        for x in range(width):
            for c in range(channels):
                for i in range(8):
                    own[c, 8 * i : 8 * i + 8] = gradient[image, c, 8 * y + i, 8 * x : 8 * x + 8]
            mean[:] = 0
            for k in range(9):
                weight, share = weights[image, y, x, k], of_mask[image, y, x, k]
                share[:] = 0
                for c in range(channels):
                    value, pixel, total = neighbours[image, y, x, k, c], own[c], np.float32(0)
                    for p in range(64):
                        share[p] = share[p] + value * pixel[p]
                    for p in range(64):
                        total += weight[p] * pixel[p]
                    of_neighbours[image, y, x, k, c] = total
                for p in range(64):
                    mean[p] = mean[p] + weight[p] * share[p]
            for k in range(9):
                weight, share = weights[image, y, x, k], of_mask[image, y, x, k]
                for p in range(64):
                    share[p] = weight[p] * (share[p] - mean[p])
