"""semraft.monitor.monitor: what is written and printed while a run goes on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
import torch

from semraft import tracking
from semraft.agreement import Ending
from semraft.config import LossConfig, ModelConfig, OptimConfig, RunConfig, parse_term, to_json
from semraft.losses.gradient_surgery import StepGradients
from semraft.monitor.monitor import Monitor, is_judged
from semraft.sample import FlowBatch, Prediction
from semraft.training.state import TrainingState, initial_state
from tests.helpers import result_of

CPU = torch.device("cpu")
CONFIG = RunConfig(
    model=ModelConfig(arch="tiny"),
    loss=LossConfig(terms=(parse_term("matching:0.5"),)),
    optim=OptimConfig(steps=2000),
    precision="float32",
)
FLOW = torch.zeros(1, 2, 8, 16)


@pytest.fixture
def state() -> TrainingState:
    return initial_state(CONFIG, CPU)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(to_json(CONFIG))
    return tmp_path


def monitor_of(run: Path, state: TrainingState, config: RunConfig = CONFIG, writes: bool = True) -> Monitor:
    return Monitor(
        run=run,
        config=config,
        model=state.model,
        optimizer=state.optimizer,
        scaler=state.scaler,
        statistics=state.statistics,
        tracker=Mock(spec=tracking.Tracker) if writes else None,
    )


def observe(monitor: Monitor, step: int, length_px: float, **fields: Any) -> None:
    """A step on a pair whose flow is that long and whose truth is 0, at the rate of the schedule."""
    for group in monitor.optimizer.param_groups:
        group["lr"] = monitor.config.optim.rate_at(step - 1)
    features = torch.zeros(1, 3, 1, 2)
    flow = FLOW + torch.tensor([length_px, 0.0])[None, :, None, None]
    prediction = Prediction(flows=[flow], features1=features, features2=features)
    image, valid = torch.rand(1, 3, 8, 16), torch.ones(1, 8, 16, dtype=torch.bool)
    batch = FlowBatch(ids=("a",), image1=image, image2=image, flow=FLOW, valid=valid)
    monitor.observe(result_of(step=step, prediction=prediction, **fields), batch)


def separated(state: TrainingState) -> StepGradients:
    """Gradients of 1, of the flow loss alone."""
    flow = [torch.ones_like(parameter) for parameter in state.model.parameters() if parameter.requires_grad]
    return StepGradients(flow=flow, loss_scale=torch.ones(()), norm=torch.ones(()))


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "pulse.jsonl").read_text().splitlines()]


def state_of(run: Path) -> str:
    verdict: str = json.loads((run / "verdict.json").read_text())["state"]
    return verdict


def test_a_line_of_as_many_steps_as_it_is_the_mean_of(run: Path, state: TrainingState) -> None:
    """Two in a run of 2000. Red when: steps are lost or counted twice, a line has another step, or a line of
    health.jsonl is of another step."""
    monitor = monitor_of(run, state, replace(CONFIG, health_every=3))
    tracker = cast(Mock, monitor.tracker)
    for step in range(1, 5):
        plain = StepGradients(norm=torch.ones(()), separation_s=50.0)
        observe(monitor, step, float(step), gradients=separated(state) if step == 3 else plain)
    lines = lines_of(run)
    assert [(line["step"], line["epe_px"]) for line in lines] == [(2, 1.5), (4, 3.5)]
    assert [call.args[0] for call in tracker.log_health.call_args_list] == [1, 3]
    values = [call.args[1] for call in tracker.log_health.call_args_list]
    assert ["gradient_norm_flow" in line for line in values] == [False, True]
    assert monitor.spent_s == pytest.approx(150, abs=10)
    assert not (run / "verdict.json").exists()


def test_a_process_that_does_not_write_keeps_nothing(run: Path, state: TrainingState) -> None:
    """It observes for the sums that processes exchange. Red when: it writes, or fills its memory."""
    monitor = monitor_of(run, state, writes=False)
    for step in (1, 2, 20):
        observe(monitor, step, 1.0)
    monitor.end()
    assert state.statistics == []
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "config.json"]


def test_a_verdict_every_ten_lines(run: Path, state: TrainingState) -> None:
    """Red when: lines are taken for steps, or no verdict is written in time."""
    assert [step for step in range(1, 61) if is_judged(step, CONFIG)] == [20, 40, 60]
    monitor = monitor_of(run, state)
    observe(monitor, 20, 1.0)
    assert monitor.verdict is not None
    assert state_of(run) == "healthy"
    (step, group, line), _ = cast(Mock, monitor.tracker).draw.call_args
    assert (step, group, line["epe_px"]) == (20, "pulse", 1.0)


def test_a_cause_is_named_once(run: Path, state: TrainingState, capsys: pytest.CaptureFixture[str]) -> None:
    """Red when: every verdict names it again, a second cause is left out, or rollbacks are forgotten."""
    rollback = {"step": 1, "seen_at": 2, "first_step": 2, "cause": "spike", "evidence": "it jumped"}
    tracking.append_line(run / "rollbacks.jsonl", rollback)
    monitor = monitor_of(run, state)
    for step, rate, largest in ((2, 1.0, 8.0), (4, 30.0, 8.0), (6, 30.0, 1e6)):
        line = {"step": step, "rate_ratio": rate, "correlation_abs_max": largest}
        tracking.append_line(run / "pulse.jsonl", line)
        monitor.judge()
    named = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert named == ["! learning-rate since step 4", "! half-overflow since step 6"]
    found = json.loads((run / "verdict.json").read_text())
    assert "went back from step 2 to 1" in found["rollbacks"][0]
    monitor.end()
    first, last = capsys.readouterr().err.splitlines()
    assert "went back from step 2 to 1" in first
    assert "monitoring took" in last


def test_a_step_that_moved_no_weight_leaves_its_line(run: Path, state: TrainingState) -> None:
    """Red when: it is lost, or has no verdict."""
    monitor = monitor_of(run, state)
    observe(monitor, 7, 3.0, ending=Ending.NOT_FINITE)
    (line,) = lines_of(run)
    assert (line["step"], line["epe_px"], state_of(run)) == (7, 3, "stopped")
    assert "gradient_norm" not in line


def test_ranges_are_of_the_training_alone(run: Path, state: TrainingState) -> None:
    """Red when: a validation between two steps counts, the hidden state is looked at in every step, or hooks
    stay after the training."""
    monitor = monitor_of(run, state, replace(CONFIG, health_every=2))
    image = torch.rand(1, 3, 64, 64)
    seen = []
    for step in (1, 2, 3):
        state.model.train()
        state.model(image, image, 1)
        state.model.eval()
        state.model(255 * image, image, 1)
        seen.append({name: float(value) for name, value in monitor.ranges._largest.items()})
        observe(monitor, step, 1.0, gradients=separated(state))
    assert [found.keys() for found in seen] == [
        {"correlation_abs_max", "hidden_abs_max", "inactive_context_pct"},
        {"correlation_abs_max", "hidden_abs_max", "inactive_context_pct"},
        {"correlation_abs_max"},
    ]
    assert len({found["correlation_abs_max"] for found in seen}) == 1
    monitor.close()
    assert not state.model.update_block._forward_hooks
    assert not state.model.update_block.motion_encoder._forward_pre_hooks
    assert not state.model.context_encoder._forward_hooks
