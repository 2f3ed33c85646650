"""Random crop, scale and flip of tensors (a `View`), with flow scaled accordingly."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from semraft.sample import View

SMALLEST_PX = 64
"""Smallest side of a view, the smallest of the network's input."""
LARGEST_LOG2_SCALE = 0.4
"""Views are larger or smaller by 2^0.4 at most: bilinear sampling skips no pixel."""
MIRRORED_FRAC = (0.1, 0.5)
"""Fraction of views flipped upside down and left to right, as in RAFT's augmentation."""


def draw_view(frame: tuple[int, int], rng: np.random.Generator) -> View:
    """A view of a third of a frame's sides, in multiples of 8: anywhere in the frame, but all of it inside.

    Args:
        frame: Height and width in pixels, from 64 x 64.
    """
    height, width = (max(SMALLEST_PX, 8 * round(side / 24)) for side in frame)
    # A view as large as the frame can't be scaled down.
    fits = max((height - 1) / (frame[0] - 1), (width - 1) / (frame[1] - 1))
    scale = 2 ** rng.uniform(max(-LARGEST_LOG2_SCALE, math.log2(fits)), LARGEST_LOG2_SCALE)
    top, left = (
        rng.uniform(0, side - 1 - (own - 1) / scale) for side, own in zip(frame, (height, width), strict=True)
    )
    upside_down, left_to_right = (bool(rng.random() < frac) for frac in MIRRORED_FRAC)
    return View(
        size=(height, width),
        top_px=top,
        left_px=left,
        scale=scale,
        upside_down=upside_down,
        left_to_right=left_to_right,
    )


def view_image(image: Float[Tensor, "B C H W"], view: View) -> Float[Tensor, "B C h w"]:
    """The image in a view, sampled bilinearly; for any values that do not change sign when flipped."""
    for axis, positions in zip((-2, -1), _positions(image, view), strict=True):
        first = positions.floor().clamp(max=image.shape[axis] - 2)
        share = (positions - first).to(image)
        before, after = (image.index_select(axis, first.long() + step) for step in (0, 1))
        image = torch.lerp(before, after, share[:, None] if axis == -2 else share)
    return image


def view_flow(flow: Float[Tensor, "B 2 H W"], view: View) -> Float[Tensor, "B 2 h w"]:
    """The flow between the views of both frames, in the view's pixels."""
    along_x = -view.scale if view.left_to_right else view.scale
    along_y = -view.scale if view.upside_down else view.scale
    return view_image(flow, view) * flow.new_tensor([along_x, along_y]).view(1, 2, 1, 1)


def view_mask(mask: Bool[Tensor, "B H W"], view: View) -> Bool[Tensor, "B h w"]:
    """The pixels of the view that are interpolated from pixels of the mask alone."""
    return view_image(mask[:, None].float(), view)[:, 0] == 1


def view_labels(labels: Int64[Tensor, "B H W"], view: View) -> Int64[Tensor, "B h w"]:
    """The labels of a view: each pixel's nearest."""
    rows, columns = (positions.round().long() for positions in _positions(labels, view))
    return labels[:, rows[:, None], columns]


def _positions(frame: Tensor, view: View) -> tuple[Float64[Tensor, " h"], Float64[Tensor, " w"]]:
    """Rows and columns of the view in the frame, in pixels."""
    rows, columns = (
        (start + torch.arange(own, dtype=torch.float64) / view.scale).clamp(max=side - 1)
        for start, own, side in zip((view.top_px, view.left_px), view.size, frame.shape[-2:], strict=True)
    )
    rows = rows.flip(0) if view.upside_down else rows
    columns = columns.flip(0) if view.left_to_right else columns
    return rows.to(frame.device), columns.to(frame.device)
