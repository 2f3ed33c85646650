"""Losses on differences of the flow inside segments: smoothness, and agreement with the true differences."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from semraft.losses.auxiliary_term import SEGMENTS, Term, TermInputs
from semraft.losses.reduction import (
    Flows,
    PixelLoss,
    PixelValues,
    at_least_float32,
    over_refinements,
    refinement_means,
)
from semraft.ops.occlusion import same_label
from semraft.sample import IGNORE_LABEL

CHARBONNIER_EPSILON = 1e-3
"""Size at which the Charbonnier penalty sqrt(x^2 + epsilon^2) turns from a parabola to a line, in pixels."""

Order = Literal[1, 2]
Penalty = Literal["l1", "charbonnier"]


def smoothness(
    flows: Flows,
    segments1: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    order: Order = 2,
    gamma: float = 0.8,
    penalty: Penalty = "l1",
) -> Float[Tensor, ""]:
    """Smoothness of the flow inside segments: sum_t gamma^(N-t) mean_M a(F_t).

    a(p) adds the penalties of both components' differences along the row and the column of p: first backward
    ones, F(p) - F(p - e), or second ones, F(p - e) - 2 F(p) + F(p + e) (UFlow, Jonschkowski et al., ECCV
    2020). A difference counts if all its pixels lie in one segment. Pixels without a difference along both
    axes - the first row and column, in order 2 the last too - are left out, as are ignored ones.

    Args:
        segments1: Ids of frame 1, equal and not 255 where neighbours are in one segment (`ops.labels`).
        mask: M, before the pixels that are left out.
    """
    return over_refinements(_roughness(segments1, mask, order, penalty), flows, gamma)


def semantic_smoothness_v1(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    valid: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """First-order smoothness inside classes, the study's version 1: sum_t gamma^(N-t) mean_M a(F_t).

    a(p) is that of `smoothness` of order 1 with L1. M is where the ground truth is valid (V,
    `trusted_pixels`) and both frames have the same class at the same coordinates: the study's substitute for
    an occlusion mask, which it is not. Kept exactly so, that the study's divergence can be reproduced.
    """
    return over_refinements(_roughness(labels1, valid & ~same_label(labels1, labels2), 1, "l1"), flows, gamma)


def gradient_matching(
    flows: Flows,
    flow_gt: Float[Tensor, "B 2 H W"],
    segments1: Int64[Tensor, "B H W"],
    valid: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """Backward differences of the flow against those of the truth: sum_t gamma^(N-t) mean_V |d F_t - d F|_1.

    Summed over both axes, inside segments, where both pixels are valid: without the bias of first-order
    smoothness towards constant flow. `valid` is V (`trusted_pixels`).
    """
    return over_refinements(_difference_error(flow_gt, segments1, valid), flows, gamma)


def _smoothness(inputs: TermInputs, *, order: Order = 2, penalty: Penalty = "l1") -> Float[Tensor, " T"]:
    return refinement_means(_roughness(inputs.segments1, inputs.acting, order, penalty), inputs.flows)


def _semantic_v1(inputs: TermInputs) -> Float[Tensor, " T"]:
    counted = inputs.acting & inputs.trusted
    return refinement_means(_roughness(inputs.labels1, counted, 1, "l1"), inputs.flows)


def _gradient_matching(inputs: TermInputs) -> Float[Tensor, " T"]:
    counted = inputs.acting & inputs.trusted
    return refinement_means(_difference_error(inputs.batch.flow, inputs.segments1, counted), inputs.flows)


SMOOTHNESS = Term(
    values=_smoothness,
    scalar="smoothness_loss",
    about="first or second differences of the flow inside segments",
    source="UFlow, Jonschkowski et al., ECCV 2020",
    needs=("labels1",),
    place=SEGMENTS,
)
SEMANTIC_V1 = Term(
    values=_semantic_v1,
    scalar="semantic_loss",
    about="first-order smoothness of the flow inside classes, the original study's loss (weight 0.5 there)",
    source="the study's notes",
    needs=("labels1",),
    place=("mask",),
    mask="same-label",
)
GRADIENT_MATCHING = Term(
    values=_gradient_matching,
    scalar="gradient_matching_loss",
    about="first differences of the flow against those of the truth, inside segments",
    source="Li and Snavely, CVPR 2018, for depth",
    needs=("labels1",),
    place=SEGMENTS,
)


def _difference_error(
    flow_gt: Float[Tensor, "B 2 H W"], segments1: Int64[Tensor, "B H W"], valid: Bool[Tensor, "B H W"]
) -> PixelLoss:
    """|d F_t - d F|_1: first-order smoothness of the error, since differences are linear."""
    target = at_least_float32(torch.where(valid[:, None], flow_gt, 0))
    roughness = _roughness(torch.where(valid, segments1, IGNORE_LABEL), valid, 1, "l1")
    return lambda flows: roughness(flows - target)


def _roughness(
    segments1: Int64[Tensor, "B H W"], mask: Bool[Tensor, "B H W"], order: Order, penalty: Penalty
) -> PixelLoss:
    """a(p) of `smoothness`."""
    counted = _inner(mask & (segments1 != IGNORE_LABEL), order)
    together = [_is_one_segment(segments1, axis, order) for axis in (0, 1)]
    size: Callable[[Tensor], Tensor] = _charbonnier if penalty == "charbonnier" else torch.abs

    def pixel_loss(field: Float[Tensor, "t B 2 H W"]) -> PixelValues:
        here = _inner(field, order)
        sizes = []
        for axis in (0, 1):
            before, after = _inner(field, order, axis, -1), _inner(field, order, axis, 1)
            difference = here - before if order == 1 else before - 2 * here + after
            sizes.append(torch.where(together[axis], size(difference).sum(dim=2), 0))
        return sizes[0] + sizes[1], counted

    return pixel_loss


def _charbonnier(difference: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return (difference.square() + CHARBONNIER_EPSILON**2).sqrt()


def _is_one_segment(segments: Int64[Tensor, "B H W"], axis: int, order: Order) -> Bool[Tensor, "B h w"]:
    here = _inner(segments, order)
    together = here == _inner(segments, order, axis, -1)
    return together if order == 1 else together & (here == _inner(segments, order, axis, 1))


def _inner(
    field: Shaped[Tensor, "*N H W"], order: Order, axis: int = 0, shift: int = 0
) -> Shaped[Tensor, "*N h w"]:
    """The pixels with a difference along both axes, moved by `shift` rows (axis 0) or columns (axis 1)."""
    height, width = field.shape[-2:]
    down, right = (shift, 0) if axis == 0 else (0, shift)
    return field[..., 1 + down : height + 1 - order + down, 1 + right : width + 1 - order + right]
