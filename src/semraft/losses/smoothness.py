"""Losses on the differences of the flow inside segments: how smooth it is, and whether as the truth is."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from semraft.losses.reduction import Flows, Judged, at_least_float32, refinement_means, refinement_sum
from semraft.sample import IGNORE_LABEL

CHARBONNIER_EPSILON = 1e-3
"""Where the Charbonnier penalty sqrt(x^2 + epsilon^2) turns from a parabola to a line, in pixels."""

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
        mask: M, before the above.
    """
    return refinement_sum(smoothness_values(flows, segments1, mask, order, penalty), gamma)


def smoothness_values(
    flows: Flows,
    segments1: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    order: Order = 2,
    penalty: Penalty = "l1",
) -> Float[Tensor, " T"]:
    """Smoothness at each refinement, before the weights."""
    return refinement_means(_roughness(segments1, mask, order, penalty), flows)


def gradient_matching(
    flows: Flows,
    flow_gt: Float[Tensor, "B 2 H W"],
    segments1: Int64[Tensor, "B H W"],
    valid: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """Backward differences of the flow against those of the truth: sum_t gamma^(N-t) mean_V |d F_t - d F|_1.

    Summed over both axes, inside segments, where both pixels are valid: the bias of first-order smoothness
    taken out. `valid` is V (`trusted_pixels`).
    """
    return refinement_sum(gradient_matching_values(flows, flow_gt, segments1, valid), gamma)


def gradient_matching_values(
    flows: Flows,
    flow_gt: Float[Tensor, "B 2 H W"],
    segments1: Int64[Tensor, "B H W"],
    valid: Bool[Tensor, "B H W"],
) -> Float[Tensor, " T"]:
    """Gradient matching at each refinement, before the weights."""
    # Differences are linear: this is the first-order smoothness of the error over what is known of it.
    target = at_least_float32(torch.where(valid[:, None], flow_gt, 0))
    roughness = _roughness(torch.where(valid, segments1, IGNORE_LABEL), valid, 1, "l1")
    return refinement_means(lambda flows: roughness(flows - target), flows)


def _roughness(
    segments1: Int64[Tensor, "B H W"], mask: Bool[Tensor, "B H W"], order: Order, penalty: Penalty
) -> Callable[[Float[Tensor, "t B 2 H W"]], Judged]:
    """A function that gives a(p), and where it counts."""
    counted = _inner(mask & (segments1 != IGNORE_LABEL), order)
    together = [_is_one_segment(segments1, axis, order) for axis in (0, 1)]

    def judge(field: Float[Tensor, "t B 2 H W"]) -> Judged:
        sizes = []
        for axis in (0, 1):
            difference = _difference(field, axis, order)
            size = _charbonnier(difference) if penalty == "charbonnier" else difference.abs()
            sizes.append(torch.where(together[axis], size.sum(dim=2), 0))
        return sizes[0] + sizes[1], counted

    return judge


def _charbonnier(difference: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return (difference.square() + CHARBONNIER_EPSILON**2).sqrt()


def _difference(field: Float[Tensor, "*N H W"], axis: int, order: Order) -> Float[Tensor, "*N h w"]:
    here, before = _inner(field, order), _inner(field, order, axis, -1)
    return here - before if order == 1 else before - 2 * here + _inner(field, order, axis, 1)


def _is_one_segment(segments: Int64[Tensor, "B H W"], axis: int, order: Order) -> Bool[Tensor, "B h w"]:
    here = _inner(segments, order)
    together = here == _inner(segments, order, axis, -1)
    return together if order == 1 else together & (here == _inner(segments, order, axis, 1))


def _inner(
    field: Shaped[Tensor, "*N H W"], order: Order, axis: int = 0, shift: int = 0
) -> Shaped[Tensor, "*N h w"]:
    """Pixels with a difference along both axes, or what lies `shift` rows (axis 0) or columns from them."""
    height, width = field.shape[-2:]
    down, right = (shift, 0) if axis == 0 else (0, shift)
    return field[..., 1 + down : height + 1 - order + down, 1 + right : width + 1 - order + right]
