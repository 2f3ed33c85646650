"""The one reduction every loss uses: the masked mean, and the sum over refinements."""

from typing import Any, TypeVar

import torch
import torch.distributed
from jaxtyping import Bool, Float
from torch import Tensor

Item = TypeVar("Item")


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of `values` where `mask` is True, over the whole batch and over all processes.

    Never NaN: where the mask is empty it is 0 with a zero gradient, and values outside the mask (NaN
    included) change neither value nor gradient.

    Under several processes each returns its own sum divided by the mean count per process. The average over
    processes - which is what DDP makes of gradients - is then the masked mean of the global batch, as one
    process would compute it; the average of per-process means would not be.
    """
    total = torch.where(mask, values, 0).sum()
    return total / mean_over_processes(mask.sum().to(values.dtype)).clamp(min=1 / process_count())


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
