"""Schedules, and weights measured as shares of the flow loss's gradient."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from semraft.config import LossConfig, TermConfig, parse_term
from semraft.losses.objective import Objective
from semraft.losses.term_weights import (
    MEASURED_STEPS,
    NoGradient,
    changing_weights,
    is_measured,
    measure_shares,
    next_flow_level,
    scheduled_frac,
    settled,
    step_weights,
)

NO_LEVEL = torch.zeros(3, dtype=torch.float64)
SHARED = TermConfig(name="label-warp", share=0.4)


def test_schedules_are_functions_of_the_step() -> None:
    """Red when: a ramp starts at 1, never ends, or decay and learning rate are not multiplied with it."""

    def fractions(text: str, steps: tuple[int, ...]) -> list[float]:
        return [scheduled_frac(parse_term(text), step, 100, 0.25, 0.6) for step in steps]

    assert fractions("label-warp:3", (1, 100)) == [1, 1]
    assert fractions("label-warp:3,ramp=20", (1, 10, 20, 100)) == [0.05, 0.5, 1, 1]
    assert fractions("label-warp:3,schedule=decay", (1, 50, 100)) == [0.99, 0.5, 0]
    assert fractions("label-warp:3,schedule=decay,ramp=20", (10, 50)) == [0.45, 0.5]
    assert fractions("label-warp:3,schedule=learning-rate,ramp=20", (10, 50)) == [0.125, 0.25]
    assert fractions("label-warp:3,schedule=flow-loss,ramp=20", (10, 50)) == [0.3, 0.6]
    # A share ramps in from where its weight is first known.
    begin = 30 + MEASURED_STEPS
    shared = "label-warp:share=0.4,measure-after=30,ramp=10"
    assert fractions(shared, (1, begin, begin + 5, begin + 10)) == [0, 0, 0.5, 1]


def test_weights_of_a_step() -> None:
    """Red when: a share has a weight before it is measured, or a schedule is left out."""
    config = LossConfig(terms=(TermConfig(name="matching", weight=3.0, ramp=10), SHARED))
    assert step_weights(config, 5, 100, 1.0, {}, NO_LEVEL) == {"matching": 1.5, "label-warp": 0.0}
    measured = {"label-warp": torch.tensor([0, 0, 0, 7.0])}
    assert step_weights(config, 50, 100, 1.0, measured, NO_LEVEL) == {"matching": 3.0, "label-warp": 7.0}
    assert changing_weights(
        LossConfig(terms=(*config.terms, TermConfig(name="semantic-v1", weight=0.5))),
        {"matching": 1.5, "label-warp": 7.0, "semantic-v1": 0.5},
    ) == {"matching_loss_weight": 1.5, "label_warp_loss_weight": 7.0}


def test_a_weight_falls_with_the_flow_loss() -> None:
    """Red when: the first batch alone is the start, the mean does not follow, the weight rises above itself
    with the loss, or runs without the schedule wait for the device."""
    config = LossConfig(gamma=0.5, terms=(TermConfig(name="matching", weight=3.0, schedule="flow-loss"),))

    def after(level: torch.Tensor, value: float) -> torch.Tensor:
        values = {"flow_loss": torch.tensor([value, value / 2])}  # The sum over refinements is `value`.
        return next_flow_level(Objective(total=torch.zeros(()), values=values), config, level)

    def weight(level: torch.Tensor) -> float:
        return step_weights(config, 1, 100, 1.0, {}, level)["matching"]

    level = NO_LEVEL
    for value in (1.0, 3.0, 2.0, 6.0, 4.0, 4.0, 7.0, 5.0):
        assert weight(level) == 3
        level = after(level, value)
    assert level.tolist() == pytest.approx([4, 4, MEASURED_STEPS])
    assert weight(after(level, 1e6)) == 3
    level = after(level, 2.0)
    assert weight(level) == pytest.approx(3 * (4 - 2 / 50) / 4)
    for _ in range(1000):
        level = after(level, 1.0)
    assert weight(level) == pytest.approx(3 / 4)
    other = LossConfig(terms=(TermConfig(name="matching"),))
    assert next_flow_level(Objective(total=torch.zeros(()), values={}), other, level) is level


def losses_of(shared: nn.Parameter, own: nn.Parameter, step: int) -> Objective:
    """A flow loss with gradient (3, 4) x step in the shared parameters, a term with (0, 2); it has others."""
    flow = step * (3 * shared[0] + 4 * shared[1])
    term = 2 * shared[1] + 100 * own.sum()
    return Objective(total=flow, values={"flow_loss": flow[None], "label_warp_loss": term[None]})


def measure_all(chosen: TermConfig, steps: int) -> tuple[dict[int, dict[str, float]], nn.Parameter]:
    config = LossConfig(terms=(chosen,))
    shared, own = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    measured, found = {}, {}
    for step in range(1, steps + 1):
        losses = losses_of(shared, own, step)
        before, measured = measured, measure_shares(losses, [shared, own], config, step, measured, 2.0**10)
        losses.total.backward()  # The graph is still there.
        if settled(before, measured):
            found[step] = settled(before, measured)
    return found, shared


def test_a_share_is_that_part_of_the_flow_gradient() -> None:
    """Red when: parameters of the term alone count, the ratio is upside down, the loss scale does not cancel,
    a second window forgets to start anew, or a gradient is left behind in the parameters."""
    mean_step = sum(range(1, 9)) / 8
    found, shared = measure_all(SHARED, 30)
    assert found == {8: {"label-warp": pytest.approx(0.4 * 5 * mean_step / 2)}}
    assert shared.grad is not None
    assert shared.grad.tolist() == [3 * sum(range(1, 31)), 4 * sum(range(1, 31))]
    again, _ = measure_all(replace(SHARED, measure_after=3, measure_again=20), 30)
    assert again == {
        11: {"label-warp": pytest.approx(0.4 * 5 * (mean_step + 3) / 2)},
        28: {"label-warp": pytest.approx(0.4 * 5 * (mean_step + 20) / 2)},
    }


def test_windows() -> None:
    """Red when: a term with a weight is measured, or "never again" means step 0."""
    steps = range(1, 60)
    assert [s for s in steps if is_measured(SHARED, s)] == list(range(1, 9))
    again = replace(SHARED, measure_again=40)
    assert [s for s in steps if is_measured(again, s)] == [*range(1, 9), *range(41, 49)]
    assert not any(is_measured(TermConfig(name="label-warp"), s) for s in steps)


def test_a_term_without_a_gradient_has_no_share() -> None:
    """Red when: the weight becomes infinite, or one batch whose gradient overflowed spoils the window."""
    config = LossConfig(terms=(SHARED,))
    shared = nn.Parameter(torch.ones(2))
    flow = shared.sum()
    measured = {}
    idle = Objective(total=flow, values={"flow_loss": flow[None], "label_warp_loss": 0 * flow[None]})
    for step in range(1, 8):
        measured = measure_shares(idle, [shared], config, step, measured)
    with pytest.raises(NoGradient, match=r"'label-warp' has no share .* over 8 batches up to step 8"):
        measure_shares(idle, [shared], config, 8, measured)
    measured = {}
    for step in range(1, 9):
        term = shared.sum() * (float("inf") if step == 3 else 2.0)
        losses = Objective(total=flow, values={"flow_loss": flow[None], "label_warp_loss": term[None]})
        measured = measure_shares(losses, [shared], config, step, measured)
    assert settled({}, measured) == {"label-warp": pytest.approx(0.2)}
