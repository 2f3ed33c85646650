"""Loss of the occlusion head against known occlusion."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from semraft.losses.auxiliary_term import PLACE, Term, TermInputs, required
from semraft.losses.masks import occluded_pixels
from semraft.losses.reduction import at_least_float32, masked_mean

OCCLUSION_PRIOR = 0.05
"""Cost of a pixel classified as occluded, in nats: it keeps the head from finding occlusion everywhere."""


def occlusion(
    logits: Float[Tensor, "B H W"],
    occluded: Bool[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    prior: float = OCCLUSION_PRIOR,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the occlusion logits, plus the prior times the predicted probability.

    `occluded` is the exact occlusion where the data has it, else the forward-backward check, without
    gradient. The check can find occlusion everywhere while flow is bad; the prior acts against that (as in
    UnFlow, Meister et al., AAAI 2018). Once, not per refinement.
    """
    full = at_least_float32(logits)
    entropy = F.binary_cross_entropy_with_logits(full, occluded.to(full.dtype), reduction="none")
    return masked_mean(entropy + prior * torch.sigmoid(full), mask)


def _occlusion(inputs: TermInputs, *, prior: float = OCCLUSION_PRIOR) -> Float[Tensor, " 1"]:
    """The pixels that `mask` finds occluded are the target here, and not left out."""
    occluded = required(occluded_pixels(inputs.mask, inputs.prediction, inputs.batch))
    return occlusion(required(inputs.prediction.occlusion), occluded, inputs.region, prior)[None]


OCCLUSION = Term(
    values=_occlusion,
    scalar="occlusion_loss",
    about="cross-entropy of the occlusion head against the method of `mask`, with a price on occlusion",
    source="UnFlow, Meister et al., AAAI 2018",
    heads=("occlusion",),
    place=PLACE,
    mask="exact",
    refused_masks=("none", "predicted"),
    acts_on="heads",
)
