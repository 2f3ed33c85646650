"""Writes down what a training sees of itself, and says what is wrong with it while there is time."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from semraft import tracking
from semraft.config import RunConfig
from semraft.diagnosis.record import Line, read_lines, read_record
from semraft.diagnosis.verdict import Verdict, judge, write_verdict
from semraft.training.pulse import pulse_every
from semraft.training.state import TrainingState
from semraft.training.step import Taken

JUDGED_LINES = 10
"""Lines of pulse.jsonl between two verdicts."""


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
    pulses: list[Line] = field(default_factory=list)
    """The lines of pulse.jsonl."""

    def __post_init__(self) -> None:
        self.pulses = read_lines(self.run / tracking.PULSE)

    @property
    def share_pct(self) -> float:
        """The part of the training's time that watching took so far."""
        return 100 * self.spent_s / (time.perf_counter() - self.began_s)

    def see(self, state: TrainingState, taken: Taken) -> Verdict | None:
        """Writes what a step told of itself; every so often, the verdict so far."""
        started, every = time.perf_counter(), pulse_every(self.config)
        if taken.watch is not None:
            self.tracker.log_health(state.step, taken.watch.values | {"watching_pct": self.share_pct})
        verdict = None
        if state.step % every == 0:
            self._write_pulse(state, state.step)
        if state.step % (every * JUDGED_LINES) == 0 or state.step == self.config.optim.steps:
            verdict = self.judge()
        self.spent_s += taken.watched_s + time.perf_counter() - started
        return verdict

    def judge(self, stopped: bool = False) -> Verdict:
        """The verdict so far: into verdict.json, and what is new in it to the person."""
        verdict = judge(read_record(self.run, self.pulses), stopped)
        write_verdict(self.run, verdict)
        for cause in verdict.causes:
            if cause.name not in self.said:
                self.said.add(cause.name)
                what = f"{cause.name} since step {cause.first_step}: {cause.evidence}"
                tqdm.write(f"! {what} (semraft diagnose {self.run})", sys.stderr)
        return verdict

    def broke(self, state: TrainingState) -> None:
        """Called before a training stops at a step that it could not take: its pulse is evidence."""
        if state.pulses:
            self._write_pulse(state, state.step + 1)
        self.judge(stopped=True)

    def _write_pulse(self, state: TrainingState, step: int) -> None:
        self.pulses.append({"step": step, **state.close_pulses()})
        tracking.append_line(self.run / tracking.PULSE, self.pulses[-1])
