"""Which pixels of frame 1 can't be seen in frame 2, judged from flow alone."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from semraft.ops.warp import in_frame, warp

RELATIVE_TOLERANCE = 0.01
"""a1: disagreement allowed per squared length of the two flows."""
ABSOLUTE_TOLERANCE_PX2 = 0.5
"""a2: disagreement always allowed, in squared pixels."""


@torch.no_grad()
def forward_backward(
    flow: Float[Tensor, "B 2 H W"], backward_flow: Float[Tensor, "B 2 H W"]
) -> Bool[Tensor, "B H W"]:
    """Where going there and back does not lead home: covered in frame 2.

    Occluded is |F + B(p+F)|^2 > a1 (|F|^2 + |B(p+F)|^2) + a2, squared norms, B sampled bilinearly (Sundaram
    et al., ECCV 2010; UnFlow, AAAI 2018). A pixel that leaves the frame is not counted here but in
    `out_of_frame`; what can't be seen in frame 2 is the union of both. No gradient passes.
    """
    returned, seen = warp(backward_flow, flow)
    gap = (flow + returned).square().sum(1)
    lengths = flow.square().sum(1) + returned.square().sum(1)
    return seen & (gap > RELATIVE_TOLERANCE * lengths + ABSOLUTE_TOLERANCE_PX2)


@torch.no_grad()
def out_of_frame(flow: Float[Tensor, "B 2 H W"]) -> Bool[Tensor, "B H W"]:
    """Where p + flow(p) lies outside the outermost pixel centres of frame 2, or is not finite."""
    return ~in_frame(flow)
