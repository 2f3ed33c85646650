"""Writes down what a training sees of itself, and says what is wrong with it while there is time."""

import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from semraft import tracking
from semraft.config import RunConfig
from semraft.diagnosis.record import RecordReader
from semraft.diagnosis.rollback import (
    GOES_BACK,
    MAX_ROLLBACKS,
    VALIDATED_STEPS,
    acted_on,
    is_acted_on,
    plan,
    read_rollbacks,
    sound_checkpoints,
)
from semraft.diagnosis.verdict import Verdict, judge, write_verdict
from semraft.losses.reduction import largest_over_processes
from semraft.monitor.step_stats import pulse_every
from semraft.training.agreement import TrainingStopped
from semraft.training.checkpoint import link_checkpoint
from semraft.training.state import TrainingState
from semraft.training.step import Taken

JUDGED_LINES = 10
"""Lines of pulse.jsonl between two verdicts."""
SOUND_KEPT = 3
"""Checkpoints kept to go back to, beside those of validations."""


class RolledBack(Exception):
    """The run went wrong, and its last checkpoint is one of before that."""


def is_judged(step: int, config: RunConfig) -> bool:
    """Whether there is a verdict after this step."""
    return step % (pulse_every(config) * JUDGED_LINES) == 0


@dataclass(kw_only=True, slots=True)
class Watcher:
    """Of the process that writes a run."""

    run: Path
    config: RunConfig
    tracker: tracking.Tracker
    began_s: float = field(default_factory=time.perf_counter)
    spent_s: float = 0.0
    said: set[str] = field(default_factory=set)
    """Causes that the person was told of."""
    reader: RecordReader = field(init=False)
    verdict: Verdict | None = None
    """The last one."""

    def __post_init__(self) -> None:
        self.reader = RecordReader(self.run)

    @property
    def share_pct(self) -> float:
        """The part of the training's time that watching took so far."""
        return 100 * self.spent_s / (time.perf_counter() - self.began_s)

    def see(self, state: TrainingState, taken: Taken) -> None:
        """Writes what a step told of itself; every so often, the verdict so far."""
        started, every = time.perf_counter(), pulse_every(self.config)
        if taken.watch is not None:
            self.tracker.log_health(state.step, taken.watch.values | {"watching_pct": self.share_pct})
        if state.step % every == 0:
            self._write_pulse(state, state.step)
        if is_judged(state.step, self.config):
            self.judge()
        self.spent_s += taken.watched_s + time.perf_counter() - started

    def judge(self, stopped: bool = False) -> None:
        """The verdict so far: into verdict.json, and what is new in it to the person."""
        verdict = self.verdict = judge(self.reader.read(), stopped)
        write_verdict(self.run, verdict, [rollback.text() for rollback in read_rollbacks(self.run)])
        for cause in verdict.causes:
            if cause.name not in self.said:
                self.said.add(cause.name)
                what = f"{cause.name} since step {cause.first_step}: {cause.evidence}"
                tqdm.write(f"! {what} (semraft diagnose {self.run})", sys.stderr)
                asked = self.config.when_worse
                if asked != "go-on" and not is_acted_on(self.config, cause):
                    why = f"false alarms were counted in runs of up to {VALIDATED_STEPS} steps, or not yet"
                    tqdm.write(f"! --when-worse {asked} does not act on {cause.name}: {why}", sys.stderr)

    def end(self) -> None:
        """Called after the last step and its validation."""
        self.judge()
        for rollback in read_rollbacks(self.run):
            print(f"! {self.run} {rollback.text()}", file=sys.stderr)
        part = f"{self.share_pct:.1f} % of the time"
        print(f"watching itself took {part}: {self.run / tracking.HEALTH}", file=sys.stderr)

    def broke(self, state: TrainingState) -> None:
        """Called before a training stops at a step that it could not take: its pulse is evidence."""
        if state.pulses:
            self._write_pulse(state, state.step + 1)
        self.judge(stopped=True)

    def _write_pulse(self, state: TrainingState, step: int) -> None:
        pulse = state.close_pulses()
        tracking.append_line(self.run / tracking.PULSE, {"step": step, **pulse})
        if is_judged(step, self.config):
            self.tracker.draw(step, "pulse", pulse)


def act(watcher: Watcher | None, state: TrainingState) -> None:
    """Does what the configuration wants of a run that has gone wrong; all processes call it together.

    Raises:
        TrainingStopped: It is to stop, or can't go back.
        RolledBack: It has gone back.
    """
    wrong = (
        watcher is not None
        and watcher.verdict is not None
        and acted_on(watcher.config, watcher.verdict) is not None
    )
    device = next(state.model.parameters()).device
    if not largest_over_processes(torch.tensor(float(wrong), device=device)):
        return
    # The first process does it, and the others wait to hear what it was.
    consequence = None if watcher is None else _consequence(watcher, state.step)
    has_gone_back = torch.tensor(float(isinstance(consequence, RolledBack)), device=device)
    has_gone_back = largest_over_processes(has_gone_back)
    if consequence is not None:
        raise consequence
    raise (RolledBack if has_gone_back else TrainingStopped)("the run went wrong: its first process says how")


def _consequence(watcher: Watcher, step: int) -> TrainingStopped | RolledBack:
    """What becomes of a run that has gone wrong, done as far as it is a matter of files."""
    assert watcher.verdict is not None
    run, config, cause = watcher.run, watcher.config, acted_on(watcher.config, watcher.verdict)
    assert cause is not None
    what = f"{cause.name} since step {cause.first_step}: {cause.evidence}"
    if config.when_worse == "stop":
        watcher.judge(stopped=True)
        return TrainingStopped(f"stopped at step {step}, as --when-worse stop says: {what}")
    checkpoints, before = sound_checkpoints(run), read_rollbacks(run)
    rollback = plan(config, cause, step, checkpoints)
    if rollback is None or len(before) == MAX_ROLLBACKS:
        watcher.judge(stopped=True)
        why = f"after {MAX_ROLLBACKS} rollbacks" if rollback else "and no checkpoint is from before that"
        return TrainingStopped(f"stopped at step {step}, {why}: {what}")
    best = run / tracking.CHECKPOINTS / "best.pt"
    for path in (path for saved, path in checkpoints.items() if saved > rollback.step):
        if best.exists() and tracking.is_same_file(best, path):
            best.unlink()
        path.unlink()
    link_checkpoint(checkpoints[rollback.step], "last.pt")
    tracking.append_line(run / tracking.ROLLBACKS, asdict(rollback))
    return RolledBack(rollback.text())


def keep_start(state: TrainingState, run: Path, config: RunConfig) -> None:
    """Keeps the weights before the first step, where a run may have to go back to them."""
    if config.when_worse in GOES_BACK:
        state.save(run / tracking.CHECKPOINTS / "sound-000000.pt", config)


def keep_sound(run: Path, step: int, config: RunConfig) -> None:
    """Keeps last.pt under its step's number too, where a run may have to go back to it."""
    if config.when_worse not in GOES_BACK:
        return
    link_checkpoint(run / tracking.CHECKPOINTS / "last.pt", f"sound-{step:06d}.pt")
    numbered = sorted((run / tracking.CHECKPOINTS).glob("sound-*.pt"))
    for path in numbered[1:-SOUND_KEPT]:  # The first is the start.
        path.unlink()
