"""Recomputation of activations in the backward pass instead of keeping them; `memory` chooses when."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(model: nn.Module, again: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments) of a part of `model`; if `again`, only the arguments are kept for gradients."""
    if not again or not torch.is_grad_enabled():
        return function(*arguments)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), FrozenRunningStats(model)

    return checkpoint(
        function, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )


class FrozenRunningStats:
    """Context in which batch norm updates copies of its running statistics.

    Recomputation must not update the statistics twice.
    Copies rather than no update: torch's norms keep the statistics for the gradient, and recomputation must
    make all kept tensors again. May be entered several times: measuring a term's share takes several backward
    passes through one graph.
    """

    def __init__(self, model: nn.Module) -> None:
        self.norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        self.kept: list[dict[str, Tensor]] = []

    def __enter__(self) -> None:
        self.kept = [dict(norm.named_buffers()) for norm in self.norms]
        for norm, statistics in zip(self.norms, self.kept, strict=True):
            for name, value in statistics.items():
                setattr(norm, name, value.clone())

    def __exit__(self, *error: object) -> None:
        for norm, statistics in zip(self.norms, self.kept, strict=True):
            for name, value in statistics.items():
                setattr(norm, name, value)
