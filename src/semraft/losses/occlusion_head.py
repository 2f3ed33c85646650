"""The occlusion head against what is known of occlusion."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from semraft.losses.reduction import at_least_float32, masked_mean

OCCLUSION_PRIOR = 0.05
"""What a pixel costs to call occluded, in nats. A head that calls everything so pays it everywhere."""


def occlusion(
    logits: Float[Tensor, "B H W"],
    occluded: Bool[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    prior: float = OCCLUSION_PRIOR,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the occlusion logits, plus the prior times the predicted probability.

    `occluded` is the exact occlusion where the data has it, else what a check of forward and backward flow
    says, without gradient. Such a check can call everything occluded while flow is bad; the prior draws
    against that (as in UnFlow, Meister et al., AAAI 2018). Once, not per refinement.
    """
    full = at_least_float32(logits)
    entropy = F.binary_cross_entropy_with_logits(full, occluded.to(full.dtype), reduction="none")
    return masked_mean(entropy + prior * torch.sigmoid(full), mask)
