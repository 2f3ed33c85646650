"""RAFT's sequence loss: the L1 distance to the ground truth at every refinement."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from semraft.losses.reduction import Flows, PixelValues, at_least_float32, refinement_means, refinement_sum
from semraft.sample import MAX_FLOW_PX, trusted_pixels

Normalize = Literal["valid", "all"]


def sequence_loss(
    flows: Flows,
    flow_gt: Float[Tensor, "B 2 H W"],
    valid: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
    normalize: Normalize = "valid",
    max_flow_px: float = MAX_FLOW_PX,
) -> Float[Tensor, ""]:
    """sum_t gamma^(N-t) mean_V |F_t - F|_1, in pixels (Teed and Deng, ECCV 2020, equation 7).

    `normalize="all"` divides by B H W instead of by the number of valid pixels. RAFT's own code also divides
    by the two components: half of that.
    """
    trusted = trusted_pixels(flow_gt, valid, max_flow_px)
    return refinement_sum(sequence_values(flows, flow_gt, trusted, normalize), gamma)


def sequence_values(
    flows: Flows,
    flow_gt: Float[Tensor, "B 2 H W"],
    trusted: Bool[Tensor, "B H W"],
    normalize: Normalize = "valid",
) -> Float[Tensor, " T"]:
    """The sequence loss at each refinement, before the weights; `trusted` is V (`trusted_pixels`)."""
    distance = distance_from(flow_gt, trusted)

    def pixel_loss(flows: Float[Tensor, "t B 2 H W"]) -> PixelValues:
        distances = distance(flows)
        if normalize == "all":
            return torch.where(trusted, distances, 0), torch.ones_like(trusted)
        return distances, trusted

    return refinement_means(pixel_loss, flows)


def distance_from(
    target: Float[Tensor, "B 2 H W"], known: Bool[Tensor, "B H W"]
) -> Callable[[Float[Tensor, "t B 2 H W"]], Float[Tensor, "t B H W"]]:
    """A function that gives |F_t - F|_1 in pixels; what is not `known` of the target F is not read."""
    read = at_least_float32(torch.where(known[:, None], target, 0))
    return lambda flows: (flows - read).abs().sum(dim=2)
