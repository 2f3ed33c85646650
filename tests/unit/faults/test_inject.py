"""Planted faults of the step: what it then does, and that nothing changes before."""

from dataclasses import replace
from typing import Literal

import pytest
import torch

from semraft.config import RunConfig
from semraft.config.recipes import RECIPES
from semraft.data import open_dataset
from semraft.data.loader import collate
from semraft.faults.fault_config import Fault, FaultConfig
from semraft.faults.inject import planted
from semraft.monitor.step_stats import line_of
from semraft.sample import FlowBatch
from semraft.training.agreement import TrainingStopped
from semraft.training.state import TrainingState, initial_state
from semraft.training.step import take_step

STEP = 2


def config_of(fault: Fault) -> RunConfig:
    config = RECIPES[f"fault-{fault}"].config
    optim = replace(config.optim, steps=6)
    fault_config = FaultConfig(kind=fault, step=STEP)
    return replace(config, precision="float32", num_updates=2, optim=optim, fault=fault_config)


@pytest.fixture(scope="module")
def batch() -> FlowBatch:
    data = RECIPES["fault-normalization"].config.data
    world = open_dataset("world", None, "train", data.world)
    found = collate([world[index] for index in range(2)])
    known = ~found.moving1 if found.moving1 is not None else found.valid
    return replace(found, valid=known, flow=torch.where(known[:, None], found.flow, 0))


def pulses(fault: Fault, batch: FlowBatch, steps: int = 3) -> tuple[TrainingState, list[dict[str, float]]]:
    config = config_of(fault)
    state = initial_state(config, torch.device("cpu"))
    state.model.train()
    for _ in range(steps):
        take_step(state, batch, config)
    return state, [line_of([pulse]) for pulse in state.pulses]


@pytest.mark.parametrize(
    "fault", ["learning-rate", "normalization", "no-clipping", "v1-weight", "v1-constant"]
)
def test_what_the_configuration_becomes(fault: Fault) -> None:
    """Red when: a fault acts too early, or changes another field."""
    config = config_of(fault)
    state = initial_state(config, torch.device("cpu"))
    assert planted(config, state) == config
    state.step = STEP - 1
    after = planted(config, state)
    optim, loss = config.optim, config.loss
    expected = {
        "learning-rate": replace(config, optim=replace(optim, learning_rate=30 * optim.learning_rate)),
        "normalization": replace(config, loss=replace(loss, normalize="all")),
        "no-clipping": replace(config, optim=replace(optim, clip_norm=0.0)),
    }
    if fault in expected:
        assert after == expected[fault]
    else:
        weights = {chosen.name: chosen.weight for chosen in after.loss.terms}
        assert weights == {"matching": 0.5, "semantic-v1": 20.0 if fault == "v1-weight" else 5.0}


def test_pulses_tell_of_them(batch: FlowBatch) -> None:
    """Red when: what is watched is what the planted configuration asks for, not what the run's own does."""
    _, rates = pulses("learning-rate", batch)
    assert [line["rate_ratio"] for line in rates] == pytest.approx([1, 30, 30])
    _, losses = pulses("normalization", batch)
    ratio = [line["flow_loss"] / line["l1_px"] for line in losses]
    assert ratio[0] == pytest.approx(1, rel=1e-4)
    assert ratio[1] == pytest.approx(losses[1]["trusted_frac"], rel=1e-3)
    _, moments = pulses("optimizer-restart", batch)
    assert [line["optimizer_steps_missing"] for line in moments] == [0, 1, 1]


@pytest.mark.parametrize("normalize", ["all", "valid"])
@pytest.mark.parametrize("truth_frac", [1.0, 0.01])
def test_the_mean_that_the_flow_loss_should_be(
    batch: FlowBatch, normalize: Literal["all", "valid"], truth_frac: float
) -> None:
    """Truth as a laser scanner leaves it included. Red when: the mean of the step statistics is over other
    pixels than the loss is, as when it was over every fourth in each direction."""
    drawn = torch.rand(batch.valid.shape, generator=torch.Generator().manual_seed(1)) < truth_frac
    batch = replace(batch, valid=batch.valid & drawn)
    config = config_of("normalization")
    config = replace(config, loss=replace(config.loss, normalize=normalize), fault=FaultConfig())
    state = initial_state(config, torch.device("cpu"))
    state.model.train()
    take_step(state, batch, config)
    line = line_of(state.pulses)
    assert line["flow_loss"] / line["l1_px"] == pytest.approx(1, rel=1e-4)


def test_the_gradient_after_clipping_is_looked_at(batch: FlowBatch) -> None:
    _, lines = pulses("no-clipping", batch, 5)
    assert lines[4]["clipped_ratio_max"] == pytest.approx(lines[4]["gradient_norm"], rel=1e-4)
    _, sound = pulses("learning-rate", batch, 5)
    assert sound[4]["clipped_ratio_max"] <= 1.001


def test_batch_norm_learns_again(batch: FlowBatch) -> None:
    """Red when: frozen statistics are not told from moving ones."""
    _, lines = pulses("batch-norm", batch, 4)
    sums = [line["batch_norm_sum"] for line in lines]
    assert sums[0] == sums[0]
    assert len(set(sums)) == 4
    state, lines = pulses("label-resize", batch, 1)
    assert "batch_norm_sum" not in lines[0]
    assert state.step == 1


def test_an_overflow_stops_the_run_and_leaves_its_trace(batch: FlowBatch) -> None:
    """Red when: the step that could not be taken leaves no pulse."""
    config = config_of("half-overflow")
    state = initial_state(config, torch.device("cpu"))
    state.model.train()
    take_step(state, batch, config)
    with pytest.raises(TrainingStopped, match="not finite at step 2"):
        take_step(state, batch, config)
    assert len(state.pulses) == 2
    assert float(state.pulses[1]["correlation_abs_max"]) == float("inf")
