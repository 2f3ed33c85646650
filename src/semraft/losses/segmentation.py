"""Losses of the segmentation decoder: against the labels, and between the frames along the flow."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from semraft.losses.auxiliary_term import DECODED, PLACE, Term, TermInputs, required
from semraft.losses.reduction import (
    Flows,
    PixelLoss,
    PixelValues,
    at_least_float32,
    masked_mean,
    over_refinements,
    refinement_means,
)
from semraft.ops.warp import warp
from semraft.sample import IGNORE_LABEL

SMALLEST_SHARE = 1e-12
"""Least probability of a class in `temporal_consistency`."""

ConsistencyGradient = Literal["both", "segmentation", "flow"]


def segmentation(
    logits1: Float[Tensor, "B K H W"],
    logits2: Float[Tensor, "B K H W"],
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
) -> Float[Tensor, ""]:
    """Cross-entropy of the class logits against the labels, in nats, over all pixels of both frames.

    Ignored labels do not count. Once, not per refinement.
    """
    logits, labels = at_least_float32(torch.cat([logits1, logits2])), torch.cat([labels1, labels2])
    known = labels != IGNORE_LABEL
    entropy = F.cross_entropy(logits, torch.where(known, labels, 0), reduction="none")
    return masked_mean(entropy, known)


def temporal_consistency(
    flows: Flows,
    logits1: Float[Tensor, "B K H W"],
    logits2: Float[Tensor, "B K H W"],
    mask: Bool[Tensor, "B H W"],
    gradient: ConsistencyGradient = "both",
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """Jensen-Shannon divergence of the class probabilities of frame 1 and of frame 2 warped by the flow.

    In nats, 0 to log 2. A pixel counts where `mask` holds - where it is visible - and its target is in frame.

    Args:
        gradient: Whether the segmentation, the flow, or both learn.
    """
    return over_refinements(_divergence_along(logits1, logits2, mask, gradient), flows, gamma)


def _segmentation(inputs: TermInputs) -> Float[Tensor, " 1"]:
    logits1, logits2 = required(inputs.prediction.segmentation1), required(inputs.prediction.segmentation2)
    return segmentation(logits1, logits2, inputs.labels1, inputs.labels2)[None]


def _temporal_consistency(
    inputs: TermInputs, *, gradient: ConsistencyGradient = "both"
) -> Float[Tensor, " T"]:
    logits1, logits2 = required(inputs.prediction.segmentation1), required(inputs.prediction.segmentation2)
    divergence = _divergence_along(logits1, logits2, inputs.acting, gradient)
    return refinement_means(divergence, inputs.flows)


SEGMENTATION = Term(
    values=_segmentation,
    scalar="segmentation_loss",
    about="cross-entropy of the segmentation decoder, both frames",
    source="the study's notes",
    needs=("labels1", "labels2"),
    heads=DECODED,
    acts_on="heads",
)
TEMPORAL_CONSISTENCY = Term(
    values=_temporal_consistency,
    scalar="temporal_consistency_loss",
    about="Jensen-Shannon divergence of the decoder's classes in frame 1 and, along the flow, frame 2",
    source="the study's notes",
    heads=DECODED,
    place=PLACE,
    mask="exact",
)


def _divergence_along(
    logits1: Float[Tensor, "B K H W"],
    logits2: Float[Tensor, "B K H W"],
    mask: Bool[Tensor, "B H W"],
    gradient: ConsistencyGradient,
) -> PixelLoss:
    if gradient == "flow":
        logits1, logits2 = logits1.detach(), logits2.detach()
    # A certain head's probabilities underflow to 0, where the slope of the entropy is infinite.
    share1, share2 = (
        at_least_float32(logits).softmax(dim=1).clamp(min=SMALLEST_SHARE) for logits in (logits1, logits2)
    )

    def pixel_loss(flows: Float[Tensor, "t B 2 H W"]) -> PixelValues:
        field = (flows.detach() if gradient == "segmentation" else flows).to(share2.dtype)
        warped, seen = warp(share2, field)
        # Out of frame the mask hides the divergence, which any probability above 0 keeps finite.
        return _divergence(share1, warped.masked_fill(~seen[:, :, None], 1)), mask & seen

    return pixel_loss


class _JensenShannon(torch.autograd.Function):
    """Jensen-Shannon divergence of probabilities above 0.

    Its derivatives are the logarithms of the forward pass, computed again in the backward pass: kept, they
    would take two volumes of memory for each refinement, and autograd's own tensors a dozen.
    """

    @staticmethod
    def forward(
        ctx: Any, share1: Float[Tensor, "B K H W"], share2: Float[Tensor, "t B K H W"]
    ) -> Float[Tensor, "t B H W"]:
        ctx.save_for_backward(share1, share2)
        apart1, apart2 = _from_mean(share1, share2)
        return apart1.mul_(share1).addcmul_(apart2, share2).sum(dim=2) / 2

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, slope: Float[Tensor, "t B H W"]
    ) -> tuple[Float[Tensor, "B K H W"], Float[Tensor, "t B K H W"]]:
        half = slope[:, :, None] / 2
        apart1, apart2 = (apart.mul_(half) for apart in _from_mean(*ctx.saved_tensors))
        return apart1.sum(dim=0), apart2


_divergence: Callable[..., Tensor] = _JensenShannon.apply


def _from_mean(
    share1: Float[Tensor, "B K H W"], share2: Float[Tensor, "t B K H W"]
) -> tuple[Float[Tensor, "t B K H W"], Float[Tensor, "t B K H W"]]:
    """log(probability / mean of both probabilities), for each of the two."""
    log_mean = (share1 + share2).mul_(0.5).log_()
    return share1.log() - log_mean, share2.log().sub_(log_mean)
