"""Whether a batch is what it should be: flow that fits its pictures, labels that are classes, valid pixels.

The cheap half of the alignment test (`data.alignment`): for every batch of a training, on a grid of points.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

STRIDE_PX = 4
"""Points are so far apart, along rows and columns."""
FACTORS = (0.7, 0.8, 0.9, 1.1, 1.25, 1.45)
"""Lengths that flow is tried at."""
CUT = 1.0
"""Differences are cut here, in standard deviations of the picture: what is hidden says nothing."""


class Readings(NamedTuple):
    """For each sample, the mean difference of the frames (0 to CUT) along its flow, read in various ways.

    Over grid points with flow truth of a pixel or more; `points` is how many there are.
    """

    points: Int64[Tensor, " B"]
    as_given: Float[Tensor, " B"]
    swapped: Float[Tensor, " B"]
    scaled: Float[Tensor, " B"]
    """The smallest of flow times each of FACTORS."""
    still: Float[Tensor, " B"]
    false_still: Int64[Tensor, " B"]
    """Trusted points whose flow is exactly 0 where the pictures differ by CUT / 2 or more."""


def read(
    image1: Float[Tensor, "B 3 H W"],
    image2: Float[Tensor, "B 3 H W"],
    flow: Float[Tensor, "B 2 H W"],
    trusted: Bool[Tensor, "B H W"],
) -> Readings:
    """How well frame 2 fits frame 1 along the flow as given, with u and v exchanged, longer, shorter, and not
    at all. Pictures are 0..255 and compared by their green, of mean 0 and variance 1 over the grid. Where a
    reading leaves the frame it misses by as much as no motion does."""
    given, seen = at_points(flow), at_points(trusted)
    factors = torch.tensor((1.0, 0.0, *FACTORS), device=flow.device)
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
    standing = seen & (given == 0).all(dim=1) & (missed[:, still] > CUT / 2)
    return Readings(
        points=points,
        as_given=misfit[:, as_given],
        swapped=misfit[:, swapped],
        scaled=misfit[:, scaled].amin(dim=1),
        still=misfit[:, still],
        false_still=standing.sum(dim=(1, 2)),
    )


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
    """Of the pixels whose neighbours along the row have two classes, the part whose number is between them.

    A class is a number only by convention: between two others, and not one of them, it is by chance, or
    because labels were blended.
    """
    small = labels.byte()  # Comparing is five times as fast as of 64 bits.
    left, here, right = small[..., :-2], small[..., 1:-1], small[..., 2:]
    border = left != right
    between = (torch.minimum(left, right) < here) & (here < torch.maximum(left, right))
    return (between & border).sum() / border.sum().clamp(min=1)
