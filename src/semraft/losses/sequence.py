"""RAFT's sequence loss: the L1 distance to the ground truth at every refinement."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from semraft.losses.reduction import at_least_float32, masked_mean, refinement_sum

Normalize = Literal["valid", "all", "valid-broadcast"]
MAX_FLOW_PX = 400.0
"""Ground truth at least so long is not trained on (RAFT's own limit)."""


def trusted_pixels(
    flow_gt: Float[Tensor, "B 2 H W"], valid: Bool[Tensor, "B H W"], max_flow_px: float = MAX_FLOW_PX
) -> Bool[Tensor, "B H W"]:
    """The V of the definitions: valid in the file, finite, and shorter than `max_flow_px`."""
    # A comparison with NaN or infinity is False, so this is also the test for finite.
    return valid & (flow_gt.square().sum(dim=1) < max_flow_px**2)


def sequence_loss(
    flows: Sequence[Float[Tensor, "B 2 H W"]],
    flow_gt: Float[Tensor, "B 2 H W"],
    valid: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
    normalize: Normalize = "valid",
    max_flow_px: float = MAX_FLOW_PX,
) -> Float[Tensor, ""]:
    """sum_t gamma^(N-t) mean_V |F_t - F|_1, in pixels (Teed and Deng, ECCV 2020, equation 7).

    `normalize="all"` divides by B H W instead of by the number of valid pixels. RAFT's own code also divides
    by the two components: half of that. `normalize="valid-broadcast"`, the original study's repair, divides
    by the number of valid pixels the sum over every sample under every sample's mask, about B times as much:
    a pixel that is not valid in its own sample but in another has the target 0.
    """
    return refinement_sum(sequence_values(flows, flow_gt, valid, normalize, max_flow_px), gamma)


def sequence_values(
    flows: Sequence[Float[Tensor, "B 2 H W"]],
    flow_gt: Float[Tensor, "B 2 H W"],
    valid: Bool[Tensor, "B H W"],
    normalize: Normalize = "valid",
    max_flow_px: float = MAX_FLOW_PX,
) -> Float[Tensor, " T"]:
    """The sequence loss at each refinement, before the weights."""
    trusted = trusted_pixels(flow_gt, valid, max_flow_px)
    distances = flow_distances(flows, flow_gt, trusted)
    if normalize == "all":
        return torch.stack([torch.where(trusted, distance, 0).mean() for distance in distances])
    if normalize == "valid-broadcast":
        masks = trusted[:, None].expand(-1, *trusted.shape)  # Mask, sample, row, column.
        pairs = [masked_mean(distance.expand_as(masks), masks) for distance in distances]
        return len(trusted) * torch.stack(pairs)  # masked_mean divides by each mask once a sample.
    return torch.stack([masked_mean(distance, trusted) for distance in distances])


def flow_distances(
    flows: Sequence[Float[Tensor, "B 2 H W"]],
    target: Float[Tensor, "B 2 H W"],
    known: Bool[Tensor, "B H W"],
) -> list[Float[Tensor, "B H W"]]:
    """|F_t - F|_1 at each refinement, in pixels; what is not `known` of the target is not read."""
    read = at_least_float32(torch.where(known[:, None], target, 0))
    return [(at_least_float32(flow) - read).abs().sum(dim=1) for flow in flows]
