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
from semraft.ops.labels import INSTANCE_STEP, largest_segments
from semraft.sample import IGNORE_LABEL

RIDGE = 1e-6
"""Added to the diagonal of the normal equations, whose entries are means of about 1. Above 0: g and h of an
affine motion are held at 0 by nothing else."""

BLOCK_PX = 512
"""Pixels whose products are summed in one multiplication of matrices."""

PlaneModel = Literal["homography", "quadratic"]


class SegmentPixels(NamedTuple):
    """The pixels of all segments of a batch that get a model, in blocks of BLOCK_PX of one segment each."""

    pixel: Int64[Tensor, "N P"]
    """Place in a flattened `B H W`; past the end of a segment its last pixel, which does not count again."""
    counts: Bool[Tensor, "N P"]
    segment: Int64[Tensor, " N"]
    """Number of the block's segment, over the whole batch."""
    x: Float[Tensor, "N P"]
    """Coordinates about the segment's mean, in units of its `scale_px`; 0 where nothing counts."""
    y: Float[Tensor, "N P"]
    scale_px: Float[Tensor, " S"]
    """Root mean square distance of a segment's pixels from their mean, over the square root of two."""
    size: Float[Tensor, " S"]
    """Pixels of each segment."""
    planar: Bool[Tensor, " S"]
    label: Int64[Tensor, " S"]


def model_segments(segments: Int64[Tensor, "B H W"], min_pixels: int, max_segments: int) -> SegmentPixels:
    """The largest connected segments of an image whose class has a model, at most `max_segments` of each.

    Args:
        segments: Ids of `ops.labels.segment_ids`, whose class is the remainder by INSTANCE_STEP.
        min_pixels: Smaller ones get no model.
    """
    ids = segments.cpu().numpy()
    modelled = np.isin(np.arange(INSTANCE_STEP), (*PLANAR, *RIGID))
    ids = np.where(modelled[ids % INSTANCE_STEP], ids, IGNORE_LABEL)
    order, sizes, labels = [], [], []
    for number, image in enumerate(ids):
        numbers, found = largest_segments(image, min_pixels, max_segments)
        size = np.bincount(numbers.ravel() + 1, minlength=len(found) + 1)
        # 16-bit numbers are sorted ten times as fast.
        pixels = numbers.ravel().astype(np.int16).argsort(kind="stable")[size[0] :]
        order.append(pixels + number * image.size)
        sizes.append(size[1:])
        labels.append(found % INSTANCE_STEP)
    arrays = _in_blocks(np.concatenate(order), np.concatenate(sizes), ids.shape[-2:])
    label = np.concatenate(labels)
    return SegmentPixels(
        *(torch.from_numpy(array).to(segments.device) for array in (*arrays, np.isin(label, PLANAR), label))
    )


def _in_blocks(
    order: Int64[np.ndarray, " Q"], size: Int64[np.ndarray, " S"], frame: tuple[int, int]
) -> tuple[np.ndarray, ...]:
    """The fields of SegmentPixels up to `size`, from the pixels in the order of their segments."""
    height, width = frame
    ends = np.cumsum(size)
    number = np.repeat(np.arange(len(size)), size)
    position = np.stack([order % width, order // width % height]).astype(np.float64)
    offset = position - _segment_means(position, size)[:, number]
    scale = np.sqrt(_segment_means(np.square(offset).sum(0, keepdims=True) / 2, size)[0])
    x, y = (offset / scale[number]).astype(np.float32)

    blocks = -(-size // BLOCK_PX)
    segment = np.repeat(np.arange(len(size)), blocks)
    first_block = np.cumsum(blocks) - blocks
    start = (ends - size)[segment] + BLOCK_PX * (np.arange(len(segment)) - first_block[segment])
    place = start[:, None] + np.arange(BLOCK_PX)
    counts = place < ends[segment, None]
    place = np.minimum(place, ends[segment, None] - 1)
    floats = scale.astype(np.float32), size.astype(np.float32)
    return order[place], counts, segment, x[place] * counts, y[place] * counts, *floats


def _segment_means(
    values: Float[np.ndarray, "C Q"], size: Int64[np.ndarray, " S"]
) -> Float[np.ndarray, "C S"]:
    """The mean over each segment's pixels."""
    starts = np.cumsum(size) - size
    sums: np.ndarray = np.add.reduceat(values, starts, axis=1) if len(size) else values[:, :0]
    means: np.ndarray = sums / size
    return means


def model_residuals(
    flows: Float[Tensor, "t B 2 H W"],
    pixels: SegmentPixels,
    plane_model: PlaneModel = "homography",
    ridge: float = RIDGE,
    stop_gradient: bool = False,
) -> Float[Tensor, "t N 2 P"]:
    """Residual of each pixel's flow after the best motion of its segment, in pixels.

    Planar classes get `plane_model`, others affine motion. The residual is that of the linear equations
    above; for a homography it is the distance to the model's target times the relative depth 1 + g x + h y,
    about 1, and stays finite where a wild flow makes the depth vanish. Zero for a flow of the model, up to
    the ridge and rounding.

    Args:
        stop_gradient: Hold the fitted parameters fixed: no gradient passes through the fit.
    """
    scale = pixels.scale_px.to(flows.dtype)[pixels.segment, None]
    of_pixels = flows.movedim(2, 1).flatten(2)
    moved = of_pixels.gather(2, pixels.pixel.flatten().expand(*of_pixels.shape[:2], -1))
    moved = moved.view(*of_pixels.shape[:2], *pixels.pixel.shape) * (pixels.counts / scale)
    place = torch.stack([pixels.x, pixels.y, pixels.counts.to(pixels.x)]).to(flows.dtype)
    target = place[:2] + moved if plane_model == "homography" else place[:2].expand_as(moved)
    target = torch.where(pixels.planar[pixels.segment, None], target, 0)
    # x, y, 1, X x, X y, Y x, Y y, u, v: the products of the equations.
    known = place.expand(len(flows), *place.shape)
    products = torch.cat(
        [known, target[:, :1] * known[:, :2], target[:, 1:] * known[:, :2], moved], dim=1
    ).transpose(1, 2)
    with torch.autocast(flows.device.type, enabled=False):  # It would multiply in half precision.
        of_blocks = products @ products.mT
        sums = of_blocks.new_zeros(len(flows), len(pixels.size), 9, 9)
        means = sums.index_add(1, pixels.segment, of_blocks) / pixels.size.to(sums.dtype)[:, None, None]
        parameters = _fit(means, ridge)
        if stop_gradient:
            parameters = parameters.detach()
        left = _leaves(parameters).index_select(1, pixels.segment) @ products
    return left * scale[:, None]


def _fit(means: Float[Tensor, "t S 9 9"], ridge: float) -> Float[Tensor, "t S 8"]:
    """The eight parameters of every segment, by their normal equations.

    Args:
        means: Over a segment, of the pairwise products of the nine.
    """
    square, by_x, by_y = means[..., :3, :3], -means[..., :3, 3:5], -means[..., :3, 5:7]
    far = means[..., 3:5, 3:5] + means[..., 5:7, 5:7]
    along = means[..., 3:5, 7] + means[..., 5:7, 8]
    matrix = torch.cat(
        [
            torch.cat([square, torch.zeros_like(square), by_x], dim=-1),
            torch.cat([torch.zeros_like(square), square, by_y], dim=-1),
            torch.cat([by_x.mT, by_y.mT, far], dim=-1),
        ],
        dim=-2,
    )
    matrix = matrix + ridge * torch.eye(8, dtype=matrix.dtype, device=matrix.device)
    right = torch.cat([means[..., :3, 7], means[..., :3, 8], -along], dim=-1)
    # Not `solve`, which waits for the device to report a singular matrix; the ridge makes this one regular.
    solution: Tensor = torch.linalg.solve_ex(matrix, right)[0]
    return solution


def _leaves(parameters: Float[Tensor, "t S 8"]) -> Float[Tensor, "t S 2 9"]:
    """Coefficients of the nine products in the residuals of u and of v."""
    of_u, of_v, depth = torch.split(parameters, [3, 3, 2], dim=-1)
    nothing, one = torch.zeros_like(depth), torch.ones_like(depth[..., :1])
    return torch.stack(
        [
            torch.cat([-of_u, depth, nothing, one, nothing[..., :1]], dim=-1),
            torch.cat([-of_v, nothing, depth, nothing[..., :1], one], dim=-1),
        ],
        dim=-2,
    )
