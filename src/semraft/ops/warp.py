"""Positions of matches in frame 2, and frame 2 (its colours, labels, flow) sampled there.

Exact where the flow is whole, and on images one pixel wide.
"""

from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional as F

from semraft.kernels.choice import has_cpu_kernel
from semraft.kernels.cpu import warp_numba

Positions = TypeVar("Positions", Tensor, np.ndarray)
"""Columns or rows in pixels, of an array as of a tensor."""


def warp(
    image: Shaped[Tensor, "B C H W"],
    flow: Float[Tensor, "*T B 2 H W"],
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> tuple[Shaped[Tensor, "*T B C H W"], Bool[Tensor, "*T B H W"]]:
    """Samples `image` at p + flow(p): frame 2 seen on frame 1's grid, by one flow or by each of several.

    Where p + flow(p) is not in frame the result is 0. `bilinear` needs a float image and is differentiable in
    image and flow; `nearest` takes any dtype, and a point halfway between two pixels goes to the even one.

    Returns:
        The warped image, and where it is in frame (see `in_frame`).
    """
    x, y, seen = _seen_target(flow)
    height, several = flow.shape[-2], flow.ndim > 4
    if several:  # All flows as one high image: frame 2 need not be repeated.
        x, y = (positions.transpose(0, 1).flatten(1, 2) for positions in (x, y))
    warped = _gather(image, x.round(), y.round()) if mode == "nearest" else _blend(image, x, y)
    if several:
        warped = warped.view(*warped.shape[:2], -1, height, warped.shape[-1]).movedim(2, 0)
    return warped.masked_fill(~seen.unsqueeze(-3), 0), seen


def warp_channel(
    image: Float[Tensor, "B C H W"], channel: Int64[Tensor, "B H W"], flow: Float[Tensor, "*T B 2 H W"]
) -> tuple[Float[Tensor, "*T B H W"], Bool[Tensor, "*T B H W"]]:
    """Bilinear `warp` of one channel for each pixel, given by `channel`. Differentiable in flow."""
    batch, channels, height, width = image.shape
    x, y, seen = _seen_target(flow)
    left, top = x.floor().detach(), y.floor().detach()
    samples = torch.arange(batch, device=image.device).view(-1, 1, 1)
    place = (samples * channels + channel) * (height * width) + top.long() * width + left.long()
    # A neighbour beyond the last pixel has weight 0: the last pixel is read in its place.
    right, below = (left < width - 1).long(), (top < height - 1).long() * width
    pixels = image.flatten()
    upper_left, upper_right, lower_left, lower_right = (
        pixels.index_select(0, index.flatten()).view_as(x)
        for index in (place, place + right, place + below, place + right + below)
    )
    upper = torch.lerp(upper_left, upper_right, x - left)
    lower = torch.lerp(lower_left, lower_right, x - left)
    return torch.lerp(upper, lower, y - top).masked_fill(~seen, 0), seen


def target(flow: Float[Tensor, "*T B 2 H W"]) -> tuple[Float[Tensor, "*T B H W"], Float[Tensor, "*T B H W"]]:
    """Column and row, in pixels, of each pixel's match in frame 2."""
    height, width = flow.shape[-2:]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype).unsqueeze(-1)
    return flow[..., 0, :, :] + columns, flow[..., 1, :, :] + rows


def match_positions(
    flow: Float[np.ndarray, "H W 2"], origin: tuple[int, int] = (0, 0)
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """`target` of an array, in the flow's own precision.

    Args:
        origin: Row and column of the frame at the array's first pixel.
    """
    (height, width), (top, left) = flow.shape[:2], origin
    x: np.ndarray = flow[..., 0] + np.arange(left, left + width, dtype=flow.dtype)
    y: np.ndarray = flow[..., 1] + np.arange(top, top + height, dtype=flow.dtype)[:, None]
    return x, y


def in_frame(x: Positions, y: Positions, frame: tuple[int, int] | None = None) -> Positions:
    """Mask of the points (x, y) between the outermost pixel centres, these included; NaN is outside.

    Args:
        frame: Height and width of the frame, if x and y are of a part of it.
    """
    height, width = frame or x.shape[-2:]
    inside: Positions = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside


def _seen_target(
    flow: Float[Tensor, "*T B 2 H W"],
) -> tuple[Float[Tensor, "*T B H W"], Float[Tensor, "*T B H W"], Bool[Tensor, "*T B H W"]]:
    """Column and row in frame 2, and whether they are in frame; (0, 0) where they are not."""
    x, y = target(flow)
    seen = in_frame(x, y)
    # NaN must not get into the blend: its gradient would survive the mask.
    return x.masked_fill(~seen, 0), y.masked_fill(~seen, 0), seen


def _blend(
    image: Float[Tensor, "B C H W"], x: Float[Tensor, "B R W"], y: Float[Tensor, "B R W"]
) -> Float[Tensor, "B C R W"]:
    """Bilinear samples at points in frame; only the points are kept for the gradient.

    `grid_sample` takes coordinates relative to the size. Padded to a power of two, whole points are exact and
    others off by at most 1e-7 of the size.
    """
    if has_cpu_kernel(image) and has_cpu_kernel(x):
        blended: Tensor = warp_numba.blend(image, x, y)
        return blended
    height, width = image.shape[-2:]
    rows, columns = (1 << size.bit_length() for size in (height, width))
    grid = torch.stack([(2 * x + 1) / columns - 1, (2 * y + 1) / rows - 1], dim=-1)
    padded = F.pad(image, (0, columns - width, 0, rows - height))
    return F.grid_sample(padded, grid, align_corners=False)


def _gather(
    image: Shaped[Tensor, "B C H W"], columns: Float[Tensor, "B R W"], rows: Float[Tensor, "B R W"]
) -> Shaped[Tensor, "B C R W"]:
    """The image at whole points in frame."""
    index = (rows.long() * image.shape[-1] + columns.long()).flatten(1).unsqueeze(1)
    found = image.flatten(2).gather(2, index.expand(-1, image.shape[1], -1))
    return found.view(*image.shape[:2], *columns.shape[1:])
