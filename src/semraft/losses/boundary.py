"""Boundary weight: the sequence loss, weighted towards segment boundaries."""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.losses.auxiliary_term import SEGMENTS, Term, TermInputs
from semraft.losses.reduction import Flows, PixelLoss, over_refinements, refinement_means
from semraft.losses.sequence import distance_from
from semraft.ops.distance import MAX_RADIUS_PX, boundary_distance

BOUNDARY_GAIN = 2.0
"""k: additional weight of an error at a boundary."""
BOUNDARY_FALLOFF_PX = 8.0
"""s: distance over which the additional weight falls to 1/e."""


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

    d is the distance to the nearest segment boundary, with both sides of it at 0. It is cut at 8 s, 127 px at
    most: for the default s the weight beyond is within 0.0004 k of the definition. `valid` is V
    (`trusted_pixels`).
    """
    return over_refinements(_weighted_error(flow_gt, segments1, valid, gain, falloff_px), flows, gamma)


def _boundary_weight(
    inputs: TermInputs, *, gain: float = BOUNDARY_GAIN, falloff_px: float = BOUNDARY_FALLOFF_PX
) -> Float[Tensor, " T"]:
    counted = inputs.acting & inputs.trusted
    error = _weighted_error(inputs.batch.flow, inputs.segments1, counted, gain, falloff_px)
    return refinement_means(error, inputs.flows)


BOUNDARY_WEIGHT = Term(
    values=_boundary_weight,
    scalar="boundary_weight_loss",
    about="the flow loss once more, heavier near segment boundaries",
    source="the study's notes",
    needs=("labels1",),
    place=SEGMENTS,
)


def _weighted_error(
    flow_gt: Float[Tensor, "B 2 H W"],
    segments1: Int64[Tensor, "B H W"],
    valid: Bool[Tensor, "B H W"],
    gain: float,
    falloff_px: float,
) -> PixelLoss:
    boundary_px = boundary_distance(segments1, min(math.ceil(8 * falloff_px), MAX_RADIUS_PX))
    weight = 1 + gain * torch.exp(-boundary_px / falloff_px)
    distance = distance_from(flow_gt, valid)
    return lambda flows: (weight * distance(flows), valid)
