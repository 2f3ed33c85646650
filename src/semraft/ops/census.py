"""The soft census transform: what a patch looks like, whatever its brightness."""

from collections.abc import Callable
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from semraft.ops.compiled import REORDERED_SUMS, in_threads

CENSUS_RADIUS_PX = 3
"""A patch is 7 x 7 pixels."""
CENSUS_SOFTNESS = 0.9
"""Difference of grey (0..255) that counts as half-way to "brighter": d / sqrt(d^2 + softness^2)."""
HAMMING_SOFTNESS = 0.1
"""Squared difference of two soft signs at which they count as half different."""
_OFFSETS = tuple(
    (dy, dx)
    for dy in range(CENSUS_RADIUS_PX + 1)
    for dx in range(-CENSUS_RADIUS_PX, CENSUS_RADIUS_PX + 1)
    if dy > 0 or dx > 0
)
"""One of each pair of opposite neighbours: what p says of p + o is what p + o says of p, turned around."""


def grey(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B H W"]:
    """Brightness of RGB (ITU-R BT.601), in the image's own range."""
    red, green, blue = image.unbind(1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def census_difference(grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Share of the 48 neighbours that are brighter or darker in one image but not in the other; 0 to 1, soft.

    How much brighter (1) or darker (-1) a neighbour is: t = d / sqrt(d^2 + 0.9^2) of the difference d, for
    grey of 0..255 (constants of Jonschkowski et al., ECCV 2020). How much two images differ there:
    (t1 - t2)^2 / (0.1 + (t1 - t2)^2), averaged over neighbours (Meister et al., AAAI 2018). Differentiable
    in the second image. The outermost three rows and columns have no whole patch and must not be read
    (`whole_patches`).
    """
    if grey1.device.type == "cpu" and grey1.dtype == grey2.dtype == torch.float32:
        difference: Tensor = _compiled(grey1, grey2)
        return difference
    # Made anew in the backward pass: a hundred images would be kept of every refinement.
    plain: Tensor = checkpoint(_difference, grey1, grey2, use_reentrant=False)
    return plain


def _difference(grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    height, width = grey2.shape[-2:]
    padded1, padded2 = (F.pad(grey, (CENSUS_RADIUS_PX,) * 4) for grey in (grey1, grey2))
    total = torch.zeros_like(grey2)
    for dy, dx in _OFFSETS:
        brighter1, brighter2 = (
            _brighter(grey, padded, dy, dx) for grey, padded in ((grey1, padded1), (grey2, padded2))
        )
        apart = (brighter1 - brighter2).square()
        differs = apart / (HAMMING_SOFTNESS + apart)
        from_other = F.pad(differs, (max(dx, 0), max(-dx, 0), dy, 0))
        total = total + differs + from_other[..., :height, max(-dx, 0) : max(-dx, 0) + width]
    return total / (2 * len(_OFFSETS))


def _brighter(
    grey: Float[Tensor, "B H W"], padded: Float[Tensor, "B Y X"], dy: int, dx: int
) -> Float[Tensor, "B H W"]:
    height, width = grey.shape[-2:]
    top, left = CENSUS_RADIUS_PX + dy, CENSUS_RADIUS_PX + dx
    gap = padded[..., top : top + height, left : left + width] - grey
    return gap * torch.rsqrt(gap.square() + CENSUS_SOFTNESS**2)


class _CensusDifference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grey1: Tensor, grey2: Tensor) -> Tensor:
        ctx.save_for_backward(grey1, grey2)
        difference = torch.empty_like(grey2)
        _by_rows(_sum_differences, grey1, grey2, difference)
        return difference

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        grey1, grey2 = ctx.saved_tensors
        of_grey2 = torch.empty_like(grey2)
        _by_rows(_sum_slopes, grey1, grey2, gradient, of_grey2)
        return None, of_grey2


_compiled: Any = _CensusDifference.apply


def _by_rows(kernel: Callable[..., None], *images: Float[Tensor, "B H W"]) -> None:
    """Calls a kernel with images that have a border of zeros, and the last, its result, that has none."""
    *read, result = (image.detach() for image in images)
    padded = [F.pad(image, (CENSUS_RADIUS_PX,) * 4).numpy() for image in read]
    in_threads(kernel, result.shape[0] * result.shape[1], *padded, result.numpy())


_PATCH_PX = 2 * CENSUS_RADIUS_PX + 1
_CENTRE = CENSUS_RADIUS_PX * _PATCH_PX + CENSUS_RADIUS_PX
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
        for k in range(_PATCH_PX**2):
            dy, dx = divmod(k, _PATCH_PX)
            if k != _CENTRE:
                other1, other2 = grey1[image, y + dy, dx : dx + width], grey2[image, y + dy, dx : dx + width]
                for x in range(width):
                    gap1, gap2 = other1[x] - middle1[x], other2[x] - middle2[x]
                    apart = gap1 / np.sqrt(gap1 * gap1 + _SOFT) - gap2 / np.sqrt(gap2 * gap2 + _SOFT)
                    total[x] += apart * apart / (_HALF + apart * apart)
        for x in range(width):
            total[x] *= np.float32(1 / (_PATCH_PX**2 - 1))


@njit(cache=True, nogil=True, fastmath=REORDERED_SUMS, error_model="numpy")
@no_type_check
def _sum_slopes(start, stop, grey1, grey2, gradient, of_grey2):
    """Each pair of neighbours acts on both, as the patch of either."""
    _, height, width = of_grey2.shape
    for line in range(start, stop):
        image, y = divmod(line, height)
        middle1, middle2 = _inner(grey1, image, y), _inner(grey2, image, y)
        wanted, total = _inner(gradient, image, y), of_grey2[image, y]
        total[:] = 0
        for k in range(_PATCH_PX**2):
            dy, dx = divmod(k, _PATCH_PX)
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
            total[x] *= np.float32(2 * HAMMING_SOFTNESS * CENSUS_SOFTNESS**2 / (_PATCH_PX**2 - 1))


def whole_patches(known: Bool[Tensor, "B H W"]) -> Bool[Tensor, "B H W"]:
    """Pixels whose whole patch is in the image and known."""
    missing = F.pad((~known).float(), (CENSUS_RADIUS_PX,) * 4, value=1.0)
    return F.max_pool2d(missing, 2 * CENSUS_RADIUS_PX + 1, stride=1) == 0
