"""The soft census transform: what a patch looks like, whatever its brightness."""

from collections.abc import Callable, Iterator
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from semraft.kernels.cpu.threads import REORDERED_SUMS, in_threads

CENSUS_RADIUS_PX = 3
"""A patch is 7 x 7 pixels."""
_PATCH_PX = 2 * CENSUS_RADIUS_PX + 1
CENSUS_SOFTNESS = 0.9
"""Difference of grey (0..255) that counts as half-way to "brighter": d / sqrt(d^2 + softness^2)."""
HAMMING_SOFTNESS = 0.1
"""Squared difference of two soft signs at which they count as half different."""
WINDOWS_BYTES = 2**30
"""What a row of all patches may take in memory: that of 12 x 6 images of 288 x 960, judged at once."""


def grey(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B H W"]:
    """Brightness of RGB (ITU-R BT.601), in the image's own range."""
    red, green, blue = image.unbind(1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def census_difference(
    grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "*T B H W"]
) -> Float[Tensor, "*T B H W"]:
    """Share of the 48 neighbours that are brighter or darker in one image but not in the other; 0 to 1, soft.

    How much brighter (1) or darker (-1) a neighbour is: t = d / sqrt(d^2 + 0.9^2) of the difference d, for
    grey of 0..255 (constants of Jonschkowski et al., ECCV 2020). How much two images differ there:
    (t1 - t2)^2 / (0.1 + (t1 - t2)^2), averaged over neighbours (Meister et al., AAAI 2018). Differentiable
    in the second image, of which there may be several for each first. The outermost three rows and columns
    have no whole patch and must not be read (`whole_patches`).
    """
    return _soft_hamming(grey1, grey2.reshape(-1, *grey1.shape)).view_as(grey2)


class _CensusDifference(torch.autograd.Function):
    """Nothing is kept for the gradient but the images: it would be a hundred of each."""

    @staticmethod
    def forward(
        ctx: Any, grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "t B H W"]
    ) -> Float[Tensor, "t B H W"]:
        ctx.save_for_backward(grey1, grey2)
        if not _is_compiled(grey2):
            return torch.cat([_differences(grey1, some) for some in torch.split(grey2, _at_once(grey1))])
        difference = torch.empty_like(grey2)
        for one, result in zip(grey2, difference, strict=True):
            _by_rows(_sum_differences, grey1, one, result)
        return difference

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "t B H W"]) -> tuple[None, Float[Tensor, "t B H W"]]:
        grey1, grey2 = ctx.saved_tensors
        if not _is_compiled(grey2):
            parts = zip(*(torch.split(images, _at_once(grey1)) for images in (grey2, gradient)), strict=True)
            return None, torch.cat([_slopes(grey1, *part) for part in parts])
        of_grey2 = torch.empty_like(grey2)
        for one, wanted, result in zip(grey2, gradient, of_grey2, strict=True):
            _by_rows(_sum_slopes, grey1, one, wanted, result)
        return None, of_grey2


_soft_hamming: Callable[..., Tensor] = _CensusDifference.apply


def _is_compiled(images: Tensor) -> bool:
    return images.device.type == "cpu" and images.dtype == torch.float32


def _at_once(image: Float[Tensor, "B H W"]) -> int:
    """How many images are compared at once by tensor operations."""
    return max(WINDOWS_BYTES // (_PATCH_PX * image.numel() * image.element_size()), 1)


def _differences(grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "t B H W"]) -> Float[Tensor, "t B H W"]:
    """By tensor operations, on a row of each patch at a time."""
    total = torch.zeros_like(grey2)
    for gap1, gap2 in zip(_gaps(grey1), _gaps(grey2), strict=True):
        apart = gap2.mul_(_steepness(gap2)).sub_(gap1.mul_(_steepness(gap1))).square_()
        total += apart.div_(apart + HAMMING_SOFTNESS).sum(dim=-1)
    return total.div_(_PATCH_PX**2 - 1)


def _slopes(
    grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "t B H W"], gradient: Float[Tensor, "t B H W"]
) -> Float[Tensor, "t B H W"]:
    """The gradient in the second image. Each pair of neighbours acts on both, as the patch of either."""
    total = torch.zeros_like(grey2)
    for gap1, gap2, asked in zip(_gaps(grey1), _gaps(grey2), _patch_rows(gradient), strict=True):
        steep = _steepness(gap2)
        apart = gap2.mul_(steep).sub_(gap1.mul_(_steepness(gap1)))
        above = apart.square().add_(HAMMING_SOFTNESS).square_()
        slope = steep.pow_(3).mul_(apart).div_(above)
        total -= slope.mul_(asked + gradient[..., None]).sum(dim=-1)
    return total.mul_(2 * HAMMING_SOFTNESS * CENSUS_SOFTNESS**2 / (_PATCH_PX**2 - 1))


def _steepness(gap: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return gap.square().add_(CENSUS_SOFTNESS**2).rsqrt_()


def _gaps(grey: Float[Tensor, "*N H W"]) -> Iterator[Float[Tensor, "*N H W 7"]]:
    """How much brighter a row of each pixel's patch is than itself, for one row after another."""
    return (row - grey[..., None] for row in _patch_rows(grey))


def _patch_rows(image: Float[Tensor, "*N H W"]) -> Iterator[Float[Tensor, "*N H W 7"]]:
    """A row of each pixel's patch, one after another; 0 beyond the edge."""
    windows = F.pad(image, (CENSUS_RADIUS_PX,) * 4).unfold(-1, _PATCH_PX, 1)
    return (windows.narrow(-3, row, image.shape[-2]) for row in range(_PATCH_PX))


def _by_rows(kernel: Callable[..., None], *images: Float[Tensor, "B H W"]) -> None:
    """Calls a kernel with images that have a border of zeros, and the last, its result, that has none."""
    *read, result = (image.detach() for image in images)
    padded = [F.pad(image, (CENSUS_RADIUS_PX,) * 4).numpy() for image in read]
    in_threads(kernel, result.shape[0] * result.shape[1], *padded, result.numpy())


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


def whole_patches(known: Bool[Tensor, "*T B H W"]) -> Bool[Tensor, "*T B H W"]:
    """Pixels whose whole patch is in the image and known."""
    missing = F.pad((~known).float(), (CENSUS_RADIUS_PX,) * 4, value=1.0)
    return F.max_pool2d(missing, 2 * CENSUS_RADIUS_PX + 1, stride=1) == 0
