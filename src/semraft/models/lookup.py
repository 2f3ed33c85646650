"""Correlation lookup with device-specific kernels; equivalent to `correlation.lookup`.

Either the all-pairs volume is stored and read, or the products of a window are computed on demand: memory
then grows with the pixels, not with their square. Without a kernel (`kernels.choice`) the lookup is the
reference.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from semraft.config import CorrelationKind
from semraft.kernels import choice
from semraft.kernels.conv2d import in_fast_format
from semraft.kernels.shared_gradient import Read, shared_reader
from semraft.models import correlation
from semraft.models.memory import volumes_fit

CHEAPER_ON_DEMAND_CELLS = {"inference": 150, "training": 400}
"""Cells for each refinement above which products on demand take less time than the volume, on a CPU.

Building a volume grows with the square of the cells, a window with their number (docs/performance.md)."""

Lookup = Callable[[Float[Tensor, "B 2 h w"]], Float[Tensor, "B D h w"]]
"""Correlation windows around points (x, y) in cells of frame 2; channels run over level, then x, then y."""


def make_lookup(
    features1: Float[Tensor, "B C h w"],
    features2: Float[Tensor, "B C h w"],
    levels: int,
    radius: int,
    num_updates: int,
    kind: CorrelationKind = "auto",
) -> Lookup:
    """The lookup in the correlation of two frames; gradients go to the features.

    Args:
        features1: In float32, or float64, as are those of frame 2.
        num_updates: Number of lookups, for `auto`.

    Raises:
        ValueError: `on-demand` where there is no kernel for it.
    """
    if choice.correlation_kernels(features1) is None:
        if kind == "on-demand":
            where = f"{features1.dtype} on {features1.device.type}"
            raise ValueError(f"correlation on demand has no kernel for {where}: take all-pairs or auto")
        volumes = correlation.pyramid(features1, features2, levels)
        return lambda points: correlation.lookup(volumes, points, radius)
    on_demand = choose(kind, features1, num_updates) == "on-demand"
    read = (_products_on_demand if on_demand else _stored_volume)(features1, features2, levels, radius)
    look_up = shared_reader(read)
    batch, _, height, width = features1.shape
    rows = (batch, height * width, 2) if on_demand else (batch * height * width, 2)

    def lookup(points: Tensor) -> Tensor:
        windows = look_up(points.permute(0, 2, 3, 1).reshape(rows).contiguous())
        return in_fast_format(windows.view(batch, height, width, -1).permute(0, 3, 1, 2))

    return lookup


def choose(
    kind: CorrelationKind, features: Float[Tensor, "B C h w"], num_updates: int
) -> Literal["all-pairs", "on-demand"]:
    """The kind itself, or the meaning of `auto` for features of this size and device."""
    if kind != "auto":
        return kind
    batch, _, height, width = features.shape
    cells = height * width
    trains = torch.is_grad_enabled() and features.requires_grad
    if features.device.type == "cpu":
        limit = CHEAPER_ON_DEMAND_CELLS["training" if trains else "inference"]
        return "on-demand" if cells > limit * num_updates else "all-pairs"
    return "all-pairs" if volumes_fit(batch, cells, trains, features.device) else "on-demand"


def _averaged(features2: Float[Tensor, "B C h w"], levels: int) -> list[Float[Tensor, "B C _ _"]]:
    """Features of frame 2 averaged over 1, 2, 4, ... cells: products with them are averages of products."""
    averaged = [features2]
    while len(averaged) < levels:
        averaged.append(F.avg_pool2d(averaged[-1], 2))
    return averaged


def _stored_volume(features1: Tensor, features2: Tensor, levels: int, radius: int) -> Read:
    kernels, channels = choice.correlation_kernels(features1), features1.shape[1]
    assert kernels is not None
    with torch.autocast(features1.device.type, enabled=False):
        rows = features1.permute(0, 2, 3, 1).flatten(1, 2) / channels**0.5
        volumes = [
            torch.matmul(rows, features.flatten(2)).view(-1, *features.shape[2:])
            for features in _averaged(features2, levels)
        ]
    return Read(
        tensors=tuple(volumes),
        forward=lambda read, points: kernels.look_up(read, points, radius),
        backward=lambda gradient, read, points, sums: kernels.look_up_backward(
            gradient, points, radius, sums
        ),
    )


def _products_on_demand(features1: Tensor, features2: Tensor, levels: int, radius: int) -> Read:
    kernels = choice.correlation_kernels(features1)
    assert kernels is not None
    rows = features1.permute(0, 2, 3, 1).flatten(1, 2).contiguous()
    averaged = _averaged(features2, levels)
    return Read(
        tensors=(rows, *(features.permute(0, 2, 3, 1).contiguous() for features in averaged)),
        forward=lambda read, points: kernels.correlate(read[0], read[1:], points, radius),
        backward=lambda gradient, read, points, sums: kernels.correlate_backward(
            gradient, read[0], read[1:], points, radius, sums[0], sums[1:]
        ),
    )
