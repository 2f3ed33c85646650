"""All-pairs correlation of the cells of both frames, and bilinear lookup in it: the reference of all kernels.

Everything here is in float32 (or the features' own float64) whatever the autocast type: a product of
256-channel half-precision features overflows, and half-precision coordinates are off by whole pixels.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def all_pairs(
    features1: Float[Tensor, "B C h w"], features2: Float[Tensor, "B C h w"]
) -> Float[Tensor, "B h w h w"]:
    """The scaled dot product f1(p) . f2(q) / sqrt(C) of every cell p of frame 1 with every cell q of frame 2.

    `[b, i, j]` is the map over frame 2 for cell (i, j) of frame 1; its entries are the logits of a softmax
    over matches. The features are scaled before the product, so that it stays in range (paper, section 3.2,
    which scales after it).
    """
    batch, channels, height, width = features1.shape
    with torch.autocast(features1.device.type, enabled=False):
        rows = (in_full_precision(features1) / channels**0.5).flatten(2).transpose(1, 2)  # B hw C
        columns = in_full_precision(features2).flatten(2)  # B C hw
        return torch.matmul(rows, columns).view(batch, height, width, height, width)


def in_full_precision(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision becomes float32; float32 and float64 stay."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def pyramid(
    features1: Float[Tensor, "B C h w"], features2: Float[Tensor, "B C h w"], levels: int
) -> list[Float[Tensor, "N 1 _ _"]]:
    """The all-pairs volume with its frame 2 averaged over 1, 2, 4, ... cells; N = B h w cells of frame 1."""
    volumes = [all_pairs(features1, features2).flatten(0, 2)[:, None]]
    while len(volumes) < levels:
        volumes.append(F.avg_pool2d(volumes[-1], 2))
    return volumes


def lookup(
    volumes: list[Float[Tensor, "N 1 _ _"]], points: Float[Tensor, "B 2 h w"], radius: int
) -> Float[Tensor, "B D h w"]:
    """Bilinear samples of each level in a window around each point; outside the frame they are zero.

    `points` are (x, y) in cells of frame 2, integers at cell centres. Level l is sampled around points / 2^l,
    at steps of its own cells, from -radius to radius. The D = levels (2 radius + 1)^2 channels run over
    level, then x, then y: the order of the published weights (paper, section 3.2).
    """
    batch, _, height, width = points.shape
    centres = points.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    steps = torch.arange(-radius, radius + 1, device=points.device, dtype=points.dtype)
    window = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)  # x along rows, y along columns
    samples = []
    for level, volume in enumerate(volumes):
        # grid_sample without align_corners puts pixel x at (2x + 1) / size - 1, sound down to one pixel;
        # with it at 2x / (size - 1) - 1: the NaN of public code on images below 128 pixels.
        # new_tensor would fix the frame's size in an exported network.
        size = torch.stack([points.new_ones(()) * volume.shape[side] for side in (-1, -2)])
        grid = ((2 * centres / 2**level + 1) / size - 1) + 2 * window / size
        sampled = F.grid_sample(volume, grid, align_corners=False)
        samples.append(sampled.view(batch, height, width, -1))
    return torch.cat(samples, dim=-1).permute(0, 3, 1, 2).contiguous()
