"""The schedule is torch's OneCycleLR, as a pure function of the step."""

import pytest
import torch
from torch import nn

from semraft.config import OptimConfig
from semraft.training.optim import learning_rate, make_optimizer, set_learning_rate


@pytest.mark.parametrize("steps", [60, 937])
def test_learning_rate_is_one_cycle(steps: int) -> None:
    """Red when: the schedule ends with the training (no extra steps) or warms up over steps alone."""
    config = OptimConfig(steps=steps, learning_rate=4e-4, warm_up_frac=0.05)
    optimizer = torch.optim.AdamW(nn.Linear(2, 3).parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        config.learning_rate,
        total_steps=steps + 100,  # A number: the constant would agree with itself.
        pct_start=0.05,
        anneal_strategy="linear",
        cycle_momentum=False,
    )
    for step in range(steps):
        assert learning_rate(step, config) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_frozen_weights_are_not_decayed() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.5))
    set_learning_rate(optimizer, 0.25)
    (group,) = optimizer.param_groups
    assert [parameter.shape for parameter in group["params"]] == [(2, 3)]
    assert group["lr"] == 0.25
    assert group["weight_decay"] == 0.5
