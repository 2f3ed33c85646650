"""The sequence loss, weighted towards segment boundaries."""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.losses.reduction import Flows, refinement_means, refinement_sum
from semraft.losses.sequence import distance_from
from semraft.ops.distance import MAX_RADIUS_PX, boundary_distance

BOUNDARY_GAIN = 2.0
"""k: how much more an error at a boundary weighs."""
BOUNDARY_FALLOFF_PX = 8.0
"""s: the distance over which that falls to 1/e."""


def boundary_weight(
    flows: Flows,
    flow_gt: Float[Tensor, "B 2 H W"],
    segments1: Int64[Tensor, "B H W"],
    valid: Bool[Tensor, "B H W"],
    gain: float = BOUNDARY_GAIN,
    falloff_px: float = BOUNDARY_FALLOFF_PX,
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """The sequence loss with weights: sum_t gamma^(N-t) mean_V (1 + k exp(-d/s)) |F_t - F|_1, in pixels.

    d is the distance to the nearest segment boundary, whose both sides are at 0. It is cut at 8 s, 127 px at
    most: beyond, the weight stays where it is, for the default s within 0.0004 k of the definition. `valid`
    is V (`trusted_pixels`).
    """
    return refinement_sum(boundary_weight_values(flows, flow_gt, segments1, valid, gain, falloff_px), gamma)


def boundary_weight_values(
    flows: Flows,
    flow_gt: Float[Tensor, "B 2 H W"],
    segments1: Int64[Tensor, "B H W"],
    valid: Bool[Tensor, "B H W"],
    gain: float = BOUNDARY_GAIN,
    falloff_px: float = BOUNDARY_FALLOFF_PX,
) -> Float[Tensor, " T"]:
    """The boundary-weighted sequence loss at each refinement, before the weights."""
    boundary_px = boundary_distance(segments1, min(math.ceil(8 * falloff_px), MAX_RADIUS_PX))
    weight = 1 + gain * torch.exp(-boundary_px / falloff_px)
    distance = distance_from(flow_gt, valid)
    return refinement_means(lambda flows: (weight * distance(flows), valid), flows)
