"""Truncated distance transform, compiled by Numba; reference: `ops.distance.squared_by_windows`."""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Int16
from torch import Tensor

from semraft.kernels.compiled import njit
from semraft.kernels.cpu.threads import in_threads


def squared_distances(mask: Bool[Tensor, "M H W"], radius_px: int) -> Int16[Tensor, "M H W"]:
    """Squared distance of every pixel to the nearest True one, at most radius_px^2."""
    squared = torch.empty_like(mask, dtype=torch.int16)
    in_threads(_search, len(mask), mask.numpy(), radius_px, squared.numpy())
    return squared


@njit(cache=True, nogil=True)
@no_type_check
def _search(start, stop, mask, radius_px, squared):
    """Forward and backward along each row; then every step along the column."""
    _, height, width = mask.shape
    of_rows = np.empty((height, width), np.int16)
    for number in range(start, stop):
        for y in range(height):
            row, distance = of_rows[y], radius_px
            for x in range(width):
                distance = 0 if mask[number, y, x] else min(distance + 1, radius_px)
                row[x] = distance
            distance = radius_px
            for x in range(width - 1, -1, -1):
                distance = 0 if row[x] == 0 else min(distance + 1, radius_px)
                row[x] = min(row[x], distance) ** 2
        for y in range(height):
            nearest = squared[number, y]
            nearest[:] = of_rows[y]
            for step in range(1, radius_px):
                further = np.int16(step * step)
                if y >= step:
                    _lower(nearest, of_rows[y - step], further)
                if y + step < height:
                    _lower(nearest, of_rows[y + step], further)


@njit(cache=True, nogil=True)
@no_type_check
def _lower(nearest, there, further):
    for x in range(nearest.size):
        found = np.int16(there[x] + further)
        nearest[x] = found if found < nearest[x] else nearest[x]
