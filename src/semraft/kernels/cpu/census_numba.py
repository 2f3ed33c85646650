"""The soft census difference and its gradient, compiled by Numba; reference: `ops.census`."""

from collections.abc import Callable
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from semraft.kernels.compiled import njit
from semraft.kernels.cpu.threads import REORDERED_SUMS, in_threads

CENSUS_RADIUS_PX = 3
PATCH_PX = 2 * CENSUS_RADIUS_PX + 1
CENSUS_SOFTNESS = 0.9
"""Difference of grey (0..255) with a soft sign of 1 / sqrt(2): d / sqrt(d^2 + softness^2)."""
HAMMING_SOFTNESS = 0.1
"""Squared difference of two soft signs that counts as half different."""


def differences(grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "t B H W"]) -> Float[Tensor, "t B H W"]:
    """`ops.census.census_difference` of the first image and each of the second."""
    result = torch.empty_like(grey2)
    for one, difference in zip(grey2, result, strict=True):
        _by_rows(_sum_differences, grey1, one, difference)
    return result


def slopes(
    grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "t B H W"], gradient: Float[Tensor, "t B H W"]
) -> Float[Tensor, "t B H W"]:
    """The gradient of `differences` in the second images."""
    result = torch.empty_like(grey2)
    for one, wanted, slope in zip(grey2, gradient, result, strict=True):
        _by_rows(_sum_slopes, grey1, one, wanted, slope)
    return result


def _by_rows(kernel: Callable[..., None], *images: Float[Tensor, "B H W"]) -> None:
    """Calls a kernel with images padded by zeros and, last, its result without padding."""
    *read, result = (image.detach() for image in images)
    padded = [F.pad(image, (CENSUS_RADIUS_PX,) * 4).numpy() for image in read]
    in_threads(kernel, result.shape[0] * result.shape[1], *padded, result.numpy())


_CENTRE = CENSUS_RADIUS_PX * PATCH_PX + CENSUS_RADIUS_PX
_SOFT, _HALF = np.float32(CENSUS_SOFTNESS**2), np.float32(HAMMING_SOFTNESS)


@njit(cache=True, nogil=True)
@no_type_check
def _inner(padded, image, y):
    """A row without the border."""
    return padded[image, y + CENSUS_RADIUS_PX, CENSUS_RADIUS_PX : padded.shape[2] - CENSUS_RADIUS_PX]


# Without a check for division by zero ("numpy") the loops over x are vectors.
@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS, error_model="numpy")
@no_type_check
def _sum_differences(start, stop, grey1, grey2, difference):
    _, height, width = difference.shape
    for line in range(start, stop):
        image, y = divmod(line, height)
        middle1, middle2 = _inner(grey1, image, y), _inner(grey2, image, y)
        total = difference[image, y]
        total[:] = 0
        for k in range(PATCH_PX**2):
            dy, dx = divmod(k, PATCH_PX)
            if k != _CENTRE:
                other1, other2 = grey1[image, y + dy, dx : dx + width], grey2[image, y + dy, dx : dx + width]
                for x in range(width):
                    gap1, gap2 = other1[x] - middle1[x], other2[x] - middle2[x]
                    apart = gap1 / np.sqrt(gap1 * gap1 + _SOFT) - gap2 / np.sqrt(gap2 * gap2 + _SOFT)
                    total[x] += apart * apart / (_HALF + apart * apart)
        for x in range(width):
            total[x] *= np.float32(1 / (PATCH_PX**2 - 1))


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS, error_model="numpy")
@no_type_check
def _sum_slopes(start, stop, grey1, grey2, gradient, of_grey2):
    """Each pair of neighbours is in the patch of both."""
    _, height, width = of_grey2.shape
    for line in range(start, stop):
        image, y = divmod(line, height)
        middle1, middle2 = _inner(grey1, image, y), _inner(grey2, image, y)
        wanted, total = _inner(gradient, image, y), of_grey2[image, y]
        total[:] = 0
        for k in range(PATCH_PX**2):
            dy, dx = divmod(k, PATCH_PX)
            if k != _CENTRE:
                other1, other2 = grey1[image, y + dy, dx : dx + width], grey2[image, y + dy, dx : dx + width]
                asked = gradient[image, y + dy, dx : dx + width]
                for x in range(width):
                    gap1, gap2 = other1[x] - middle1[x], other2[x] - middle2[x]
                    steep = np.float32(1) / np.sqrt(gap2 * gap2 + _SOFT)
                    apart = gap2 * steep - gap1 / np.sqrt(gap1 * gap1 + _SOFT)
                    above = _HALF + apart * apart
                    slope = apart * steep * steep * steep / (above * above)
                    total[x] -= (wanted[x] + asked[x]) * slope
        for x in range(width):
            total[x] *= np.float32(2 * HAMMING_SOFTNESS * CENSUS_SOFTNESS**2 / (PATCH_PX**2 - 1))
