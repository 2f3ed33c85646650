"""What must hold of any flow network without a label: still pictures, transformed pictures.

After Jeong et al., "Imposing Consistency for Optical Flow Estimation", CVPR 2022.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from semraft.losses.reduction import Flows, at_least_float32, in_turn, refinement_means, refinement_sum
from semraft.losses.sequence import distance_from


def zero_forcing(
    flows: Flows,
    occlusion: Float[Tensor, "B H W"] | None = None,
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """Two identical frames have no flow and no occlusion: |F_t|_1 plus the cross-entropy of "visible".

    Args:
        flows: What the network says of a frame and itself, in pixels.
        occlusion: Its occlusion logits for that; None without such a head.
    """
    return refinement_sum(zero_forcing_values(flows, occlusion), gamma)


def zero_forcing_values(flows: Flows, occlusion: Float[Tensor, "B H W"] | None = None) -> Float[Tensor, " T"]:
    """Zero forcing at each refinement, before the weights; the occlusion logits belong to the last."""
    values = torch.cat([some.abs().sum(dim=2).mean(dim=(1, 2, 3)) for some in in_turn(flows)])
    if occlusion is None:
        return values
    visible = F.softplus(at_least_float32(occlusion)).mean().to(values.dtype)
    return torch.cat([values[:-1], (values[-1] + visible)[None]])


def transform_consistency(
    flows: Flows,
    transformed_flow: Float[Tensor, "B 2 H W"],
    mask: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """The flow of a transformed pair is the transformed flow: mean_M |F_t - T(F)|_1, T(F) held fixed.

    Args:
        flows: What the network says of the transformed pair, in its pixels.
        transformed_flow: What it says of the plain pair, transformed; no gradient passes.
        mask: Where the transformed flow is known and worth learning from.
    """
    return refinement_sum(transform_consistency_values(flows, transformed_flow, mask), gamma)


def transform_consistency_values(
    flows: Flows,
    transformed_flow: Float[Tensor, "B 2 H W"],
    mask: Bool[Tensor, "B H W"],
) -> Float[Tensor, " T"]:
    """Transform consistency at each refinement, before the weights."""
    distance = distance_from(transformed_flow.detach(), mask)
    return refinement_means(lambda flows: (distance(flows), mask), flows)
