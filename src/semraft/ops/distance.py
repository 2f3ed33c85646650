"""Truncated Euclidean distance transforms, exact, on any device: min-plus over rows, then over columns."""

import torch
from jaxtyping import Bool, Float, Int16, Int64
from torch import Tensor
from torch.nn import functional as F

from semraft.kernels.choice import has_cpu_kernel
from semraft.kernels.cpu import distance_numba
from semraft.sample import IGNORE_LABEL

MAX_RADIUS_PX = 127
"""Largest truncation: twice its square still fits in the 16-bit integers of the search."""
WINDOWS_BYTES = 2**29
"""Memory for the windows of `squared_by_windows`."""


@torch.no_grad()
def distance_to(mask: Bool[Tensor, "*N H W"], radius_px: int) -> Float[Tensor, "*N H W"]:
    """Distance of every pixel to the nearest True one, between centres, in pixels, at most `radius_px`.

    Exact (Felzenszwalb and Huttenlocher, 2012, with the search cut off where it cannot matter), float32.

    Raises:
        ValueError: A radius below 1 or above MAX_RADIUS_PX.
    """
    if not 1 <= radius_px <= MAX_RADIUS_PX:
        raise ValueError(f"radius_px is {radius_px}: expected 1 to {MAX_RADIUS_PX}")
    maps = mask.reshape(-1, *mask.shape[-2:])
    if has_cpu_kernel(maps):
        squared = distance_numba.squared_distances(maps, radius_px)
    else:
        at_once = max(WINDOWS_BYTES // (4 * radius_px * maps[:1].numel()), 1)
        squared = torch.cat([squared_by_windows(part, radius_px) for part in torch.split(maps, at_once)])
    return squared.view_as(mask).float().sqrt()


def squared_by_windows(mask: Bool[Tensor, "M H W"], radius_px: int) -> Int16[Tensor, "M H W"]:
    """Squared distances by few tensor operations, over all steps at once: for a GPU."""
    steps = torch.arange(1 - radius_px, radius_px, dtype=torch.int16, device=mask.device).square()
    squared = torch.full_like(mask, radius_px**2, dtype=torch.int16).masked_fill_(mask, 0)
    for axis, padding in ((-1, (radius_px - 1, radius_px - 1)), (-2, (0, 0, radius_px - 1, radius_px - 1))):
        windows = F.pad(squared, padding, value=radius_px**2).unfold(axis, len(steps), 1)
        squared = (windows + steps).amin(dim=-1)
    return squared


def distances_by_class(
    labels: Int64[Tensor, "B H W"], classes: Int64[Tensor, " K"], radius_px: int
) -> Float[Tensor, "B K H W"]:
    """Distance to the nearest pixel of each class, at most `radius_px`; 0 on the class."""
    return distance_to(_is_class(labels, classes), radius_px)


def distances_to_others(
    labels: Int64[Tensor, "B H W"], classes: Int64[Tensor, " K"], radius_px: int
) -> Float[Tensor, "B K H W"]:
    """Distance to the nearest pixel of any class but each, at most `radius_px`; 0 outside of the class.

    An ignored pixel is no other class: the edge of an ignored region is no border.
    """
    others = ~_is_class(labels, classes) & (labels != IGNORE_LABEL)[:, None]
    return distance_to(others, radius_px)


def signed_distances_by_class(
    labels: Int64[Tensor, "B H W"], classes: Int64[Tensor, " K"], radius_px: int
) -> Float[Tensor, "B K H W"]:
    """Signed distance to the border of each class: positive inside, between -radius and +radius.

    Inside, the distance to the nearest pixel of another class; outside, minus the distance to the nearest
    pixel of the class. The two sides of a border are at +1 and -1.
    """
    return distances_to_others(labels, classes, radius_px) - distances_by_class(labels, classes, radius_px)


def boundary_distance(segments: Int64[Tensor, "B H W"], radius_px: int) -> Float[Tensor, "B H W"]:
    """Distance to the nearest segment boundary, at most `radius_px`, in pixels.

    A boundary pixel has another label directly above, below, left or right of it: both sides of a boundary
    are 0, the next pixels 1. Ignored pixels and the edge of the image are no boundary.
    """
    boundary = torch.zeros_like(segments, dtype=torch.bool)
    for axis in (-1, -2):
        length = segments.shape[axis] - 1
        first, second = segments.narrow(axis, 0, length), segments.narrow(axis, 1, length)
        differs = (first != second) & (first != IGNORE_LABEL) & (second != IGNORE_LABEL)
        for start in (0, 1):
            side = boundary.narrow(axis, start, length)
            side |= differs
    return distance_to(boundary, radius_px)


def _is_class(labels: Int64[Tensor, "B H W"], classes: Int64[Tensor, " K"]) -> Bool[Tensor, "B K H W"]:
    return labels[:, None] == classes[:, None, None]
