"""Weights of terms: schedules, shares of the flow loss's gradient, learnt log variances."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from semraft.config import LossConfig, OptimConfig, RunConfig, TermConfig, parse_term
from semraft.losses.objective import Objective
from semraft.losses.term_weights import (
    MEASURED_STEPS,
    NoGradient,
    TermWeights,
    changing_weights,
    is_measured,
    scheduled_frac,
)

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


def config_of(*terms: TermConfig) -> RunConfig:
    return RunConfig(loss=LossConfig(gamma=0.5, terms=terms), optim=OptimConfig(steps=100))


def test_weights_of_a_step() -> None:
    """Red when: a share has a weight before it is measured, or a schedule is left out."""
    config = config_of(
        TermConfig(name="matching", weight=3.0, ramp=10),
        SHARED,
        TermConfig(name="census", weight=2.0, schedule="learning-rate"),
    )
    rate_frac = config.optim.rate_at(4) / config.optim.learning_rate
    assert 0 < rate_frac < 1
    expected = {"matching": 1.5, "label-warp": 0.0, "census": pytest.approx(2 * rate_frac)}
    assert TermWeights().at(5, config) == expected
    weights = TermWeights(shares={"label-warp": torch.tensor([0, 0, 0, 7.0])})
    assert weights.at(50, config)["matching"] == 3
    assert weights.at(50, config)["label-warp"] == 7
    assert changing_weights(
        LossConfig(terms=(*config.loss.terms[:2], TermConfig(name="semantic-v1", weight=0.5))),
        {"matching": 1.5, "label-warp": 7.0, "semantic-v1": 0.5},
    ) == {"matching_loss_weight": 1.5, "label_warp_loss_weight": 7.0}


def test_a_weight_falls_with_the_flow_loss() -> None:
    """Red when: the first batch alone is the start, the mean does not follow, the weight rises above itself
    with the loss, or runs without the schedule wait for the device."""
    config = config_of(TermConfig(name="matching", weight=3.0, schedule="flow-loss"))
    weights = TermWeights()

    def follow(value: float) -> None:
        values = {"flow_loss": torch.tensor([value, value / 2])}  # The sum over refinements is `value`.
        weights.learn(Objective(total=torch.zeros(()), values=values), {}, config.loss)

    def weight() -> float:
        return weights.at(1, config)["matching"]

    for value in (1.0, 3.0, 2.0, 6.0, 4.0, 4.0, 7.0, 5.0):
        assert weight() == 3
        follow(value)
    assert weights.flow_level.tolist() == pytest.approx([4, 4, MEASURED_STEPS])
    level = weights.flow_level
    follow(1e6)
    assert weight() == 3
    weights.flow_level = level
    follow(2.0)
    assert weight() == pytest.approx(3 * (4 - 2 / 50) / 4)
    for _ in range(1000):
        follow(1.0)
    assert weight() == pytest.approx(3 / 4)
    level = weights.flow_level
    other = config_of(TermConfig(name="matching"))
    weights.learn(Objective(total=torch.zeros(()), values={}), {}, other.loss)
    assert weights.flow_level is level


def losses_of(shared: nn.Parameter, own: nn.Parameter, step: int) -> Objective:
    """A flow loss with gradient (3, 4) x step in the shared parameters, a term with (0, 2); it has others."""
    flow = step * (3 * shared[0] + 4 * shared[1])
    term = 2 * shared[1] + 100 * own.sum()
    return Objective(total=flow, values={"flow_loss": flow[None], "label_warp_loss": term[None]})


def measure_all(chosen: TermConfig, steps: int) -> tuple[dict[int, dict[str, float]], nn.Parameter]:
    config = LossConfig(terms=(chosen,))
    shared, own = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    weights, found = TermWeights(), {}
    for step in range(1, steps + 1):
        losses = losses_of(shared, own, step)
        known = weights.measure_shares(losses, [shared, own], config, step, 2.0**10)
        losses.total.backward()  # The graph is still there.
        if known:
            found[step] = known
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
    weights = TermWeights()
    idle = Objective(total=flow, values={"flow_loss": flow[None], "label_warp_loss": 0 * flow[None]})
    for step in range(1, 8):
        weights.measure_shares(idle, [shared], config, step, 1.0)
    with pytest.raises(NoGradient, match=r"'label-warp' has no share .* over 8 batches up to step 8"):
        weights.measure_shares(idle, [shared], config, 8, 1.0)
    weights = TermWeights()
    for step in range(1, 9):
        term = shared.sum() * (float("inf") if step == 3 else 2.0)
        losses = Objective(total=flow, values={"flow_loss": flow[None], "label_warp_loss": term[None]})
        known = weights.measure_shares(losses, [shared], config, step, 1.0)
    assert known == {"label-warp": pytest.approx(0.2)}


LEARNT = config_of(
    TermConfig(name="label-warp", weight=3.0, modulation="uncertainty"),
    TermConfig(name="matching", weight=2.0),
    TermConfig(name="smoothness", weight=1.0, modulation="uncertainty"),
)
VALUES = {
    "flow_loss": torch.tensor([9.0, 9.0]),
    "label_warp_loss": torch.tensor([0.4, 0.6]),  # 0.8 as a sum over refinements.
    "matching_loss": torch.tensor([7.0]),
    "smoothness_loss": torch.tensor([1.0, 1.0]),
}
LOSSES = Objective(total=torch.zeros(()), values=VALUES)


def test_the_gradient_of_a_log_variance_is_that_of_the_formula() -> None:
    """Against autograd of w (exp(-s) L + s/2). Red when: the half or the weight is left out, the sign is
    turned, refinements are not weighted, or a term of weight 0 moves its variance."""
    learnt = TermWeights.initial(LEARNT.loss)
    assert learnt.known_log_variances() == {"label-warp": 0.0, "smoothness": 0.0}
    assert learnt.at(1, LEARNT) == {"label-warp": 3.0, "matching": 2.0, "smoothness": 1.0}
    with torch.no_grad():
        learnt.log_variances["label-warp"].fill_(0.7)
    weights = learnt.at(1, LEARNT) | {"smoothness": 0.0}
    learnt.learn(LOSSES, weights, LEARNT.loss)
    s = torch.tensor(0.7, requires_grad=True)
    loss = 3 * (torch.exp(-s) * 0.8 + s / 2)
    loss.backward()
    found, expected = learnt.log_variances["label-warp"].grad, s.grad
    assert found is not None
    assert expected is not None
    assert weights["label-warp"] == pytest.approx(3 * float(torch.exp(-s.detach())))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert learnt.log_variances["smoothness"].grad is None


def test_a_learnt_weight_settles_where_the_source_says() -> None:
    """exp(-s) = 1 / (2 L). Red when: it runs away, or the weight shifts it."""
    learnt = TermWeights.initial(LEARNT.loss)
    optimizer = torch.optim.Adam(learnt.log_variances.values(), lr=0.05)
    for _ in range(400):
        weights = learnt.at(1, LEARNT)
        learnt.learn(LOSSES, weights, LEARNT.loss)
        optimizer.step()
    assert weights["label-warp"] == pytest.approx(3 / 1.6, rel=1e-3)
    assert weights["smoothness"] == pytest.approx(1 / 3, rel=1e-3)
    assert weights["matching"] == 2.0


def test_a_share_is_not_modulated() -> None:
    """Its weight would drift from the share that was asked for."""
    with pytest.raises(
        ValueError, match="smoothness modulation is uncertainty: expected none beside a share"
    ):
        parse_term("smoothness:share=0.3,modulation=uncertainty")
