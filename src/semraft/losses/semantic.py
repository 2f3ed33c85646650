"""Losses that know what a pixel shows: the semantic family of specs and notes, as functions on tensors."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.losses.reduction import Flows, Judged, refinement_means, refinement_sum
from semraft.ops.occlusion import same_label
from semraft.sample import IGNORE_LABEL


def semantic_smoothness_v1(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    valid: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """Within-class first-order smoothness, as the study had it: sum_t gamma^(N-t) mean_M a(F_t).

    a(p) adds the L1 norms of the backward differences along the row and the column of p, each counted if both
    of its pixels have one class in frame 1. M is where the ground truth is valid and both frames have the
    same class at the same coordinates: the study's stand-in for "not occluded", which it is not. Kept exactly
    so, that the study's divergence can be reproduced. `valid` is V (`trusted_pixels`); ignored labels never
    count; the first row and column have no backward difference and are left out.
    """
    mask = valid & ~same_label(labels1, labels2)
    return refinement_sum(semantic_smoothness_v1_values(flows, labels1, mask), gamma)


def semantic_smoothness_v1_values(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "*masks B H W"],
    mean: Literal["mask", "all"] = "mask",
) -> Float[Tensor, " T"]:
    """Semantic smoothness V1 at each refinement, before the weights.

    Args:
        mask: The pixels that count. With an axis in front, a sample counts once under each of its masks.
        mean: The sum is divided by the number of those that count, or of all (`"all"`).
    """
    here, left, above = labels1[:, 1:, 1:], labels1[:, 1:, :-1], labels1[:, :-1, 1:]
    mask = mask[..., 1:, 1:] & (here != IGNORE_LABEL)
    of_row, of_column, everything = here == left, here == above, torch.ones_like(mask)

    def judge(flows: Float[Tensor, "t B 2 H W"]) -> Judged:
        flow_here = flows[..., 1:, 1:]
        along_row = (flow_here - flows[..., 1:, :-1]).abs().sum(dim=2)
        along_column = (flow_here - flows[..., :-1, 1:]).abs().sum(dim=2)
        roughness = torch.where(of_row, along_row, 0) + torch.where(of_column, along_column, 0)
        if mask.ndim > 3:
            roughness = roughness[:, None].expand(-1, *mask.shape)
        return (roughness, mask) if mean == "mask" else (torch.where(mask, roughness, 0), everything)

    return refinement_means(judge, flows)
