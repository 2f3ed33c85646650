"""Bilinear lookup on the CPU, forward and backward: a point's four pixels are found once for all channels."""

from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semraft.kernels.compiled import njit
from semraft.kernels.cpu.threads import in_threads


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(image, x, y)
        blended = image.new_empty(*image.shape[:2], *x.shape[1:])
        in_threads(_look_up, x.shape[0] * x.shape[1], *_arrays(image, x, y), blended.numpy())
        return blended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        image, x, y = ctx.saved_tensors
        of_image = of_x = of_y = None
        if ctx.needs_input_grad[0]:
            of_image = torch.zeros_like(image, memory_format=torch.contiguous_format)
            planes = image.shape[0] * image.shape[1]
            in_threads(_spread, planes, *_arrays(gradient, x, y), of_image.numpy())
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            of_x, of_y = torch.zeros_like(x), torch.zeros_like(y)
            arrays = _arrays(image, x, y, gradient)
            in_threads(_slopes, x.shape[0] * x.shape[1], *arrays, of_x.numpy(), of_y.numpy())
        return of_image, of_x, of_y


blend: Any = _Blend.apply
"""Of an image `B C H W` and columns and rows in it `B H W`, all float32."""


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


@njit(cache=True, nogil=True)
@no_type_check
def _corners(x, y, height, width, places, shares):
    """Index of the upper left pixel, offsets of its right and lower neighbours, and the bilinear weights.

    Indices are unsigned: Numba would check a signed one for counting from the end.
    """
    for i in range(x.size):
        left, top = int(x[i]), int(y[i])
        places[0, i] = top * width + left
        places[1, i] = 1 if left + 1 < width else 0  # A neighbour beyond the edge has weight 0.
        places[2, i] = width if top + 1 < height else 0
        shares[0, i], shares[1, i] = x[i] - np.float32(left), y[i] - np.float32(top)


@njit(cache=True, nogil=True)
@no_type_check
def _look_up(start, stop, image, x, y, blended):
    _, channels, height, width = image.shape
    places, shares = np.empty((3, x.shape[2]), np.uint64), np.empty((2, x.shape[2]), np.float32)
    for line in range(start, stop):
        b, row = divmod(line, x.shape[1])
        _corners(x[b, row], y[b, row], height, width, places, shares)
        for c in range(channels):
            plane, result = image[b, c].reshape(-1), blended[b, c, row]
            for i in range(result.size):
                place, right, below = places[0, i], places[1, i], places[2, i]
                upper, lower = plane[place], plane[place + below]
                upper += shares[0, i] * (plane[place + right] - upper)
                lower += shares[0, i] * (plane[place + right + below] - lower)
                result[i] = upper + shares[1, i] * (lower - upper)


@njit(cache=True, nogil=True)
@no_type_check
def _spread(start, stop, gradient, x, y, of_image):
    """A plane at a time: no two write to one place."""
    _, channels, height, width = of_image.shape
    places, shares = np.empty((3, x.shape[2]), np.uint64), np.empty((2, x.shape[2]), np.float32)
    for number in range(start, stop):
        b, c = divmod(number, channels)
        plane = of_image[b, c].reshape(-1)
        for row in range(x.shape[1]):
            _corners(x[b, row], y[b, row], height, width, places, shares)
            for i in range(x.shape[2]):
                place, right, below = places[0, i], places[1, i], places[2, i]
                lower = shares[1, i] * gradient[b, c, row, i]
                upper = gradient[b, c, row, i] - lower
                plane[place] += upper - shares[0, i] * upper
                plane[place + right] += shares[0, i] * upper
                plane[place + below] += lower - shares[0, i] * lower
                plane[place + right + below] += shares[0, i] * lower


@njit(cache=True, nogil=True)
@no_type_check
def _slopes(start, stop, image, x, y, gradient, of_x, of_y):
    _, channels, height, width = image.shape
    places, shares = np.empty((3, x.shape[2]), np.uint64), np.empty((2, x.shape[2]), np.float32)
    for line in range(start, stop):
        b, row = divmod(line, x.shape[1])
        _corners(x[b, row], y[b, row], height, width, places, shares)
        along_x, along_y = of_x[b, row], of_y[b, row]
        for c in range(channels):
            plane, wanted = image[b, c].reshape(-1), gradient[b, c, row]
            for i in range(wanted.size):
                place, right, below = places[0, i], places[1, i], places[2, i]
                upper, lower = plane[place], plane[place + below]
                upper_step = plane[place + right] - upper
                lower_step = plane[place + right + below] - lower
                along_x[i] += wanted[i] * (upper_step + shares[1, i] * (lower_step - upper_step))
                along_y[i] += wanted[i] * (lower - upper + shares[0, i] * (lower_step - upper_step))
