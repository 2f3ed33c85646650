"""semraft.monitor.monitor: what is written and said while a run goes on, and done if it goes wrong."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unittest.mock import Mock

import pytest
import torch

from semraft import tracking
from semraft.config import ModelConfig, OptimConfig, RunConfig, to_json
from semraft.diagnosis.symptoms import Finding
from semraft.diagnosis.verdict import Verdict
from semraft.monitor.gradient_stats import Watch
from semraft.monitor.monitor import RolledBack, Watcher, act, is_judged, keep_sound, keep_start
from semraft.sample import Prediction
from semraft.training.agreement import Ending, TrainingStopped
from semraft.training.state import TrainingState, initial_state
from semraft.training.step import Taken

CPU = torch.device("cpu")
CONFIG = RunConfig(model=ModelConfig(arch="tiny"), optim=OptimConfig(steps=2000), precision="float32")
Wish = Literal["go-on", "stop", "lower-rate", "drop-term"]


@pytest.fixture
def state() -> TrainingState:
    return initial_state(CONFIG, CPU)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(to_json(CONFIG))
    return tmp_path


def watcher_of(run: Path, wish: Wish = "go-on", first_step: int | None = None) -> Watcher:
    """Of a run that is wrong since a step."""
    config = replace(CONFIG, when_worse=wish)
    watcher = Watcher(run=run, config=config, tracker=Mock(spec=tracking.Tracker))
    if first_step is not None:  # Symptoms are acted on in short runs alone.
        watcher.config = replace(config, optim=replace(CONFIG.optim, steps=100))
        cause = Finding(name="spike", first_step=first_step, evidence="it jumped")
        watcher.verdict = Verdict(state="worse", first_step=first_step, causes=(cause,), symptoms=(cause,))
    return watcher


def taken(watch: Watch | None = None) -> Taken:
    flow, features = torch.zeros(1, 2, 8, 16), torch.zeros(1, 3, 1, 2)
    prediction = Prediction(flows=[flow], features1=features, features2=features)
    return Taken(
        prediction=prediction, learning_rate=0.1, weights={}, watch=watch, watched_s=50.0, ending=Ending.NONE
    )


def checkpoints(run: Path, names: Iterable[str]) -> None:
    for name in names:
        (run / "checkpoints" / f"{name}.pt").write_text(name)


def kept(run: Path) -> list[str]:
    return sorted(path.stem for path in (run / "checkpoints").iterdir())


def state_of(run: Path) -> str:
    said: str = json.loads((run / "verdict.json").read_text())["state"]
    return said


def test_a_line_of_as_many_steps_as_it_is_the_mean_of(run: Path, state: TrainingState) -> None:
    """Two in a run of 2000. Red when: steps are lost or told twice, or a line has another step."""
    watcher = watcher_of(run)
    watcher.tracker = tracker = Mock(spec=tracking.Tracker)
    for step in range(1, 5):
        state.step = step
        state.pulses.append({"epe_px": torch.tensor(float(step))})
        watcher.see(state, taken(Watch(device=CPU, values={"moved": 1.5}) if step == 3 else None))
    lines = [json.loads(line) for line in (run / "pulse.jsonl").read_text().splitlines()]
    assert lines == [{"step": 2, "epe_px": 1.5}, {"step": 4, "epe_px": 3.5}]
    (step, values), _ = tracker.log_health.call_args
    assert (step, values["moved"]) == (3, 1.5)
    assert watcher.spent_s == pytest.approx(200, abs=10)
    assert not (run / "verdict.json").exists()


def test_a_verdict_every_ten_lines(run: Path, state: TrainingState) -> None:
    """Red when: lines are taken for steps, or no verdict is written in time."""
    assert [step for step in range(1, 61) if is_judged(step, CONFIG)] == [20, 40, 60]
    watcher = watcher_of(run)
    watcher.tracker = tracker = Mock(spec=tracking.Tracker)
    state.step = 20
    state.pulses.append({"epe_px": torch.tensor(1.0)})
    watcher.see(state, taken())
    assert watcher.verdict is not None
    assert state_of(run) == "healthy"
    tracker.draw.assert_called_once_with(20, "pulse", {"epe_px": 1.0})


def test_a_cause_is_said_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Red when: every verdict says it again, a second cause is not said, or rollbacks are forgotten."""
    rollback = {"step": 1, "seen_at": 2, "first_step": 2, "cause": "spike", "evidence": "it jumped"}
    tracking.append_line(run / "rollbacks.jsonl", rollback)
    watcher = watcher_of(run)
    for step, rate, largest in ((2, 1.0, 8.0), (4, 30.0, 8.0), (6, 30.0, 1e6)):
        line = {"step": step, "rate_ratio": rate, "correlation_abs_max": largest}
        tracking.append_line(run / "pulse.jsonl", line)
        watcher.judge()
    said = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == ["! learning-rate since step 4", "! half-overflow since step 6"]
    found = json.loads((run / "verdict.json").read_text())
    assert "went back from step 2 to 1" in found["rollbacks"][0]
    watcher.end()
    first, last = capsys.readouterr().err.splitlines()
    assert "went back from step 2 to 1" in first
    assert "watching itself took" in last


def test_a_step_that_could_not_be_taken_leaves_its_line(run: Path, state: TrainingState) -> None:
    """Red when: it is lost, or has the step before it."""
    watcher = watcher_of(run)
    state.step = 6
    state.pulses.append({"correlation_abs_max": torch.tensor(float("inf"))})
    watcher.broke(state)
    (line,) = [json.loads(line) for line in (run / "pulse.jsonl").read_text().splitlines()]
    assert (line["step"], state_of(run)) == (7, "stopped")
    watcher.broke(state)
    assert len((run / "pulse.jsonl").read_text().splitlines()) == 1


def test_a_sound_run_goes_on(run: Path, state: TrainingState) -> None:
    act(None, state)
    watcher = watcher_of(run, "stop")
    act(watcher, state)
    watcher.judge()
    act(watcher, state)
    assert kept(run) == []


def test_a_symptom_that_was_not_validated_over_such_runs_is_only_said(
    run: Path, state: TrainingState, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 2000 steps. Red when: it stops, or goes on without a word that --when-worse did not act."""
    watcher = watcher_of(run, "stop")
    for step in range(1, 61):
        error_px = 1.0 if step < 31 else 9.0
        line = {"step": 2 * step, "epe_px": error_px, "true_length_px": 3.0, "first_epe_px": 2 * error_px}
        tracking.append_line(run / "pulse.jsonl", line)
    watcher.judge()
    act(watcher, state)
    said = capsys.readouterr().err.splitlines()
    (of_spike,) = [number for number, line in enumerate(said) if line.startswith("! spike since step 62")]
    assert said[of_spike + 1].startswith("! --when-worse stop does not act on spike: ")
    assert "runs of up to 180 steps" in said[of_spike + 1]


def test_it_stops_where_that_was_asked_for(run: Path, state: TrainingState) -> None:
    state.step = 30
    said = "stopped at step 30, as --when-worse stop says: spike since step 25: it jumped"
    with pytest.raises(TrainingStopped, match=said):
        act(watcher_of(run, "stop", 25), state)
    assert state_of(run) == "stopped"


@pytest.mark.parametrize("linked", [True, False])
def test_it_goes_back_to_the_last_sound_checkpoint(run: Path, state: TrainingState, linked: bool) -> None:
    """The best one is of step 30. Red when: a later checkpoint is left, a sound one goes, or the best one is
    left where it is a copy, as on a file system without hard links."""
    checkpoints(run, ("sound-000000", "sound-000010", "step-000020", "sound-000030", "last"))
    best, of_step_30 = run / "checkpoints" / "best.pt", run / "checkpoints" / "sound-000030.pt"
    if linked:
        best.hardlink_to(of_step_30)
    else:
        shutil.copy(of_step_30, best)
    state.step = 30
    with pytest.raises(RolledBack, match="went back from step 30 to 20"):
        act(watcher_of(run, "lower-rate", 25), state)
    assert kept(run) == ["last", "sound-000000", "sound-000010", "step-000020"]
    assert (run / "checkpoints" / "last.pt").read_text() == "step-000020"
    (line,) = [json.loads(line) for line in (run / "rollbacks.jsonl").read_text().splitlines()]
    assert (line["step"], line["seen_at"], line["first_step"], line["rate_frac"]) == (20, 30, 25, 0.5)


def test_the_best_checkpoint_stays_if_it_is_sound(run: Path, state: TrainingState) -> None:
    checkpoints(run, ("step-000010", "step-000020", "step-000030", "last"))
    (run / "checkpoints" / "best.pt").hardlink_to(run / "checkpoints" / "step-000010.pt")
    with pytest.raises(RolledBack):
        act(watcher_of(run, "lower-rate", 25), state)
    assert kept(run) == ["best", "last", "step-000010", "step-000020"]


def test_it_gives_up_where_nothing_helps(run: Path, state: TrainingState) -> None:
    """Red when: it goes back for ever, or to weights that are spoiled."""
    checkpoints(run, ("sound-000026", "last"))
    with pytest.raises(TrainingStopped, match="and no checkpoint is from before that"):
        act(watcher_of(run, "lower-rate", 25), state)
    assert state_of(run) == "stopped"
    checkpoints(run, ("sound-000010",))
    for _ in range(3):
        with pytest.raises(RolledBack):
            act(watcher_of(run, "lower-rate", 25), state)
    with pytest.raises(TrainingStopped, match="after 3 rollbacks: spike since step 25"):
        act(watcher_of(run, "lower-rate", 25), state)
    assert kept(run) == ["last", "sound-000010"]


def test_the_start_and_the_last_three_are_kept(run: Path, state: TrainingState) -> None:
    """Red when: disks fill up, or what a run may have to go back to is thrown away."""
    lower = replace(CONFIG, when_worse="lower-rate")
    for config in (replace(CONFIG, when_worse="stop"), CONFIG):
        checkpoints(run, ("last",))
        keep_start(state, run, config)
        keep_sound(run, 10, config)
        assert kept(run) == ["last"]
    keep_start(state, run, lower)
    for step in range(10, 60, 10):
        checkpoints(run, ("last",))
        keep_sound(run, step, lower)
    assert kept(run) == ["last", "sound-000000", "sound-000030", "sound-000040", "sound-000050"]
