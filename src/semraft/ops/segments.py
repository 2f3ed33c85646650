"""Where one label ends and another begins, on arrays."""

from typing import no_type_check

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8
from numba import njit

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
    first = np.empty(ids.size, np.int32)
    _join(ids, IGNORE_LABEL, first)
    areas = np.bincount(first, minlength=ids.size)
    large = np.flatnonzero((areas >= min_pixels) & (ids.ravel() != IGNORE_LABEL))
    kept = large[np.lexsort((large, ids.ravel()[large], -areas[large]))][:max_segments]
    number_at = np.full(ids.size, -1, np.int32)
    number_at[kept] = np.arange(len(kept))
    return number_at[first].reshape(ids.shape), ids.ravel()[kept].astype(np.int64)


@njit(cache=True, nogil=True)
@no_type_check
def _join(ids, ignore, first):
    """For each pixel the first one of its segment, row after row; an ignored one is its own.

    A forest (Galler and Fischer, 1964) whose parents come before their children: where a pixel and the one
    above it belong together, so do their roots, and when all are joined one step in order leads to the root.
    """
    height, width = ids.shape
    for y in range(height):
        for x in range(width):
            here = y * width + x
            first[here] = here
            if ids[y, x] == ignore:
                continue
            if x > 0 and ids[y, x - 1] == ids[y, x]:
                first[here] = first[here - 1]
            if y > 0 and ids[y - 1, x] == ids[y, x]:
                one, other = _root(first, here), _root(first, here - width)
                first[max(one, other)] = min(one, other)
                first[here] = min(one, other)
    for here in range(first.size):
        first[here] = first[first[here]]


@njit(cache=True, nogil=True)
@no_type_check
def _root(first, here):
    while first[here] != here:
        first[here] = first[first[here]]
        here = first[here]
    return here
