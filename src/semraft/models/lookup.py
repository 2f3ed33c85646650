"""Correlation windows by what is fastest where they run: the numbers are `correlation.lookup`'s.

Either the all-pairs volume is stored and read, or only the products a window needs are made, on demand:
memory then grows with the pixels, not with their square. Both have kernels for the CPU (Numba) and for GPUs
(Triton). Elsewhere, and in float64, windows are sampled as `correlation` defines them.

All refinements of a pair add to one gradient of what they read, instead of each handing back a volume of its
own, which costs more than the lookups themselves. A token ties them together: autograd hands on the sums
when it has passed every refinement.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from semraft.config import CorrelationKind
from semraft.kernels.cpu import correlation_numba
from semraft.models import correlation
from semraft.models.convolution import in_fast_format
from semraft.models.memory import volumes_fit

CHEAPER_ON_DEMAND_CELLS = {"inference": 150, "training": 400}
"""Cells for each refinement above which products on demand take less time than the volume, on a CPU.

Building a volume grows with the square of the cells, a window with their number (docs/performance.md)."""

Cut = Callable[[Float[Tensor, "B 2 h w"]], Float[Tensor, "B D h w"]]
"""Windows around points (x, y) in cells of frame 2; channels over level, then x, then y."""


def window_cutter(
    features1: Float[Tensor, "B C h w"],
    features2: Float[Tensor, "B C h w"],
    levels: int,
    radius: int,
    num_updates: int,
    kind: CorrelationKind = "auto",
) -> Cut:
    """What cuts windows out of the correlation of two frames; gradients go to the features.

    The features are float32, or float64. `num_updates` says how often it will be used, for `auto`.

    Raises:
        ValueError: `on-demand` where there is no kernel for it.
    """
    kernels = _kernels(features1)
    if kernels is None:
        if kind == "on-demand":
            where = f"{features1.dtype} on {features1.device.type}"
            raise ValueError(f"correlation on demand has no kernel for {where}: take all-pairs or auto")
        volumes = correlation.pyramid(features1, features2, levels)
        return lambda points: correlation.lookup(volumes, points, radius)
    read = _read(kernels, choose(kind, features1, num_updates), features1, features2, levels, radius)
    token: Tensor = _share(read, *read.tensors)

    def cut(points: Tensor) -> Tensor:
        batch, _, height, width = points.shape
        rows = points.permute(0, 2, 3, 1).reshape(read.rows).contiguous()
        windows: Tensor = _cut(token, read, rows)
        return in_fast_format(windows.view(batch, height, width, -1).permute(0, 3, 1, 2))

    return cut


def choose(
    kind: CorrelationKind, features: Float[Tensor, "B C h w"], num_updates: int
) -> Literal["all-pairs", "on-demand"]:
    """The kind itself, or what `auto` means for features of this size and place."""
    if kind != "auto":
        return kind
    batch, _, height, width = features.shape
    cells = height * width
    trains = torch.is_grad_enabled() and features.requires_grad
    if features.device.type == "cpu":
        limit = CHEAPER_ON_DEMAND_CELLS["training" if trains else "inference"]
        return "on-demand" if cells > limit * num_updates else "all-pairs"
    return "all-pairs" if volumes_fit(batch, cells, trains, features.device) else "on-demand"


@dataclass
class _Read:
    """What windows are read from, how, and the gradients that they have added up for it."""

    look: Callable[[tuple[Tensor, ...], Tensor], Tensor]
    look_backward: Callable[[Tensor, tuple[Tensor, ...], Tensor, tuple[Tensor, ...]], None]
    tensors: tuple[Tensor, ...]
    rows: tuple[int, ...]
    sums: tuple[Tensor, ...] = field(default=())

    def take_sums(self) -> tuple[Tensor, ...]:
        sums, self.sums = self.sums, ()
        return sums


def _read(
    kernels: ModuleType,
    kind: Literal["all-pairs", "on-demand"],
    features1: Tensor,
    features2: Tensor,
    levels: int,
    radius: int,
) -> _Read:
    batch, channels, height, width = features1.shape
    averaged = [features2]
    while len(averaged) < levels:
        averaged.append(F.avg_pool2d(averaged[-1], 2))
    rows = features1.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    if kind == "on-demand":
        pixels = [features.permute(0, 2, 3, 1).contiguous() for features in averaged]
        return _Read(
            look=lambda read, points: kernels.correlate(read[0], read[1:], points, radius),
            look_backward=lambda gradient, read, points, sums: kernels.correlate_backward(
                gradient, read[0], read[1:], points, radius, sums[0], sums[1:]
            ),
            tensors=(rows.contiguous(), *pixels),
            rows=(batch, height * width, 2),
        )
    with torch.autocast(features1.device.type, enabled=False):
        scaled = rows / channels**0.5
        # A product with averaged features is the average of the products: no volume is averaged.
        volumes = [
            torch.matmul(scaled, features.flatten(2)).view(-1, *features.shape[2:]) for features in averaged
        ]
    return _Read(
        look=lambda read, points: kernels.look_up(read, points, radius),
        look_backward=lambda gradient, read, points, sums: kernels.look_up_backward(
            gradient, points, radius, sums
        ),
        tensors=tuple(volumes),
        rows=(batch * height * width, 2),
    )


class _Share(torch.autograd.Function):
    """A token that stands for `read.tensors`: its backward hands them the sums of all windows' gradients."""

    @staticmethod
    def forward(ctx: Any, read: _Read, *tensors: Tensor) -> Tensor:
        read.tensors = tuple(tensor.detach() for tensor in tensors)
        ctx.read = read
        return tensors[0].new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.read.take_sums()


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, read: _Read, points: Tensor) -> Tensor:
        ctx.save_for_backward(points)
        ctx.read = read
        return read.look(read.tensors, points)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (points,) = ctx.saved_tensors
        read: _Read = ctx.read
        if not read.sums:
            read.sums = tuple(torch.zeros_like(tensor) for tensor in read.tensors)
        read.look_backward(gradient.contiguous(), read.tensors, points, read.sums)
        return gradient.new_zeros(()), None, None


_share: Any = _Share.apply
_cut: Any = _Cut.apply


def _kernels(features: Tensor) -> ModuleType | None:
    if features.dtype != torch.float32:
        return None
    if features.device.type == "cpu":
        return correlation_numba
    if features.device.type == "cuda":
        try:
            from semraft.kernels.gpu import correlation_triton
        except ImportError:
            return None
        return correlation_triton
    return None
