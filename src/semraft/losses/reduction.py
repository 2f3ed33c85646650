"""The one reduction every loss uses: the masked mean, and the sum over refinements.

Flows come as a list, one for each refinement, and are judged one after another: what is made of one is still
in a CPU's cache when it is read, and is freed before the next. Or they come stacked, and are judged at once:
a GPU is asked for a twelfth of the operations. `quickest` chooses.
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
Judged = tuple[Float[Tensor, " t *pixels"], Bool[Tensor, "*pixels"] | Bool[Tensor, " t *pixels"]]
"""A value for every pixel of some refinements; and which count, of all of these alike or of each."""


def quickest(flows: Sequence[Float[Tensor, "B 2 H W"]]) -> Flows:
    """The flows of all refinements as their device judges them soonest."""
    return flows if flows[0].device.type == "cpu" else torch.stack(list(flows))


def in_turn(flows: Flows) -> Iterator[Float[Tensor, "t B 2 H W"]]:
    """Stacked flows at once, those of a list one by one; in what a loss computes in."""
    together = [flows] if isinstance(flows, Tensor) else (flow[None] for flow in flows)
    return (at_least_float32(some) for some in together)


def refinement_means(
    judge: Callable[[Float[Tensor, "t B 2 H W"]], Judged], flows: Flows
) -> Float[Tensor, " T"]:
    """`masked_mean` of what is found at each refinement, whose counts processes exchange once."""
    sums, counts = [], []
    for some in in_turn(flows):
        values, mask = judge(some)
        sums.append(torch.where(mask, values, 0).flatten(1).sum(dim=1))
        if mask.ndim == values.ndim:
            counts.append(mask.flatten(1).sum(dim=1))
        elif not counts:
            counts.append(mask.sum())
    return over_counts(torch.cat(sums), torch.cat([count.view(-1) for count in counts]))


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of `values` where `mask` is True, over the whole batch and over all processes.

    Never NaN: where the mask is empty it is 0 with a zero gradient, and values outside the mask (NaN
    included) change neither value nor gradient.

    Under several processes each returns its own sum divided by the mean count per process. The average over
    processes - which is what DDP makes of gradients - is then the masked mean of the global batch, as one
    process would compute it; the average of per-process means would not be.
    """
    return over_counts(torch.where(mask, values, 0).sum(), mask.sum())


def over_counts(
    sums: Float[Tensor, "*shape"], counts: Int64[Tensor, "*shape"] | Int64[Tensor, "1"]
) -> Float[Tensor, "*shape"]:
    """Sums over what a mask selects, as means over all processes: see `masked_mean`."""
    return sums / mean_over_processes(counts.to(sums.dtype)).clamp(min=1 / process_count())


def at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What a loss computes in, whatever precision the network ran in; float64 stays."""
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
    """The largest of a number that every process has one of; of those in `group`, or all."""
    if process_count() == 1:
        return value
    largest = value.clone()
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group)
    return largest


def gathered(own: Item, group: torch.distributed.ProcessGroup | None = None) -> list[Item]:
    """What every process has, in the order of their ranks; exchanged by `group`, or by all."""
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
