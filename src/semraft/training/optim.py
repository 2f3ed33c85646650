"""AdamW and its one-cycle schedule, a pure function of the step."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from semraft.config import OptimConfig

EXTRA_STEPS = 100
"""The schedule is this much longer than the training, so that the last rate is not zero (RAFT's own)."""


def learning_rate(step: int, config: OptimConfig) -> float:
    """The rate of optimiser step `step` (from 0): linear one-cycle, as torch's OneCycleLR has it.

    Rises from peak / 25 over `warm_up_frac` of the schedule, then falls to peak / 250 000.
    """
    total = config.steps + EXTRA_STEPS
    top = config.warm_up_frac * total - 1
    first, last = config.learning_rate / 25, config.learning_rate / 25e4
    if step <= top:
        return first + (config.learning_rate - first) * step / top
    return config.learning_rate + (last - config.learning_rate) * (step - top) / (total - 1 - top)


def make_optimizer(
    model: nn.Module, config: OptimConfig, besides: Collection[nn.Parameter] = ()
) -> torch.optim.AdamW:
    """AdamW over the weights that train (frozen batch norm has none), no decay of what else is learnt.

    On a GPU it is fused: one kernel for all weights, whose step counters are on the device.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = trained[0].device.type != "cpu"
    optimizer = torch.optim.AdamW(
        trained,
        lr=learning_rate(0, config),
        weight_decay=config.weight_decay,
        eps=config.epsilon,
        fused=fused or None,
    )
    if besides:
        optimizer.add_param_group({"params": list(besides), "weight_decay": 0.0})

    def as_made(_: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's state without the word of the device that it was written on."""
        groups = [group | {"fused": fused or None} for group in saved["param_groups"]]
        return saved | {"param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(as_made)
    return optimizer


def average_decay(step: int, config: OptimConfig) -> float:
    """The part of the average of the weights that stays at optimiser step `step` (from 1).

    (1 + step) / (10 + step) until that is above `ema`, so that the average soon forgets the weights that a
    run started from, however short it is.
    """
    return min(config.ema, (1 + step) / (10 + step))


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves an average of weights: decay x average + (1 - decay) x weights, batch norm statistics likewise.

    What is no fraction (a count of batches) is copied.
    """
    kept, seen = average.state_dict(), model.state_dict()
    floats = [name for name, value in kept.items() if value.is_floating_point()]
    torch._foreach_lerp_([kept[name] for name in floats], [seen[name] for name in floats], 1 - decay)
    for name in kept.keys() - floats:
        kept[name].copy_(seen[name])


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
