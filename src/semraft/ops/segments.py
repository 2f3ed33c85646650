"""Where one label ends and another begins, on arrays."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

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
