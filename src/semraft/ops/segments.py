"""Where one label ends and another begins, on arrays."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from semraft.sample import IGNORE_LABEL


def boundary_distance(
    labels: UInt8[np.ndarray, "H W"] | Int32[np.ndarray, "H W"], ignore: int | None = IGNORE_LABEL
) -> Float32[np.ndarray, "H W"]:
    """Distance of every pixel to the nearest label boundary, in pixels.

    A boundary pixel is one with another label directly above, below, left or right of it, so both sides of a
    boundary are 0, the next pixels 1. Distances are Euclidean, between pixel centres. The edge of an ignored
    region is no boundary, nor is the edge of the image. Without any boundary the distance is infinite.

    Args:
        labels: Class or instance ids.
        ignore: The id without meaning; None where every id counts (instances).
    """
    boundary = boundary_pixels(labels, ignore)
    if not boundary.any():
        return np.full(labels.shape, np.inf, np.float32)
    distance = cv2.distanceTransform((~boundary).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, np.float32)


def boundary_pixels(
    labels: UInt8[np.ndarray, "H W"] | Int32[np.ndarray, "H W"], ignore: int | None = IGNORE_LABEL
) -> Bool[np.ndarray, "H W"]:
    """Pixels with another label, not ignored, directly above, below, left or right of them."""
    boundary = np.zeros(labels.shape, bool)
    for first, second in ((np.s_[:-1, :], np.s_[1:, :]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = labels[first] != labels[second]
        if ignore is not None:
            differs &= (labels[first] != ignore) & (labels[second] != ignore)
        boundary[first] |= differs
        boundary[second] |= differs
    return boundary


def largest_segments(
    ids: Int64[np.ndarray, "H W"], min_pixels: int, max_segments: int
) -> tuple[Int32[np.ndarray, "H W"], Int64[np.ndarray, " S"]]:
    """Connected pixels (4 neighbours) of one id, the largest first: each pixel's segment, each one's id.

    Pixels that are ignored, in a segment of fewer than `min_pixels`, or not in one of the `max_segments`
    largest, have segment -1.
    """
    found = []
    for value in np.unique(ids[ids != IGNORE_LABEL]):
        same = (ids == value).view(np.uint8)
        count, parts, stats, _ = cv2.connectedComponentsWithStats(same, connectivity=4)
        areas = stats[1:count, cv2.CC_STAT_AREA]
        found += [
            (int(area), value, parts == part) for part, area in enumerate(areas, 1) if area >= min_pixels
        ]
    kept = sorted(found, key=lambda segment: -segment[0])[:max_segments]
    numbers = np.full(ids.shape, -1, np.int32)
    for number, (_, _, pixels) in enumerate(kept):
        numbers[pixels] = number
    return numbers, np.array([value for _, value, _ in kept], np.int64)
