"""Labels as tensors: which pixels belong together, and which classes there are."""

import torch
from jaxtyping import Int64
from torch import Tensor

from semraft.ops.classes import THINGS
from semraft.sample import IGNORE_LABEL

INSTANCE_STEP = 256
"""A segment's id is its class plus this many times its instance, so that the class is the remainder."""


def segment_ids(
    labels: Int64[Tensor, "B H W"], instances: Int64[Tensor, "B H W"] | None = None
) -> Int64[Tensor, "B H W"]:
    """What a pixel belongs to: its class or, given instances, its class and, for things, its instance.

    Two neighbours are in one segment where their ids are equal and not IGNORE_LABEL. A class of stuff is one
    instance, whatever `instances` says of it.
    """
    if instances is None:
        return labels
    things = torch.isin(labels, torch.tensor(THINGS, device=labels.device))
    return labels + INSTANCE_STEP * torch.where(things, instances, 0)


def present(labels: Int64[Tensor, "B H W"]) -> tuple[Int64[Tensor, " K"], Int64[Tensor, "B H W"]]:
    """The ids that occur, in ascending order and without IGNORE_LABEL, and each pixel's place among them.

    The place of an ignored pixel is 0 and must not be read.
    """
    found = torch.unique(labels)
    found = found[found != IGNORE_LABEL]
    places = torch.searchsorted(found, labels.contiguous()).clamp(max=max(len(found) - 1, 0))
    return found, torch.where(labels == IGNORE_LABEL, 0, places)
