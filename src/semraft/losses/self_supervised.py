"""Self-supervised losses: zero flow of identical frames, and flow of a transformed pair.

After Jeong et al., "Imposing Consistency for Optical Flow Estimation", CVPR 2022.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from semraft.losses.auxiliary_term import PLACE, Term, TermInputs, required
from semraft.losses.reduction import (
    Flows,
    PixelLoss,
    at_least_float32,
    in_turn,
    over_refinements,
    quickest,
    refinement_means,
    refinement_sum,
)
from semraft.losses.sequence import distance_from
from semraft.ops.crops import view_flow, view_mask


def zero_forcing(
    flows: Flows,
    occlusion: Float[Tensor, "B H W"] | None = None,
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """|F_t|_1 of an identical pair plus the cross-entropy of "visible": its flow and occlusion are zero.

    Args:
        flows: The predictions for a frame and itself, in pixels.
        occlusion: The occlusion logits for that pair; None without an occlusion head.
    """
    return refinement_sum(_zero_error(flows, occlusion), gamma)


def transform_consistency(
    flows: Flows,
    transformed_flow: Float[Tensor, "B 2 H W"],
    mask: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """The flow of a transformed pair is the transformed flow: mean_M |F_t - T(F)|_1, T(F) held fixed.

    Args:
        flows: The predictions for the transformed pair, in its pixels.
        transformed_flow: The prediction for the plain pair, transformed; no gradient passes.
        mask: Pixels of the transformed flow to learn from.
    """
    return over_refinements(_error(transformed_flow, mask), flows, gamma)


def _zero_forcing(inputs: TermInputs) -> Float[Tensor, " T"]:
    still = required(inputs.prediction.still)
    return _zero_error(quickest(still.flows), still.occlusion)


def _transform_consistency(inputs: TermInputs) -> Float[Tensor, " T"]:
    view, flows = required(inputs.prediction.viewed)
    target = view_flow(at_least_float32(inputs.prediction.flow.detach()), view)
    return refinement_means(_error(target, view_mask(inputs.acting, view)), quickest(flows))


ZERO_FORCING = Term(
    values=_zero_forcing,
    scalar="zero_forcing_loss",
    about="zero flow, and with an occlusion head zero occlusion, for an identical pair",
    source="Jeong et al., CVPR 2022",
    heads=("still",),
    acts_on="further pass",
)
TRANSFORM_CONSISTENCY = Term(
    values=_transform_consistency,
    scalar="transform_consistency_loss",
    about="the flow of a mirrored, scaled crop of the pair against the pair's flow, mirrored and scaled",
    source="Jeong et al., CVPR 2022",
    heads=("viewed",),
    place=PLACE,
    acts_on="further pass",
)


def _zero_error(flows: Flows, occlusion: Float[Tensor, "B H W"] | None) -> Float[Tensor, " T"]:
    """Zero forcing at each refinement; the occlusion logits belong to the last."""
    values = torch.cat([some.abs().sum(dim=2).mean(dim=(1, 2, 3)) for some in in_turn(flows)])
    if occlusion is None:
        return values
    visible = F.softplus(at_least_float32(occlusion)).mean().to(values.dtype)
    return torch.cat([values[:-1], (values[-1] + visible)[None]])


def _error(target: Float[Tensor, "B 2 H W"], mask: Bool[Tensor, "B H W"]) -> PixelLoss:
    distance = distance_from(target.detach(), mask)
    return lambda flows: (distance(flows), mask)
