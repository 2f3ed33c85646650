"""Exact Euclidean distances, truncated, on any device: min-plus over rows, then over columns."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.sample import IGNORE_LABEL

MAX_RADIUS_PX = 127
"""Largest truncation: twice its square still fits in the 16-bit integers that the search runs in."""


@torch.no_grad()
def distance_to(mask: Bool[Tensor, "*N H W"], radius_px: int) -> Float[Tensor, "*N H W"]:
    """Distance of every pixel to the nearest True one, between centres, in pixels, at most `radius_px`.

    Exact (Felzenszwalb and Huttenlocher, 2012, with the search cut off where it cannot matter), float32.

    Raises:
        ValueError: A radius below 1 or above MAX_RADIUS_PX.
    """
    if not 1 <= radius_px <= MAX_RADIUS_PX:
        raise ValueError(f"radius_px is {radius_px}: expected 1 to {MAX_RADIUS_PX}")
    squared = torch.full_like(mask, radius_px**2, dtype=torch.int16).masked_fill_(mask, 0)
    for axis in (-1, -2):
        length = squared.shape[axis]
        nearest = squared.clone()
        for step in range(1, min(radius_px, length)):
            for here, there in ((0, step), (step, 0)):
                best = nearest.narrow(axis, here, length - step)
                further = squared.narrow(axis, there, length - step) + step**2
                torch.minimum(best, further, out=best)
        squared = nearest
    return squared.float().sqrt()


def distances_by_class(
    labels: Int64[Tensor, "B H W"], classes: Int64[Tensor, " K"], radius_px: int
) -> Float[Tensor, "B K H W"]:
    """For each class the distance to its nearest pixel, at most `radius_px`; 0 on it."""
    return distance_to(_is_class(labels, classes), radius_px)


def signed_distances_by_class(
    labels: Int64[Tensor, "B H W"], classes: Int64[Tensor, " K"], radius_px: int
) -> Float[Tensor, "B K H W"]:
    """For each class the signed distance to its border: positive inside, between -radius and +radius.

    Inside, the distance to the nearest pixel of another class; outside, minus the distance to the nearest
    pixel of it. So the two sides of a border are at +1 and -1. An ignored pixel is no other class: the edge
    of an ignored region is no border.
    """
    inside = _is_class(labels, classes)
    outside = ~inside & (labels != IGNORE_LABEL)[:, None]
    return distance_to(outside, radius_px) - distance_to(inside, radius_px)


def boundary_distance(segments: Int64[Tensor, "B H W"], radius_px: int) -> Float[Tensor, "B H W"]:
    """Distance to the nearest segment boundary, at most `radius_px`: `ops.segments.boundary_distance`, cut.

    Both sides of a boundary are 0; ignored pixels and the edge of the image are no boundary.
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
