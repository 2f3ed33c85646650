"""The soft census transform: differences of a patch's brightness that do not depend on its level."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from semraft.kernels.choice import has_cpu_kernel
from semraft.kernels.cpu import census_numba
from semraft.kernels.cpu.census_numba import (
    CENSUS_RADIUS_PX,
    CENSUS_SOFTNESS,
    HAMMING_SOFTNESS,
    PATCH_PX,
)

WINDOWS_BYTES = 2**30
"""Memory for one row of all patches: that of 12 x 6 images of 288 x 960 at once."""


def grey(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B H W"]:
    """Brightness of RGB (ITU-R BT.601), in the image's own range."""
    red, green, blue = image.unbind(1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def census_difference(
    grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "*T B H W"]
) -> Float[Tensor, "*T B H W"]:
    """Share of the 48 neighbours that are brighter or darker in one image but not in the other; 0 to 1, soft.

    Soft sign of a neighbour's brightness: t = d / sqrt(d^2 + 0.9^2) of the difference d, for grey of 0..255
    (constants of Jonschkowski et al., ECCV 2020). Difference of two images:
    (t1 - t2)^2 / (0.1 + (t1 - t2)^2), averaged over neighbours (Meister et al., AAAI 2018). Differentiable
    in the second image, of which there may be several for each first. The outermost three rows and columns
    have no whole patch and must not be read (`whole_patches`).
    """
    return _soft_hamming(grey1, grey2.reshape(-1, *grey1.shape)).view_as(grey2)


def whole_patches(known: Bool[Tensor, "*T B H W"]) -> Bool[Tensor, "*T B H W"]:
    """Pixels whose whole patch is in the image and known."""
    missing = F.pad((~known).float(), (CENSUS_RADIUS_PX,) * 4, value=1.0)
    return F.max_pool2d(missing, PATCH_PX, stride=1) == 0


class _CensusDifference(torch.autograd.Function):
    """Only the images are kept for the gradient: autograd would keep a hundred tensors of their size."""

    @staticmethod
    def forward(
        ctx: Any, grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "t B H W"]
    ) -> Float[Tensor, "t B H W"]:
        ctx.save_for_backward(grey1, grey2)
        if has_cpu_kernel(grey2):
            return census_numba.differences(grey1, grey2)
        return torch.cat([_differences(grey1, some) for some in torch.split(grey2, _at_once(grey1))])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "t B H W"]) -> tuple[None, Float[Tensor, "t B H W"]]:
        grey1, grey2 = ctx.saved_tensors
        if has_cpu_kernel(grey2):
            return None, census_numba.slopes(grey1, grey2, gradient)
        parts = zip(*(torch.split(images, _at_once(grey1)) for images in (grey2, gradient)), strict=True)
        return None, torch.cat([_slopes(grey1, *part) for part in parts])


_soft_hamming: Callable[..., Tensor] = _CensusDifference.apply


def _at_once(image: Float[Tensor, "B H W"]) -> int:
    """Number of images for one call of the tensor operations."""
    return max(WINDOWS_BYTES // (PATCH_PX * image.numel() * image.element_size()), 1)


def _differences(grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "t B H W"]) -> Float[Tensor, "t B H W"]:
    """`census_difference` by tensor operations, over one row of each patch at a time."""
    total = torch.zeros_like(grey2)
    for gap1, gap2 in zip(_gaps(grey1), _gaps(grey2), strict=True):
        apart = gap2.mul_(_steepness(gap2)).sub_(gap1.mul_(_steepness(gap1))).square_()
        total += apart.div_(apart + HAMMING_SOFTNESS).sum(dim=-1)
    return total.div_(PATCH_PX**2 - 1)


def _slopes(
    grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "t B H W"], gradient: Float[Tensor, "t B H W"]
) -> Float[Tensor, "t B H W"]:
    """The gradient in the second image: each pair of neighbours is in the patch of both."""
    total = torch.zeros_like(grey2)
    for gap1, gap2, asked in zip(_gaps(grey1), _gaps(grey2), _patch_rows(gradient), strict=True):
        steep = _steepness(gap2)
        apart = gap2.mul_(steep).sub_(gap1.mul_(_steepness(gap1)))
        above = apart.square().add_(HAMMING_SOFTNESS).square_()
        slope = steep.pow_(3).mul_(apart).div_(above)
        total -= slope.mul_(asked + gradient[..., None]).sum(dim=-1)
    return total.mul_(2 * HAMMING_SOFTNESS * CENSUS_SOFTNESS**2 / (PATCH_PX**2 - 1))


def _steepness(gap: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return gap.square().add_(CENSUS_SOFTNESS**2).rsqrt_()


def _gaps(grey: Float[Tensor, "*N H W"]) -> Iterator[Float[Tensor, "*N H W 7"]]:
    """Brightness of each pixel's patch minus its own, row after row."""
    return (row - grey[..., None] for row in _patch_rows(grey))


def _patch_rows(image: Float[Tensor, "*N H W"]) -> Iterator[Float[Tensor, "*N H W 7"]]:
    """Each pixel's patch, row after row; 0 beyond the edge."""
    windows = F.pad(image, (CENSUS_RADIUS_PX,) * 4).unfold(-1, PATCH_PX, 1)
    return (windows.narrow(-3, row, image.shape[-2]) for row in range(PATCH_PX))
