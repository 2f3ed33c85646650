"""Looking up frame 2 (its colours, labels, flow) where the flow says a pixel of frame 1 has gone.

Exact where the flow is whole, and on images one pixel wide.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional as F

from semraft.ops import warp_numba


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
    if mode == "nearest":
        x, y, seen = _seen_target(flow)
        warped = _gather(image, x.round(), y.round())
    else:
        x, y, seen = _seen_target(flow)
        warped = _blend(image, x, y)
    return warped.masked_fill(~seen.unsqueeze(1), 0), seen


def warp_channel(
    image: Float[Tensor, "B C H W"], channel: Int64[Tensor, "B H W"], flow: Float[Tensor, "B 2 H W"]
) -> tuple[Float[Tensor, "B H W"], Bool[Tensor, "B H W"]]:
    """`warp`, bilinear, of one channel a pixel: the one that `channel` names. Differentiable in flow."""
    height, width = image.shape[-2:]
    layer = channel * (height * width)

    def gather(columns: Float[Tensor, "B H W"], rows: Float[Tensor, "B H W"]) -> Float[Tensor, "B 1 H W"]:
        index = layer + _pixel_index(columns, rows)
        return image.flatten(1).gather(1, index.flatten(1)).view(len(image), 1, height, width)

    warped, seen = _bilinear(gather, flow)
    return warped.squeeze(1).masked_fill(~seen, 0), seen


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


def _seen_target(
    flow: Float[Tensor, "B 2 H W"],
) -> tuple[Float[Tensor, "B H W"], Float[Tensor, "B H W"], Bool[Tensor, "B H W"]]:
    """Column and row in frame 2, and whether they are in frame."""
    x, y = target(flow)
    seen = in_frame(flow)
    # Elsewhere any pixel will do, but NaN must not get into the blend: its gradient would survive the mask.
    return x.masked_fill(~seen, 0), y.masked_fill(~seen, 0), seen


def _bilinear(
    gather: Callable[[Float[Tensor, "B H W"], Float[Tensor, "B H W"]], Float[Tensor, "B C H W"]],
    flow: Float[Tensor, "B 2 H W"],
) -> tuple[Float[Tensor, "B C H W"], Bool[Tensor, "B H W"]]:
    """Blends what `gather` finds at the four whole (column, row) around each target."""
    x, y, seen = _seen_target(flow)
    left, top = x.floor().detach(), y.floor().detach()
    right_share, lower_share = (x - left).unsqueeze(1), (y - top).unsqueeze(1)
    upper = torch.lerp(gather(left, top), gather(left + 1, top), right_share)
    lower = torch.lerp(gather(left, top + 1), gather(left + 1, top + 1), right_share)
    return torch.lerp(upper, lower, lower_share), seen


def _blend(
    image: Float[Tensor, "B C H W"], x: Float[Tensor, "B H W"], y: Float[Tensor, "B H W"]
) -> Float[Tensor, "B C H W"]:
    """The image at points in frame, bilinear: quicker than four gathers, and keeps only the points.

    By a compiled loop in float32 on the CPU, and else by `grid_sample`. That wants coordinates as parts of
    the size: of a power of two, those of whole points are exact, and of others off by 1e-7 of it at most.
    """
    if image.device.type == "cpu" and image.dtype == x.dtype == torch.float32:
        blended: Tensor = warp_numba.blend(image, x, y)
        return blended
    height, width = image.shape[-2:]
    rows, columns = (1 << size.bit_length() for size in (height, width))
    grid = torch.stack([(2 * x + 1) / columns - 1, (2 * y + 1) / rows - 1], dim=-1)
    padded = F.pad(image, (0, columns - width, 0, rows - height))
    return F.grid_sample(padded, grid, align_corners=False)


def _gather(
    image: Shaped[Tensor, "B C H W"], columns: Float[Tensor, "B H W"], rows: Float[Tensor, "B H W"]
) -> Shaped[Tensor, "B C H W"]:
    index = _pixel_index(columns, rows).flatten(1).unsqueeze(1)
    return image.flatten(2).gather(2, index.expand(-1, image.shape[1], -1)).view_as(image)


def _pixel_index(columns: Float[Tensor, "B H W"], rows: Float[Tensor, "B H W"]) -> Int64[Tensor, "B H W"]:
    """Places of whole columns and rows; one past the last is the last, where its share of a blend is 0."""
    height, width = columns.shape[-2:]
    return rows.clamp(max=height - 1).long() * width + columns.clamp(max=width - 1).long()
