"""The soft census transform: what a patch looks like, whatever its brightness."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

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


def soft_census(grey: Float[Tensor, "B H W"]) -> Float[Tensor, "O B H W"]:
    """How much brighter (up to 1) or darker (down to -1) half of each pixel's 48 neighbours are than it.

    d / sqrt(d^2 + 0.9^2) of the difference d, for grey of 0..255 (constants of Jonschkowski et al., ECCV
    2020); the other half says the same, turned around. Beyond the image is 0.
    """
    return torch.stack([_brighter(grey, padded, offset) for padded, offset in _neighbours(grey)])


def census_difference(
    census1: Float[Tensor, "O B H W"], grey2: Float[Tensor, "B H W"]
) -> Float[Tensor, "B H W"]:
    """Share of the 48 neighbours that are brighter or darker in one image but not in the other; 0 to 1, soft.

    (t1 - t2)^2 / (0.1 + (t1 - t2)^2) of the soft census of frame 1 and that of another image, averaged
    (Meister et al., AAAI 2018). The outermost three rows and columns have no whole patch and must not be read
    (`whole_patches`).
    """
    height, width = grey2.shape[-2:]
    total = torch.zeros_like(grey2)
    for brighter1, (padded, (dy, dx)) in zip(census1, _neighbours(grey2), strict=True):
        apart = (brighter1 - _brighter(grey2, padded, (dy, dx))).square()
        differs = apart / (HAMMING_SOFTNESS + apart)
        from_other = F.pad(differs, (max(dx, 0), max(-dx, 0), dy, 0))
        total = total + differs + from_other[..., :height, max(-dx, 0) : max(-dx, 0) + width]
    return total / (2 * len(_OFFSETS))


def _neighbours(
    grey: Float[Tensor, "B H W"],
) -> Iterator[tuple[Float[Tensor, "B Y X"], tuple[int, int]]]:
    """The padded image with each of the offsets."""
    padded = F.pad(grey, (CENSUS_RADIUS_PX, CENSUS_RADIUS_PX, 0, CENSUS_RADIUS_PX))
    return ((padded, offset) for offset in _OFFSETS)


def _brighter(
    grey: Float[Tensor, "B H W"], padded: Float[Tensor, "B Y X"], offset: tuple[int, int]
) -> Float[Tensor, "B H W"]:
    height, width = grey.shape[-2:]
    top, left = offset[0], CENSUS_RADIUS_PX + offset[1]
    gap = padded[..., top : top + height, left : left + width] - grey
    return gap * torch.rsqrt(gap.square() + CENSUS_SOFTNESS**2)


def whole_patches(known: Bool[Tensor, "B H W"]) -> Bool[Tensor, "B H W"]:
    """Pixels whose whole patch is in the image and known."""
    size = 2 * CENSUS_RADIUS_PX + 1
    missing = F.pad((~known).float(), (CENSUS_RADIUS_PX,) * 4, value=1.0)
    return F.max_pool2d(missing, size, stride=1) == 0
