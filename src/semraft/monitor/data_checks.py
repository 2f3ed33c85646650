"""Data checks of a batch: whether its flow fits its pictures, and its labels are classes.

The cheap half of the alignment test (`data.alignment`): for every batch of a training, on a grid of points.
"""

import functools
from typing import NamedTuple, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from semraft.kernels.compiled import njit

STRIDE_PX = 4
"""Distance between points, along rows and columns."""
SPARSE_FRAC = 0.1
"""Truth at fewer pixels is read at all of them, on a CPU: of 1 % a grid of points would see a few."""
FACTORS = (0.7, 0.8, 0.9, 1.1, 1.25, 1.45)
"""Factors that flow is multiplied with to see whether another length fits better."""
CUT = 1.0
"""Largest difference that counts, in standard deviations of the picture: hidden points have any."""


class Readings(NamedTuple):
    """Mean difference of the frames (0 to CUT) of each sample along its flow, read in various ways.

    Over the `points` of the grid with flow truth of a pixel or more, but for `standing`.
    """

    points: Int64[Tensor, " B"]
    as_given: Float[Tensor, " B"]
    swapped: Float[Tensor, " B"]
    scaled: Float[Tensor, " B"]
    """The smallest of flow times each of FACTORS."""
    still: Float[Tensor, " B"]
    """The same points without any motion."""
    standing_points: Int64[Tensor, " B"]
    """Points whose true flow is exactly 0."""
    standing: Float[Tensor, " B"]
    """The mean difference of the frames there."""


def read(
    image1: Float[Tensor, "B 3 H W"],
    image2: Float[Tensor, "B 3 H W"],
    flow: Float[Tensor, "B 2 H W"],
    trusted: Bool[Tensor, "B H W"],
) -> Readings:
    """Misfits of frame 2 to frame 1 along the flow as given, with u and v exchanged, longer, shorter, and
    without motion.

    Pictures are 0..255 and compared by their green, of mean 0 and variance 1 over the grid. A reading that
    leaves the frame misses by as much as no motion does.
    """
    if image1.device.type == "cpu":
        return _read_compiled(image1, image2, flow, trusted)
    return read_by_tensors(image1, image2, flow, trusted)


def read_by_tensors(image1: Tensor, image2: Tensor, flow: Tensor, trusted: Tensor) -> Readings:
    """`read` by tensor operations, which is how a GPU does it."""
    given, seen = at_points(flow), at_points(trusted)
    factors = _factors(flow.device)
    moved = torch.cat([given.flip(1)[:, None], factors.view(-1, 1, 1, 1) * given[:, None]], dim=1)
    swapped, as_given, still, scaled = 0, 1, 2, slice(3, None)
    before = _normal(at_points(image1[:, 1]), at_points(image1[:, 1]))
    found, inside = _look_up(image2[:, 1], moved)
    found = _normal(found.flatten(1, 2), at_points(image2[:, 1])).view_as(found)
    missed = (found - before[:, None]).abs().clamp(max=CUT)
    missed = torch.where(inside, missed, missed[:, still, None])
    moving = seen & inside[:, as_given] & (given.square().sum(dim=1) >= 1)
    points = moving.sum(dim=(1, 2))
    misfit = torch.where(moving[:, None], missed, 0).sum(dim=(2, 3)) / points.clamp(min=1)[:, None]
    stands = seen & (given == 0).all(dim=1)
    standing_points = stands.sum(dim=(1, 2))
    standing = torch.where(stands, missed[:, still], 0).sum(dim=(1, 2))
    return Readings(
        points=points,
        as_given=misfit[:, as_given],
        swapped=misfit[:, swapped],
        scaled=misfit[:, scaled].amin(dim=1),
        still=misfit[:, still],
        standing_points=standing_points,
        standing=standing / standing_points.clamp(min=1),
    )


@functools.cache
def _factors(device: torch.device) -> Float[Tensor, " N"]:
    """Lengths of flow: as given, still, and FACTORS. Kept, as a copy to the device would wait for it."""
    return torch.tensor((1.0, 0.0, *FACTORS), device=device)


def _read_compiled(image1: Tensor, image2: Tensor, flow: Tensor, trusted: Tensor) -> Readings:
    """`read` in one loop: of a small network's step 60 tensor operations are one per cent."""
    arrays = [tensor.detach().float().numpy() for tensor in (image1[:, 1], image2[:, 1], flow)]
    # Of each sample: moving points, standing ones, the sum of the latter's misfits, and the sums of the
    # former's as given, swapped, still, scaled.
    found = np.zeros((len(flow), 6 + len(FACTORS)))
    stride = STRIDE_PX if float(trusted.float().mean()) >= SPARSE_FRAC else 1
    _sum_misfits(*arrays, trusted.numpy(), np.array(FACTORS), found, stride)
    points, standing_points = torch.from_numpy(found[:, :2]).long().unbind(dim=1)
    standing = torch.from_numpy(found[:, 2]).float() / standing_points.clamp(min=1)
    misfit = torch.from_numpy(found[:, 3:]).float() / points.clamp(min=1)[:, None]
    return Readings(
        points=points,
        as_given=misfit[:, 0],
        swapped=misfit[:, 1],
        scaled=misfit[:, 3:].amin(dim=1),
        still=misfit[:, 2],
        standing_points=standing_points,
        standing=standing,
    )


@njit(cache=True, nogil=True)
@no_type_check
def _sum_misfits(pictures1, pictures2, flows, trusted, factors, found, stride):
    count, height, width = pictures1.shape
    first = stride // 2
    readings = np.empty((3 + len(factors), 2))
    for b in range(count):
        mean1, deviation1 = _moments(pictures1[b])
        mean2, deviation2 = _moments(pictures2[b])
        for row in range(first, height, stride):
            for column in range(first, width, stride):
                u, v = flows[b, 0, row, column], flows[b, 1, row, column]
                x, y = column + u, row + v
                inside = 0 <= x <= width - 1 and 0 <= y <= height - 1
                stands, moves = u == 0 and v == 0, u * u + v * v >= 1 and inside
                if not trusted[b, row, column] or not (stands or moves):
                    continue
                before = (pictures1[b, row, column] - mean1) / deviation1
                still = min(abs((pictures2[b, row, column] - mean2) / deviation2 - before), CUT)
                if stands:
                    found[b, 1] += 1
                    found[b, 2] += still
                    continue
                found[b, 0] += 1
                readings[0, 0], readings[0, 1], readings[1, 0], readings[1, 1] = u, v, v, u
                readings[2:, 0], readings[2:, 1] = 0, 0
                for k in range(len(factors)):
                    readings[3 + k, 0], readings[3 + k, 1] = factors[k] * u, factors[k] * v
                for k in range(len(readings)):
                    x, y = column + readings[k, 0], row + readings[k, 1]
                    missed = still
                    if 0 <= x <= width - 1 and 0 <= y <= height - 1:
                        value = (_bilinear(pictures2[b], y, x) - mean2) / deviation2
                        missed = min(abs(value - before), CUT)
                    found[b, 3 + k] += missed


@njit(cache=True, nogil=True)
@no_type_check
def _moments(picture):
    """Mean and standard deviation over the grid's points, the latter a grey level at least."""
    points = picture[STRIDE_PX // 2 :: STRIDE_PX, STRIDE_PX // 2 :: STRIDE_PX]
    mean = points.mean()
    return mean, max(np.sqrt(np.square(points - mean).sum() / (points.size - 1)), 1.0)


@njit(cache=True, nogil=True)
@no_type_check
def _bilinear(picture, y, x):
    top, left = int(y), int(x)
    bottom, right = min(top + 1, picture.shape[0] - 1), min(left + 1, picture.shape[1] - 1)
    down, along = y - top, x - left
    above = picture[top, left] * (1 - along) + picture[top, right] * along
    below = picture[bottom, left] * (1 - along) + picture[bottom, right] * along
    return above * (1 - down) + below * down


def at_points(values: Tensor) -> Tensor:
    """The values of the grid's points."""
    return values[..., STRIDE_PX // 2 :: STRIDE_PX, STRIDE_PX // 2 :: STRIDE_PX]


def _normal(values: Float[Tensor, "B h w"], like: Float[Tensor, "B k l"]) -> Float[Tensor, "B h w"]:
    """Values as deviations from the mean of others, in their standard deviations, a grey level at least."""
    mean, deviation = like.mean(dim=(1, 2), keepdim=True), like.std(dim=(1, 2), keepdim=True)
    return (values - mean) / deviation.clamp(min=1)


def _look_up(
    picture: Float[Tensor, "B H W"], moved: Float[Tensor, "B N 2 h w"]
) -> tuple[Float[Tensor, "B N h w"], Bool[Tensor, "B N h w"]]:
    """The picture where each point goes by each of N flows, bilinear, and whether that is in frame."""
    height, width = picture.shape[-2:]
    rows = torch.arange(STRIDE_PX // 2, height, STRIDE_PX, device=moved.device)
    columns = torch.arange(STRIDE_PX // 2, width, STRIDE_PX, device=moved.device)
    x, y = columns + moved[:, :, 0], rows[:, None] + moved[:, :, 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    found = F.grid_sample(picture[:, None], grid.flatten(1, 2), align_corners=True)
    return found.view(x.shape), inside


def between_frac(labels: Int64[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Fraction of the pixels between two classes along a row whose own number is between both.

    The order of classes is a convention: a number between two others is there by chance, or because labels
    were blended.
    """
    small = labels.byte()  # Of 64 bits it takes twice as long.
    left, here, right = small[..., :-2], small[..., 1:-1], small[..., 2:]
    border = left != right
    between = (torch.minimum(left, right) < here) & (here < torch.maximum(left, right))
    return (between & border).sum() / border.sum().clamp(min=1)
