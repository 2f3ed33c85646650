"""The schedule is torch's OneCycleLR, as a pure function of the step."""

import pytest
import torch
from torch import nn

from semraft.config import OptimConfig
from semraft.training.optim import average_decay, make_optimizer, move_average


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
        assert config.rate_at(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_frozen_weights_are_not_decayed() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.5))
    (group,) = optimizer.param_groups
    assert [parameter.shape for parameter in group["params"]] == [(2, 3)]
    assert group["lr"] == pytest.approx(OptimConfig().learning_rate / 25)
    assert group["weight_decay"] == 0.5


def test_the_average_of_a_few_steps_is_of_these_steps() -> None:
    """Weights and batch norm statistics against the definition, a tensor at a time, over 60 moves.

    Red when: the decay does not rise from little (the start would still weigh 0.94 here), the roles of
    average and weights are exchanged, or a count of batches is averaged.
    """
    torch.manual_seed(0)
    config = OptimConfig(ema=0.999)
    model, average = (nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
    start = {name: value.clone() for name, value in average.state_dict().items()}
    expected = {name: value.double() for name, value in start.items() if value.is_floating_point()}
    of_start = 1.0
    for step in range(1, 61):
        decay = average_decay(step, config)
        assert decay == min(0.999, (1 + step) / (10 + step))
        of_start *= decay
        with torch.no_grad():
            for value in model.state_dict().values():
                value.copy_(torch.randn(value.shape) if value.is_floating_point() else value + 1)
        for name, value in model.state_dict().items():
            if name in expected:
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
        move_average(average, model, decay)
    assert of_start < 1e-9
    assert average_decay(10**6, config) == 0.999
    found = average.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6)
    assert int(found["1.num_batches_tracked"]) == 60
    assert all(parameter.grad_fn is None for parameter in average.parameters())


def test_a_checkpoint_of_a_gpu_goes_on_as_its_new_device_does() -> None:
    """Red when: a state that was saved where AdamW is fused makes it fused on the CPU, or the reverse."""
    model = nn.Linear(2, 3)
    optimizer = make_optimizer(model, OptimConfig())
    saved = optimizer.state_dict()
    saved["param_groups"][0]["fused"] = True
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["fused"] is None
