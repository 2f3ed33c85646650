"""Looking up frame 2 (its colours, labels, flow) where the flow says a pixel of frame 1 has gone.

One gather serves both modes: unlike `grid_sample` it takes integer tensors, is exact where the flow is whole,
and has no trouble with images one pixel wide, because no coordinate is ever normalised.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def warp(
    image: Shaped[Tensor, "B C H W"],
    flow: Float[Tensor, "B 2 H W"],
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> tuple[Shaped[Tensor, "B C H W"], Bool[Tensor, "B H W"]]:
    """Samples `image` at p + flow(p): frame 2 seen on frame 1's grid.

    Where p + flow(p) is not in frame the result is 0. `bilinear` needs a float image and is differentiable in
    image and flow; `nearest` takes any dtype, and a point halfway between two pixels goes to the even one.

    Returns:
        The warped image, and where it is in frame (see `in_frame`).
    """
    x, y = target(flow)
    seen = in_frame(flow)
    # Elsewhere any pixel will do, but NaN must not get into the blend: its gradient would survive the mask.
    x, y = x.masked_fill(~seen, 0), y.masked_fill(~seen, 0)
    if mode == "nearest":
        warped = _gather(image, x.round(), y.round())
    else:
        left, top = x.floor().detach(), y.floor().detach()
        right_share, lower_share = (x - left).unsqueeze(1), (y - top).unsqueeze(1)
        upper = torch.lerp(_gather(image, left, top), _gather(image, left + 1, top), right_share)
        lower = torch.lerp(_gather(image, left, top + 1), _gather(image, left + 1, top + 1), right_share)
        warped = torch.lerp(upper, lower, lower_share)
    return warped.masked_fill(~seen.unsqueeze(1), 0), seen


def target(flow: Float[Tensor, "B 2 H W"]) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B H W"]]:
    """Column and row, in pixels, where each pixel of frame 1 lies in frame 2."""
    height, width = flow.shape[-2:]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype).unsqueeze(-1)
    return flow[:, 0] + columns, flow[:, 1] + rows


def in_frame(flow: Float[Tensor, "B 2 H W"]) -> Bool[Tensor, "B H W"]:
    """Where p + flow(p) lies between the outermost pixel centres, these included; NaN does not."""
    height, width = flow.shape[-2:]
    x, y = target(flow)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _gather(
    image: Shaped[Tensor, "B C H W"], columns: Float[Tensor, "B H W"], rows: Float[Tensor, "B H W"]
) -> Shaped[Tensor, "B C H W"]:
    """Pixels at whole columns and rows; one past the last is the last, where its share of a blend is 0."""
    height, width = image.shape[-2:]
    index = rows.clamp(max=height - 1).long() * width + columns.clamp(max=width - 1).long()
    return (
        image.flatten(2)
        .gather(2, index.flatten(1).unsqueeze(1).expand(-1, image.shape[1], -1))
        .view_as(image)
    )
