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
    """The pixels of all segments of a batch that get a model, segment after segment."""

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
    sizes: list[int]
    """Pixels of each segment."""


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
    sizes = torch.bincount(number + 1, minlength=count + 1)[1:]
    pixel = number.argsort(stable=True)[-int(sizes.sum()) :] if count else number[:0]
    segment = number[pixel]

    height, width = segments.shape[-2:]
    position = torch.stack([pixel % width, pixel // width % height], dim=1).double()
    centre = _segment_means(position, segment, len(label))
    offset = position - centre[segment]
    scale = _segment_means(offset.square().sum(1, keepdim=True) / 2, segment, len(label)).sqrt().squeeze(1)
    x, y = (offset / scale[segment, None]).float().unbind(1)
    planar = torch.isin(label, torch.tensor(PLANAR, device=label.device))
    return SegmentPixels(pixel, segment, x, y, scale.float(), planar, label, sizes.tolist())


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
    moved = flow.movedim(1, 0).flatten(1).gather(1, pixels.pixel.expand(2, -1)) / scale
    place = torch.stack([pixels.x, pixels.y, torch.ones_like(pixels.x)]).to(flow.dtype)
    target = place[:2] + moved if plane_model == "homography" else place[:2]
    target = torch.where(pixels.planar[pixels.segment], target, 0)
    # x, y, 1, X x, X y, Y x, Y y, u, v: what the equations are of, and what remains.
    products = torch.cat([place, target[:1] * place[:2], target[1:] * place[:2], moved])
    segments = torch.split(products, pixels.sizes, dim=1)
    if not segments:
        return moved.mT
    with torch.autocast(flow.device.type, enabled=False):  # It would multiply in half precision.
        means = torch.stack([of_segment @ of_segment.mT / of_segment.shape[1] for of_segment in segments])
        parameters = _fit(means, ridge)
        if stop_gradient:
            parameters = parameters.detach()
        left = [leaves @ of_segment for leaves, of_segment in zip(_leaves(parameters), segments, strict=True)]
    return (torch.cat(left, dim=1) * scale).mT


def _fit(means: Float[Tensor, "S 9 9"], ridge: float) -> Float[Tensor, "S 8"]:
    """The eight parameters of every segment, by their normal equations.

    Args:
        means: Over a segment, of what each two of the nine give multiplied.
    """
    square, by_x, by_y = means[:, :3, :3], -means[:, :3, 3:5], -means[:, :3, 5:7]
    far = means[:, 3:5, 3:5] + means[:, 5:7, 5:7]
    along = means[:, 3:5, 7] + means[:, 5:7, 8]
    matrix = torch.cat(
        [
            torch.cat([square, torch.zeros_like(square), by_x], dim=2),
            torch.cat([torch.zeros_like(square), square, by_y], dim=2),
            torch.cat([by_x.mT, by_y.mT, far], dim=2),
        ],
        dim=1,
    )
    matrix = matrix + ridge * torch.eye(8, dtype=matrix.dtype, device=matrix.device)
    right = torch.cat([means[:, :3, 7], means[:, :3, 8], -along], dim=1)
    solution: Tensor = torch.linalg.solve(matrix, right)
    return solution


def _leaves(parameters: Float[Tensor, "S 8"]) -> Float[Tensor, "S 2 9"]:
    """How much of each of the nine the model leaves of u and of v."""
    of_u, of_v, depth = torch.split(parameters, [3, 3, 2], dim=1)
    nothing, one = torch.zeros_like(depth), torch.ones_like(depth[:, :1])
    return torch.stack(
        [
            torch.cat([-of_u, depth, nothing, one, nothing[:, :1]], dim=1),
            torch.cat([-of_v, nothing, depth, nothing[:, :1], one], dim=1),
        ],
        dim=1,
    )


def _segment_means(
    values: Float[Tensor, "P C"], segment: Int64[Tensor, " P"], segments: int
) -> Float[Tensor, "S C"]:
    """The mean of each column over each segment's pixels."""
    sums = values.new_zeros(segments, values.shape[1]).index_add(0, segment, values)
    return sums / torch.bincount(segment, minlength=segments).to(values.dtype)[:, None]
