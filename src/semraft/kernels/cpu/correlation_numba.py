"""Correlation lookup on the CPU, compiled by Numba: in a stored volume, or on demand.

The samples around one point all have the same place between cells. So a window of 2r + 2 integer cells is
taken once and blended with one pair of fractions, instead of four cells and four weights for each sample.
The functions are those of `correlation_triton`; floats are float32, and gradients are ADDED to what is there.
"""

from collections.abc import Sequence
from typing import no_type_check

import numpy as np
from jaxtyping import Float
from torch import Tensor

from semraft.kernels.compiled import njit
from semraft.kernels.cpu.threads import REORDERED_SUMS, in_threads


def look_up(
    volumes: Sequence[Float[Tensor, "N _ _"]], points: Float[Tensor, "N 2"], radius: int
) -> Float[Tensor, "N D"]:
    """Bilinear samples of each level of a stored volume: what `correlation.lookup` defines."""
    taps = (2 * radius + 1) ** 2
    windows = points.new_empty(len(points), len(volumes) * taps)
    for level, volume in enumerate(volumes):
        out = windows.numpy()[:, level * taps : (level + 1) * taps]
        in_threads(_look_up, len(points), volume.numpy(), points.numpy(), 0.5**level, radius, out)
    return windows


def look_up_backward(
    gradient: Float[Tensor, "N D"],
    points: Float[Tensor, "N 2"],
    radius: int,
    gradients: Sequence[Float[Tensor, "N _ _"]],
) -> None:
    """Adds to `gradients` what `look_up` hands back to its volumes."""
    taps = (2 * radius + 1) ** 2
    for level, total in enumerate(gradients):
        part = gradient.numpy()[:, level * taps : (level + 1) * taps]
        in_threads(_spread, len(points), part, points.numpy(), 0.5**level, radius, total.numpy())


def correlate(
    features1: Float[Tensor, "B n C"],
    features2: Sequence[Float[Tensor, "B _ _ C"]],
    points: Float[Tensor, "B n 2"],
    radius: int,
) -> Float[Tensor, "B n D"]:
    """The windows `look_up` finds, from products of features made when asked for: no volume is stored."""
    batch, cells, _ = features1.shape
    taps = (2 * radius + 1) ** 2
    windows = points.new_empty(batch, cells, len(features2) * taps)
    for level, features in enumerate(features2):
        out = windows.numpy()[..., level * taps : (level + 1) * taps]
        arguments = (features1.numpy(), features.numpy(), points.numpy(), 0.5**level, radius, out)
        in_threads(_correlate, batch * cells, *arguments)
    return windows


def correlate_backward(
    gradient: Float[Tensor, "B n D"],
    features1: Float[Tensor, "B n C"],
    features2: Sequence[Float[Tensor, "B _ _ C"]],
    points: Float[Tensor, "B n 2"],
    radius: int,
    gradient1: Float[Tensor, "B n C"],
    gradients2: Sequence[Float[Tensor, "B _ _ C"]],
) -> None:
    """Adds to `gradient1` and `gradients2` what `correlate` hands back to its features.

    Threads share the channels among them, not the cells: windows of neighbouring cells overlap.
    """
    taps = (2 * radius + 1) ** 2
    for level, (features, total) in enumerate(zip(features2, gradients2, strict=True)):
        part = gradient.numpy()[..., level * taps : (level + 1) * taps]
        arguments = (part, features1.numpy(), features.numpy(), points.numpy(), 0.5**level, radius)
        in_threads(_correlate_backward, features1.shape[2], *arguments, gradient1.numpy(), total.numpy())


@njit(inline="always")
@no_type_check
def _place(point, scale, radius, height, width):
    """The first cell of a window and the fractions; far outside and NaN become just outside."""
    x, y = point[0] * np.float32(scale), point[1] * np.float32(scale)
    outside = np.float32(-radius - 2)
    x = min(x, np.float32(width + radius + 1)) if x > outside else outside
    y = min(y, np.float32(height + radius + 1)) if y > outside else outside
    left, top = np.floor(x), np.floor(y)
    return int(left) - radius, int(top) - radius, x - left, y - top


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def _look_up(start, stop, volume, points, scale, radius, windows):
    size = 2 * radius + 2
    _, height, width = volume.shape
    cells = np.empty((size, size), np.float32)
    for n in range(start, stop):
        left, top, dx, dy = _place(points[n], scale, radius, height, width)
        image = volume[n]
        for i in range(size):
            y = top + i
            for j in range(size):
                x = left + j
                inside = 0 <= y < height and 0 <= x < width
                cells[i, j] = image[y, x] if inside else np.float32(0)
        _blend(cells, dx, dy, windows[n])


@njit(inline="always")
@no_type_check
def _blend(cells, dx, dy, window):
    """Bilinear samples at all places of a window; its channels run over x, then y."""
    size = cells.shape[0] - 1
    for i in range(size):
        for j in range(size):
            upper = cells[i, j] + dx * (cells[i, j + 1] - cells[i, j])
            lower = cells[i + 1, j] + dx * (cells[i + 1, j + 1] - cells[i + 1, j])
            window[j * size + i] = upper + dy * (lower - upper)


@njit(inline="always")
@no_type_check
def _unblend(window, dx, dy, cells):
    """The transpose of `_blend`: what each cell gets of a window's gradient."""
    size = cells.shape[0] - 1
    cells[:] = 0
    for i in range(size):
        for j in range(size):
            value = window[j * size + i]
            lower = dy * value
            upper = value - lower
            cells[i, j] += upper - dx * upper
            cells[i, j + 1] += dx * upper
            cells[i + 1, j] += lower - dx * lower
            cells[i + 1, j + 1] += dx * lower


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def _spread(start, stop, gradient, points, scale, radius, total):
    size = 2 * radius + 2
    _, height, width = total.shape
    cells = np.empty((size, size), np.float32)
    for n in range(start, stop):
        left, top, dx, dy = _place(points[n], scale, radius, height, width)
        _unblend(gradient[n], dx, dy, cells)
        for i in range(max(0, -top), min(size, height - top)):
            for j in range(max(0, -left), min(size, width - left)):
                total[n, top + i, left + j] += cells[i, j]


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def _correlate(start, stop, features1, features2, points, scale, radius, windows):
    size = 2 * radius + 2
    _, height, width, channels = features2.shape
    norm = np.float32(1 / np.sqrt(channels))
    cells = np.empty((size, size), np.float32)
    for n in range(start, stop):
        image, cell = divmod(n, features1.shape[1])
        left, top, dx, dy = _place(points[image, cell], scale, radius, height, width)
        own = features1[image, cell]
        cells[:] = 0
        for i in range(max(0, -top), min(size, height - top)):
            for j in range(max(0, -left), min(size, width - left)):
                other = features2[image, top + i, left + j]
                product = np.float32(0)
                for c in range(channels):
                    product += own[c] * other[c]
                cells[i, j] = norm * product
        _blend(cells, dx, dy, windows[image, cell])


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS)
@no_type_check
def _correlate_backward(
    start, stop, gradient, features1, features2, points, scale, radius, gradient1, gradient2
):
    size = 2 * radius + 2
    _, height, width, channels = features2.shape
    norm = np.float32(1 / np.sqrt(channels))
    cells = np.empty((size, size), np.float32)
    for image in range(features1.shape[0]):
        for cell in range(features1.shape[1]):
            left, top, dx, dy = _place(points[image, cell], scale, radius, height, width)
            _unblend(gradient[image, cell], dx, dy, cells)
            own, own_total = features1[image, cell, start:stop], gradient1[image, cell, start:stop]
            for i in range(max(0, -top), min(size, height - top)):
                for j in range(max(0, -left), min(size, width - left)):
                    weight = norm * cells[i, j]
                    other = features2[image, top + i, left + j, start:stop]
                    total = gradient2[image, top + i, left + j, start:stop]
                    # Two loops: in one, Numba assumes that the arrays overlap, and does not vectorise.
                    for c in range(len(own)):
                        own_total[c] = own_total[c] + weight * other[c]
                    for c in range(len(own)):
                        total[c] = total[c] + weight * own[c]
