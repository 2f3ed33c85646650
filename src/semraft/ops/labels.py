"""Segments of a label map: ids, ids that occur, and the largest connected segments."""

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from semraft.kernels.cpu.segments_numba import first_pixels
from semraft.ops.classes import THINGS
from semraft.sample import IGNORE_LABEL

INSTANCE_STEP = 256
"""A segment's id is its class plus this many times its instance, so that the class is the remainder."""


def segment_ids(
    labels: Int64[Tensor, "B H W"], instances: Int64[Tensor, "B H W"] | None = None
) -> Int64[Tensor, "B H W"]:
    """Segment id of each pixel: its class or, given instances, its class and, for things, its instance.

    Two neighbours are in one segment where their ids are equal and not IGNORE_LABEL. A class of stuff is one
    instance, whatever its values in `instances`.
    """
    if instances is None:
        return labels
    things = torch.isin(labels, torch.tensor(THINGS, device=labels.device))
    return labels + INSTANCE_STEP * torch.where(things, instances, 0)


def present(labels: Int64[Tensor, "B H W"]) -> tuple[Int64[Tensor, " K"], Int64[Tensor, "B H W"]]:
    """Ids that occur, ascending and without IGNORE_LABEL, and each pixel's index among them.

    The index of an ignored pixel is 0 and must not be read.
    """
    found = torch.unique(labels)
    found = found[found != IGNORE_LABEL]
    places = torch.searchsorted(found, labels.contiguous()).clamp(max=max(len(found) - 1, 0))
    return found, torch.where(labels == IGNORE_LABEL, 0, places)


def largest_segments(
    ids: Int64[np.ndarray, "H W"], min_pixels: int, max_segments: int
) -> tuple[Int32[np.ndarray, "H W"], Int64[np.ndarray, " S"]]:
    """Number of each pixel's connected segment (4 neighbours), the largest first, and the id of each segment.

    Pixels that are ignored, in a segment of fewer than `min_pixels`, or not in one of the `max_segments`
    largest, have segment -1.
    """
    first = np.empty(ids.size, np.int32)
    first_pixels(ids, IGNORE_LABEL, first)
    areas = np.bincount(first, minlength=ids.size)
    large = np.flatnonzero((areas >= min_pixels) & (ids.ravel() != IGNORE_LABEL))
    kept = large[np.lexsort((large, ids.ravel()[large], -areas[large]))][:max_segments]
    number_at = np.full(ids.size, -1, np.int32)
    number_at[kept] = np.arange(len(kept))
    return number_at[first].reshape(ids.shape), ids.ravel()[kept].astype(np.int64)
