"""The soft census transform: what a patch looks like, whatever its brightness."""

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


def census_difference(grey1: Float[Tensor, "B H W"], grey2: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Share of the 48 neighbours that are brighter or darker in one image but not in the other; 0 to 1, soft.

    With t = d / sqrt(d^2 + 0.9^2) of the difference d to a neighbour, (t1 - t2)^2 / (0.1 + (t1 - t2)^2),
    averaged (Meister et al., AAAI 2018; constants of Jonschkowski et al., ECCV 2020). Grey is 0..255. The
    outermost three rows and columns have no whole patch and must not be read (`whole_patches`).
    """
    radius = CENSUS_RADIUS_PX
    height, width = grey1.shape[-2:]
    padded = [F.pad(grey, (radius, radius, 0, radius)) for grey in (grey1, grey2)]
    total = torch.zeros_like(grey1)
    for dy, dx in _OFFSETS:
        signs = []
        for image, around in zip((grey1, grey2), padded, strict=True):
            gap = around[..., dy : dy + height, radius + dx : radius + dx + width] - image
            signs.append(gap * torch.rsqrt(gap.square() + CENSUS_SOFTNESS**2))
        apart = (signs[0] - signs[1]).square()
        differs = apart / (HAMMING_SOFTNESS + apart)
        from_other = F.pad(differs, (max(dx, 0), max(-dx, 0), dy, 0))
        total = total + differs + from_other[..., :height, max(-dx, 0) : max(-dx, 0) + width]
    return total / (2 * len(_OFFSETS))


def whole_patches(known: Bool[Tensor, "B H W"]) -> Bool[Tensor, "B H W"]:
    """Pixels whose whole patch is in the image and known."""
    size = 2 * CENSUS_RADIUS_PX + 1
    missing = F.pad((~known).float(), (CENSUS_RADIUS_PX,) * 4, value=1.0)
    return F.max_pool2d(missing, size, stride=1) == 0
