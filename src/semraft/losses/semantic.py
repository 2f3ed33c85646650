"""Losses that know what a pixel shows: the semantic family of specs and notes, as functions on tensors."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.losses.reduction import masked_mean, refinement_sum
from semraft.sample import IGNORE_LABEL


def semantic_smoothness_v1(
    flows: Sequence[Float[Tensor, "B 2 H W"]],
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
    return refinement_sum(semantic_smoothness_v1_values(flows, labels1, labels2, valid), gamma)


def semantic_smoothness_v1_values(
    flows: Sequence[Float[Tensor, "B 2 H W"]],
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    valid: Bool[Tensor, "B H W"],
) -> Float[Tensor, " T"]:
    """Semantic smoothness V1 at each refinement, before the weights."""
    here, left, above = labels1[:, 1:, 1:], labels1[:, 1:, :-1], labels1[:, :-1, 1:]
    mask = valid[:, 1:, 1:] & (here == labels2[:, 1:, 1:]) & (here != IGNORE_LABEL)
    values = []
    for flow in flows:
        flow_here = flow[:, :, 1:, 1:].float()
        along_row = (flow_here - flow[:, :, 1:, :-1]).abs().sum(dim=1)
        along_column = (flow_here - flow[:, :, :-1, 1:]).abs().sum(dim=1)
        roughness = torch.where(here == left, along_row, 0) + torch.where(here == above, along_column, 0)
        values.append(masked_mean(roughness, mask))
    return torch.stack(values)
