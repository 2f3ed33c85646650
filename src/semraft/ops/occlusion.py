"""Occlusion masks of frame 1: pixels not visible in frame 2, from flow, labels or an occlusion head."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.ops.warp import in_frame, target, warp
from semraft.sample import IGNORE_LABEL

RELATIVE_TOLERANCE = 0.01
"""a1: disagreement allowed per squared length of the two flows."""
ABSOLUTE_TOLERANCE_PX2 = 0.5
"""a2: disagreement always allowed, in squared pixels."""
PREDICTED_LOGIT = 0.0
"""Occlusion logit above which a pixel counts as occluded: probability 1/2."""


@torch.no_grad()
def forward_backward(
    flow: Float[Tensor, "B 2 H W"], backward_flow: Float[Tensor, "B 2 H W"]
) -> Bool[Tensor, "B H W"]:
    """Forward-backward check: pixels of frame 1 that are covered in frame 2.

    Occluded is |F + B(p+F)|^2 > a1 (|F|^2 + |B(p+F)|^2) + a2, squared norms, B sampled bilinearly (Sundaram
    et al., ECCV 2010; UnFlow, AAAI 2018). A pixel that leaves the frame is not counted here but in
    `out_of_frame`: occlusion is the union of both. No gradient passes.
    """
    returned, seen = warp(backward_flow, flow)
    gap = (flow + returned).square().sum(1)
    lengths = flow.square().sum(1) + returned.square().sum(1)
    return seen & (gap > RELATIVE_TOLERANCE * lengths + ABSOLUTE_TOLERANCE_PX2)


@torch.no_grad()
def out_of_frame(flow: Float[Tensor, "B 2 H W"]) -> Bool[Tensor, "B H W"]:
    """Pixels with p + flow(p) outside the outermost pixel centres of frame 2, or not finite."""
    return ~in_frame(*target(flow))


@torch.no_grad()
def predicted(logits: Float[Tensor, "B H W"]) -> Bool[Tensor, "B H W"]:
    """Pixels that an occlusion head classifies as occluded."""
    return logits > PREDICTED_LOGIT


@torch.no_grad()
def same_label(labels1: Int64[Tensor, "B H W"], labels2: Int64[Tensor, "B H W"]) -> Bool[Tensor, "B H W"]:
    """Pixels with different labels in the two frames at the same coordinates, or ignored in frame 1.

    The original study used this mask as occlusion, which it is not: 82 % of the occluded pixels have one
    label in both frames.
    """
    return (labels1 != labels2) | (labels1 == IGNORE_LABEL)
