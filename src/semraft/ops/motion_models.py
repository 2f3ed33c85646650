"""Parametric motions of segments: least squares for all segments of a batch at once, differentiable.

With coordinates (x, y) about the centre of a segment, in units of its size, and flow (u, v) in the same
units, all three models are linear in eight parameters:

    u = a0 x + a1 y + a2 - X (g x + h y)
    v = b0 x + b1 y + b2 - Y (g x + h y)

A homography has (X, Y) = (x + u, y + v), the target; a plane that moves little has (X, Y) = (x, y), the
quadratic model of Longuet-Higgins and Prazdny (1980); affine motion has (X, Y) = 0, and g and h stay 0.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.ops.classes import PLANAR, RIGID
from semraft.ops.labels import INSTANCE_STEP
from semraft.ops.segments import largest_segments
from semraft.sample import IGNORE_LABEL

RIDGE = 1e-6
"""Added to the diagonal of the normal equations, whose entries are means of about 1. Above 0: g and h of an
affine motion are held at 0 by nothing else."""

PlaneModel = Literal["homography", "quadratic"]


class SegmentPixels(NamedTuple):
    """The pixels of all segments of a batch that get a model, one after the other."""

    pixel: Int64[Tensor, " P"]
    """Place in a flattened `B H W`."""
    segment: Int64[Tensor, " P"]
    """Number of the pixel's segment, over the whole batch."""
    x: Float[Tensor, " P"]
    """Coordinates about the segment's mean, in units of its `scale_px`."""
    y: Float[Tensor, " P"]
    scale_px: Float[Tensor, " S"]
    """Root mean square distance of a segment's pixels from their mean, over the square root of two."""
    planar: Bool[Tensor, " S"]
    label: Int64[Tensor, " S"]


def model_segments(segments: Int64[Tensor, "B H W"], min_pixels: int, max_segments: int) -> SegmentPixels:
    """The largest connected segments of an image whose class has a model, at most `max_segments` of each.

    Args:
        segments: Ids of `ops.labels.segment_ids`, whose class is the remainder by INSTANCE_STEP.
        min_pixels: Smaller ones get no model.
    """
    modelled = torch.tensor((*PLANAR, *RIGID), device=segments.device)
    ids = torch.where(torch.isin(segments % INSTANCE_STEP, modelled), segments, IGNORE_LABEL)
    numbered, labels, count = [], [], 0
    for image in ids.cpu().numpy():
        numbers, found = largest_segments(image, min_pixels, max_segments)
        numbered.append(np.where(numbers < 0, -1, numbers + count))
        labels.append(found % INSTANCE_STEP)
        count += len(found)
    number = torch.from_numpy(np.stack(numbered)).to(segments.device).flatten().long()
    label = torch.from_numpy(np.concatenate(labels)).to(segments.device)
    pixel = (number >= 0).nonzero().squeeze(1)
    segment = number[pixel]

    height, width = segments.shape[-2:]
    position = torch.stack([pixel % width, pixel // width % height], dim=1).double()
    centre = _segment_means(position, segment, len(label))
    offset = position - centre[segment]
    scale = _segment_means(offset.square().sum(1, keepdim=True) / 2, segment, len(label)).sqrt().squeeze(1)
    x, y = (offset / scale[segment, None]).float().unbind(1)
    planar = torch.isin(label, torch.tensor(PLANAR, device=label.device))
    return SegmentPixels(pixel, segment, x, y, scale.float(), planar, label)


def model_residuals(
    flow: Float[Tensor, "B 2 H W"],
    pixels: SegmentPixels,
    plane_model: PlaneModel = "homography",
    ridge: float = RIDGE,
    stop_gradient: bool = False,
) -> Float[Tensor, "P 2"]:
    """What is left of the flow of each pixel after the best motion of its segment, in pixels.

    Planar classes get `plane_model`, others affine motion. The residual is that of the linear equations
    above; for a homography it is the distance to the point where the model leads times that point's relative
    depth 1 + g x + h y, about 1, and so never blows up where a wild flow makes that vanish. Zero where the
    flow is of the model, but for the ridge and rounding.

    Args:
        stop_gradient: Hold the parameters fixed: the gradient draws flow to the model as it is, and does not
            pass through the fit.
    """
    scale = pixels.scale_px.to(flow.dtype)[pixels.segment]
    u, v = (flow[:, axis].flatten()[pixels.pixel] / scale for axis in (0, 1))
    x, y = pixels.x.to(flow.dtype), pixels.y.to(flow.dtype)
    planar = pixels.planar[pixels.segment]
    moved = (u, v) if plane_model == "homography" else (0, 0)
    target_x, target_y = torch.where(planar, x + moved[0], 0), torch.where(planar, y + moved[1], 0)
    parameters = _fit(x, y, u, v, target_x, target_y, pixels.segment, len(pixels.label), ridge)
    if stop_gradient:
        parameters = parameters.detach()
    a0, a1, a2, b0, b1, b2, g, h = parameters[pixels.segment].unbind(1)
    depth = g * x + h * y
    left_u = u - (a0 * x + a1 * y + a2 - target_x * depth)
    left_v = v - (b0 * x + b1 * y + b2 - target_y * depth)
    return torch.stack([left_u, left_v], dim=1) * scale[:, None]


def _fit(
    x: Float[Tensor, " P"],
    y: Float[Tensor, " P"],
    u: Float[Tensor, " P"],
    v: Float[Tensor, " P"],
    target_x: Float[Tensor, " P"],
    target_y: Float[Tensor, " P"],
    segment: Int64[Tensor, " P"],
    segments: int,
    ridge: float,
) -> Float[Tensor, "S 8"]:
    """The eight parameters of every segment, by their normal equations."""
    place = torch.stack([x, y, torch.ones_like(x)], dim=1)
    outer = place[:, :, None] * place[:, None]
    far, along = target_x.square() + target_y.square(), target_x * u + target_y * v
    means = _segment_means(
        torch.cat(
            [
                outer.flatten(1),
                (target_x[:, None, None] * outer[..., :2]).flatten(1),
                (target_y[:, None, None] * outer[..., :2]).flatten(1),
                (far[:, None, None] * outer[:, :2, :2]).flatten(1),
                u[:, None] * place,
                v[:, None] * place,
                -along[:, None] * place[:, :2],
            ],
            dim=1,
        ),
        segment,
        segments,
    )
    parts = torch.split(means, [9, 6, 6, 4, 8], dim=1)
    square, by_x, by_y = parts[0].view(-1, 3, 3), -parts[1].view(-1, 3, 2), -parts[2].view(-1, 3, 2)
    matrix = torch.cat(
        [
            torch.cat([square, torch.zeros_like(square), by_x], dim=2),
            torch.cat([torch.zeros_like(square), square, by_y], dim=2),
            torch.cat([by_x.mT, by_y.mT, parts[3].view(-1, 2, 2)], dim=2),
        ],
        dim=1,
    )
    matrix = matrix + ridge * torch.eye(8, dtype=x.dtype, device=x.device)
    solution: Tensor = torch.linalg.solve(matrix, parts[4])
    return solution


def _segment_means(
    values: Float[Tensor, "P C"], segment: Int64[Tensor, " P"], segments: int
) -> Float[Tensor, "S C"]:
    """The mean of each column over each segment's pixels."""
    sums = values.new_zeros(segments, values.shape[1]).index_add(0, segment, values)
    return sums / torch.bincount(segment, minlength=segments).to(values.dtype)[:, None]
