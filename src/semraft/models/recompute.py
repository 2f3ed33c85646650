"""Activations computed again in the backward pass instead of kept: the mechanism. `memory` says when."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(model: nn.Module, again: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), parts of `model`; if `again`, only the arguments are kept for the gradients."""
    if not again or not torch.is_grad_enabled():
        return function(*arguments)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), StatisticsAsTheyAre(model)

    return checkpoint(
        function, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )


class StatisticsAsTheyAre:
    """Inside, batch norm updates copies of its running statistics: a second pass must not count twice.

    Not none at all: torch's own norms keep them for the gradient, and all that is kept must be made again.
    Entered once a backward pass: measuring a loss term's share takes several through one graph.
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
