"""AdamW, and the moving average of the weights."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from semraft.config import OptimConfig


def make_optimizer(
    model: nn.Module, config: OptimConfig, extra: Collection[nn.Parameter] = ()
) -> torch.optim.AdamW:
    """AdamW over the weights that train (frozen batch norm has none).

    On a GPU it is fused: one kernel for all weights, whose step counters are on the device.

    Args:
        extra: Further parameters, without weight decay.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = trained[0].device.type != "cpu"
    optimizer = torch.optim.AdamW(
        trained,
        lr=config.rate_at(0),
        weight_decay=config.weight_decay,
        eps=config.epsilon,
        fused=fused or None,
    )
    if extra:
        optimizer.add_param_group({"params": list(extra), "weight_decay": 0.0})

    def as_made(_: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's state with this device's `fused` instead of that of the device it was written on."""
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

    Integers (counts of batches) are copied.
    """
    kept, seen = average.state_dict(), model.state_dict()
    floats = [name for name, value in kept.items() if value.is_floating_point()]
    torch._foreach_lerp_([kept[name] for name in floats], [seen[name] for name in floats], 1 - decay)
    for name in kept.keys() - floats:
        kept[name].copy_(seen[name])
