"""Reduction of every loss: the masked mean at each refinement, and the weighted sum over refinements.

On a CPU the flows of the refinements come as a list and are reduced one after another: the tensors made from
one flow are still in the cache when they are read, and freed before the next. On a GPU the flows come
stacked, for a twelfth of the launches. `quickest` chooses.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Item = TypeVar("Item")
Flows = Sequence[Float[Tensor, "B 2 H W"]] | Float[Tensor, "T B 2 H W"]
"""The flow after each refinement, in pixels."""
PixelValues = tuple[Float[Tensor, " t *pixels"], Bool[Tensor, "*pixels"] | Bool[Tensor, " t *pixels"]]
"""The loss of every pixel at some refinements, and the mask of the pixels that count: one for all of these
refinements, or one for each."""
PixelLoss = Callable[[Float[Tensor, "t B 2 H W"]], PixelValues]
"""A loss before its reduction, as a function of the flow at some refinements, at least in float32."""


def quickest(flows: Sequence[Float[Tensor, "B 2 H W"]]) -> Flows:
    """The flows as a list on the CPU, else stacked: see the module's description."""
    return flows if flows[0].device.type == "cpu" else torch.stack(list(flows))


def in_turn(flows: Flows) -> Iterator[Float[Tensor, "t B 2 H W"]]:
    """Stacked flows at once, flows of a list one by one; at least in float32."""
    together = [flows] if isinstance(flows, Tensor) else (flow[None] for flow in flows)
    return (at_least_float32(some) for some in together)


def refinement_means(pixel_loss: PixelLoss, flows: Flows) -> Float[Tensor, " T"]:
    """`masked_mean` of a loss at each refinement; processes exchange all counts at once."""
    sums, counts = [], []
    for some in in_turn(flows):
        values, mask = pixel_loss(some)
        sums.append(torch.where(mask, values, 0).flatten(1).sum(dim=1))
        if mask.ndim == values.ndim:
            counts.append(mask.flatten(1).sum(dim=1))
        elif not counts:
            counts.append(mask.sum())
    return over_counts(torch.cat(sums), torch.cat([count.view(-1) for count in counts]))


def over_refinements(pixel_loss: PixelLoss, flows: Flows, gamma: float) -> Float[Tensor, ""]:
    """sum_t gamma^(N-t) of the masked mean of a loss at refinement t."""
    return refinement_sum(refinement_means(pixel_loss, flows), gamma)


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of `values` where `mask` is True, over the whole batch and over all processes.

    Never NaN: an empty mask gives 0 with a zero gradient, and values outside the mask (NaN included) change
    neither value nor gradient.

    Each process returns its own sum divided by the mean count per process. The average over processes, which
    DDP makes of gradients, is then the masked mean of the global batch; the average of per-process means
    would not be.
    """
    return over_counts(torch.where(mask, values, 0).sum(), mask.sum())


def over_counts(
    sums: Float[Tensor, "*shape"], counts: Int64[Tensor, "*shape"] | Int64[Tensor, "1"]
) -> Float[Tensor, "*shape"]:
    """Sums divided by the mean of the counts over all processes: see `masked_mean`."""
    return sums / mean_over_processes(counts.to(sums.dtype)).clamp(min=1 / process_count())


def at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Values as float32, the precision of every loss, whatever that of the network; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


def process_count() -> int:
    """Number of processes that train together; 1 without a process group."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def mean_over_processes(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean of a tensor over all processes, without gradient."""
    value = value.detach()
    if process_count() == 1:
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / process_count()


def largest_over_processes(
    value: Float[Tensor, ""], group: torch.distributed.ProcessGroup | None = None
) -> Float[Tensor, ""]:
    """The largest value over the processes of `group`, or over all."""
    if process_count() == 1:
        return value
    largest = value.clone()
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group)
    return largest


def gathered(own: Item, group: torch.distributed.ProcessGroup | None = None) -> list[Item]:
    """The items of all processes in the order of their ranks, exchanged by `group` or by all."""
    if process_count() == 1:
        return [own]
    everyone: list[Any] = [None] * process_count()
    torch.distributed.all_gather_object(everyone, own, group)
    return everyone


def refinement_weights(count: int, gamma: float, device: torch.device) -> Float[Tensor, " T"]:
    """gamma^(N-t) for t = 1..N: the last refinement has weight 1 (RAFT, equation 7)."""
    return gamma ** torch.arange(count - 1, -1, -1, dtype=torch.float32, device=device)


def refinement_sum(values: Float[Tensor, " T"], gamma: float) -> Float[Tensor, ""]:
    """Sum of one value per refinement, weighted by gamma^(N-t)."""
    return (values * refinement_weights(len(values), gamma, values.device)).sum()
