"""Consequences of a verdict: stop, go back, and the checkpoints kept for that."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from semraft import tracking
from semraft.agreement import TrainingStopped
from semraft.diagnosis.symptoms import Finding
from semraft.diagnosis.verdict import Verdict
from semraft.monitor.monitor import Monitor
from semraft.training.recovery import goes_back, keep_sound, keep_start
from semraft.training.state import TrainingState
from tests.unit.monitor import test_monitor
from tests.unit.monitor.test_monitor import CONFIG, run, state, state_of

__all__ = ["run", "state"]

Wish = Literal["go-on", "stop", "lower-rate", "drop-term"]


def monitor_of(run: Path, state: TrainingState, wish: Wish, first_step: int | None = None) -> Monitor:
    """Of a run that is wrong since a step."""
    monitor = test_monitor.monitor_of(run, state, replace(CONFIG, when_worse=wish))
    if first_step is not None:  # Symptoms are acted on in short runs alone.
        monitor.config = replace(monitor.config, optim=replace(CONFIG.optim, steps=100))
        cause = Finding(name="spike", first_step=first_step, evidence="it jumped")
        monitor.verdict = Verdict(state="worse", first_step=first_step, causes=(cause,), symptoms=(cause,))
    return monitor


def checkpoints(run: Path, names: Iterable[str]) -> None:
    for name in names:
        (run / "checkpoints" / f"{name}.pt").write_text(name)


def kept(run: Path) -> list[str]:
    return sorted(path.stem for path in (run / "checkpoints").iterdir())


def test_a_sound_run_goes_on(run: Path, state: TrainingState) -> None:
    monitor = monitor_of(run, state, "stop")
    assert not goes_back(monitor, state)
    monitor.judge()
    assert not goes_back(monitor, state)
    assert kept(run) == []


def test_a_symptom_that_was_not_validated_over_such_runs_is_only_printed(
    run: Path, state: TrainingState, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 2000 steps. Red when: it stops, or goes on without a word that --when-worse did not act."""
    monitor = monitor_of(run, state, "stop")
    for step in range(1, 61):
        error_px = 1.0 if step < 31 else 9.0
        line = {"step": 2 * step, "epe_px": error_px, "true_length_px": 3.0, "first_epe_px": 2 * error_px}
        tracking.append_line(run / "pulse.jsonl", line)
    monitor.judge()
    assert not goes_back(monitor, state)
    said = capsys.readouterr().err.splitlines()
    (of_spike,) = [number for number, line in enumerate(said) if line.startswith("! spike since step 62")]
    assert said[of_spike + 1].startswith("! --when-worse stop does not act on spike: ")
    assert "runs of up to 180 steps" in said[of_spike + 1]


def test_it_stops_where_that_was_asked_for(run: Path, state: TrainingState) -> None:
    state.step = 30
    reason = "stopped at step 30, as --when-worse stop says: spike since step 25: it jumped"
    with pytest.raises(TrainingStopped, match=reason):
        goes_back(monitor_of(run, state, "stop", 25), state)
    assert state_of(run) == "stopped"


@pytest.mark.parametrize("linked", [True, False])
def test_it_goes_back_to_the_last_sound_checkpoint(
    run: Path, state: TrainingState, linked: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best one is of step 30. Red when: a later checkpoint is left, a sound one goes, or the best one is
    left where it is a copy, as on a file system without hard links."""
    checkpoints(run, ("sound-000000", "sound-000010", "step-000020", "sound-000030", "last"))
    best, of_step_30 = run / "checkpoints" / "best.pt", run / "checkpoints" / "sound-000030.pt"
    if linked:
        best.hardlink_to(of_step_30)
    else:
        shutil.copy(of_step_30, best)
    state.step = 30
    assert goes_back(monitor_of(run, state, "lower-rate", 25), state)
    assert "went back from step 30 to 20" in capsys.readouterr().err
    assert kept(run) == ["last", "sound-000000", "sound-000010", "step-000020"]
    assert (run / "checkpoints" / "last.pt").read_text() == "step-000020"
    (line,) = [json.loads(line) for line in (run / "rollbacks.jsonl").read_text().splitlines()]
    assert (line["step"], line["seen_at"], line["first_step"], line["rate_frac"]) == (20, 30, 25, 0.5)


def test_the_best_checkpoint_stays_if_it_is_sound(run: Path, state: TrainingState) -> None:
    checkpoints(run, ("step-000010", "step-000020", "step-000030", "last"))
    (run / "checkpoints" / "best.pt").hardlink_to(run / "checkpoints" / "step-000010.pt")
    assert goes_back(monitor_of(run, state, "lower-rate", 25), state)
    assert kept(run) == ["best", "last", "step-000010", "step-000020"]


def test_it_gives_up_where_nothing_helps(run: Path, state: TrainingState) -> None:
    """Red when: it goes back for ever, or to weights that went wrong."""
    checkpoints(run, ("sound-000026", "last"))
    with pytest.raises(TrainingStopped, match="and no checkpoint is from before that"):
        goes_back(monitor_of(run, state, "lower-rate", 25), state)
    assert state_of(run) == "stopped"
    checkpoints(run, ("sound-000010",))
    for _ in range(3):
        assert goes_back(monitor_of(run, state, "lower-rate", 25), state)
    with pytest.raises(TrainingStopped, match="after 3 rollbacks: spike since step 25"):
        goes_back(monitor_of(run, state, "lower-rate", 25), state)
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
