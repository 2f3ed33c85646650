"""A training session: what one process holds between opening a run and leaving it."""

import signal
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from semraft import runtime, tracking
from semraft.agreement import Ending, OutOfTime, TrainingStopped, WentWrong, by_all
from semraft.config import RunConfig
from semraft.data.loader import TrainingBatch
from semraft.evaluation.validate import Validation, validate, write_validation
from semraft.monitor.gradient_stats import separates_terms
from semraft.monitor.monitor import Monitor, is_judged
from semraft.sample import DamagedFile, FlowBatch
from semraft.step_result import StepResult
from semraft.training.recovery import goes_back, keep_sound
from semraft.training.state import (
    TrainingState,
    link_checkpoint,
    numbered,
)
from semraft.training.window_metrics import add_step, window_metrics

MOST_IDLE_STEPS = 100
"""Steps without any gradient, one after another, that end a training: of sparse truth a few are normal."""
OpenBatches = Callable[..., Generator[TrainingBatch, None, None]]
"""`data.loader.training_batches`, or a function with its arguments."""


@dataclass(kw_only=True, slots=True)
class Session:
    """A run under training in this process: its state, its batches and its open files."""

    run: Path
    config: RunConfig
    """Without `auto`, and with the changes of the run's rollbacks."""
    processes: runtime.Processes
    state: TrainingState
    source: Generator[TrainingBatch, None, None]
    upcoming: TrainingBatch | Exception | None
    """The batch after the current one; None after the last; the error if it can't be read."""
    validation: Validation
    tracker: tracking.Tracker | None
    """None in processes that do not write."""
    monitor: Monitor
    progress: Any
    is_late: Callable[[], bool]
    saved_step: int
    """The step of checkpoints/last.pt; 0 without one."""
    is_asked: Callable[[], bool] = lambda: False
    idle_steps: int = 0
    """Steps up to the last logged one whose gradient was 0."""
    skipped: tuple[Any, ...] = ()
    """Damaged pairs that were passed over for the current batch."""

    def batches(self) -> Iterator[FlowBatch]:
        """The batches of the steps to come."""
        while isinstance(self.upcoming, TrainingBatch):
            batch, self.skipped = self.upcoming
            # One batch ahead: if it can't be read, all processes hear of it in this step.
            self.upcoming = next_batch(self.source)
            yield batch

    def separates_terms(self) -> bool:
        """Whether the coming step takes the gradient of each term too."""
        return separates_terms(self.config, self.state.step + 1)

    def own_ending(self) -> Ending:
        """Why this process would end the training with the current step."""
        if isinstance(self.upcoming, Exception):
            return Ending.UNREADABLE
        if self.upcoming is None:  # The last step ends by itself.
            return Ending.NONE
        return Ending.LATE if self.is_late() else Ending.ASKED if self.is_asked() else Ending.NONE

    def validate_start(self) -> None:
        """Validates the given weights that a new run starts from: training may make them worse."""
        if not self.config.model.weights or not self.validation:
            return
        self._validate(is_last=False)

    def validate_again(self) -> None:
        """Validates the last step of a resumed run, if that was due and the run ended before it was done."""
        step, is_last = self.state.step, self.state.step == self.config.optim.steps
        last = self.run / tracking.CHECKPOINTS / "last.pt"
        validated = last.with_name(numbered(step))
        is_done = validated.exists() and tracking.is_same_file(validated, last)
        if is_done or not (is_last or step % self.config.validate_every == 0):
            return
        for name in (tracking.METRICS, tracking.SKIPPED) if self.processes.leads else ():
            tracking.forget_validation(self.run / name, step)
        self._validate(is_last)

    def went_back(self, result: StepResult, batch: FlowBatch) -> bool:
        """Whether the run is to be resumed from an earlier checkpoint, as its verdict asks for.

        Raises:
            WentWrong: The verdict ends the run, or loss or gradient is not finite.
        """
        is_done = result.ending is not Ending.NOT_FINITE
        may_go_back = not is_done or is_judged(result.step, self.config)
        if self.config.when_worse != "go-on" and may_go_back and goes_back(self.monitor, self.state):
            return True
        if not is_done:
            raise WentWrong(_not_finite(result, batch))
        return False

    def log(self, result: StepResult, batch: FlowBatch) -> None:
        """Writes the records of a step, and the metrics of the window that ends with it."""
        step, config = result.step, self.config
        for problem in self.skipped:  # Every process writes its own.
            tracking.append_line(self.run / tracking.SKIPPED, {"step": step, **problem})
        for name, weight in result.measured.items() if self.processes.leads else ():
            tracking.append_line(self.run / tracking.WEIGHTS, {"step": step, "term": name, "weight": weight})
            what = f"loss term {name}: weight {weight:.4g}, measured up to step {step}"
            tqdm.write(what, file=sys.stderr)
        add_step(self.state.window, result, config.loss)
        if step % config.log_every == 0 or step == config.optim.steps:  # In every process.
            self._count_idle(self.state.window)
            values = window_metrics(self.state, result, batch, config)
            if self.tracker is not None:
                self.tracker.log(step, "train", values)
                self.progress.set_postfix(loss=f"{values['total_loss']:.3f}", epe=f"{values['epe']:.2f}")

    def _count_idle(self, window: Mapping[str, Tensor]) -> None:
        """Counts the steps of a window without any gradient.

        Raises:
            WentWrong: There were too many, one after another: nothing is learnt.
        """
        self.idle_steps += int(window["steps"])
        if float(window["gradient_norm"]) != 0:
            self.idle_steps = 0
        if self.idle_steps >= min(MOST_IDLE_STEPS, self.config.optim.steps):
            raise WentWrong(
                f"there is nothing to learn from: the gradient of {self.idle_steps} steps up to step "
                f"{self.state.step} is 0; no pixel of their pairs has flow truth shorter than "
                f"--loss.max-flow-px {self.config.loss.max_flow_px:g}, and no loss term acts (`semraft data "
                f"check` counts valid pixels)"
            )

    def validate_and_save(self) -> None:
        """Validates and writes checkpoints, after the steps that are due."""
        state, config, step = self.state, self.config, self.state.step
        is_last = step == config.optim.steps
        state.end_step()
        if is_last or step % config.validate_every == 0:
            self._validate(is_last)
        elif step % config.checkpoint_every == 0:
            with by_all(self.processes):
                if self.tracker is not None:
                    self._save()
                    keep_sound(self.run, step, config)
        self.progress.update()

    def _validate(self, is_last: bool) -> None:
        """Scores the network; the checkpoint of the step becomes the last one, and perhaps the best."""
        state, config = self.state, self.config
        scored = validate(
            state.scored, self.validation, config, self.run, self.processes, is_last, self._end_if_asked
        )
        with by_all(self.processes):
            if self.tracker is not None:
                score = write_validation(scored, self.run, state.step, self.tracker)
                improved, state.best = score < state.best, min(score, state.best)
                path = self.run / tracking.CHECKPOINTS / numbered(state.step)
                state.save(path, config)
                # Studies take a run for done when last.pt is its last checkpoint: it comes last.
                for name in ("best.pt", "last.pt") if improved else ("last.pt",):
                    link_checkpoint(path, name)
                self.saved_step = state.step
        state.model.train()

    def _save(self) -> None:
        self.state.save(self.run / tracking.CHECKPOINTS / "last.pt", self.config)
        self.saved_step = self.state.step

    def save_on_the_way_out(self, reason: BaseException) -> None:
        """Writes the last whole step into last.pt, unless it is there; whatever ends the training comes here.

        But for a run that went wrong, whose last checkpoint is the sounder one, and a disk that has just
        refused a file.
        """
        if self.tracker is None or isinstance(reason, WentWrong | OSError) or not self.state.go_back():
            return
        if self.state.step > self.saved_step:
            try:
                self._save()
            except OSError as error:
                print(f"! step {self.state.step} could not be saved: {error}", file=sys.stderr)

    def _end_if_asked(self) -> None:
        """Ends a training that was asked to stop, before the next pair of a validation.

        Raises:
            TrainingStopped: It was.
        """
        if self.is_asked():
            raise TrainingStopped(f"{self.stopped}, before its validation was done: {self.resume}")

    def end_if_agreed(self, ending: Ending) -> None:
        """Ends a training that all processes agreed to end.

        Raises:
            OutOfTime: The minutes of this session are over.
            TrainingStopped: A process was asked to stop, or can't read its next batch.
            RuntimeError: A fault of ours in reading the next batch.
        """
        if ending is Ending.NONE:
            return
        runtime.leave_processes(self.processes)
        if isinstance(self.upcoming, RuntimeError):
            raise self.upcoming
        if isinstance(self.upcoming, Exception):
            raise TrainingStopped(f"{self.upcoming}: ended after step {self.state.step}: {self.resume}")
        if ending is Ending.UNREADABLE:
            why = "as another process can't read its next batch and says why"
            raise TrainingStopped(f"{self.stopped}, {why}: {self.resume}")
        if ending is Ending.LATE:
            raise OutOfTime(f"{self.stopped}, as --max-minutes says: {self.resume}")
        raise TrainingStopped(f"{self.stopped}: {self.resume}")

    @property
    def stopped(self) -> str:
        """The step that a training ends after, in words."""
        return f"stopped after step {self.state.step}"

    @property
    def resume(self) -> str:
        """The way on, in words."""
        return f"go on with `semraft train --resume {self.run}`"


def next_batch(batches: Iterator[TrainingBatch]) -> TrainingBatch | Exception | None:
    """The next batch, None after the last, or the error if it can't be read."""
    try:
        return next(batches, None)
    except (DamagedFile, OSError, RuntimeError) as error:
        return error


def _not_finite(result: StepResult, batch: FlowBatch) -> str:
    """The message of a step whose loss or gradient is not finite."""
    broken = [name for name, values in result.losses.values.items() if not torch.isfinite(values).all()]
    if not broken and result.gradients.norm.isfinite():
        where = "loss of another process"
    else:
        where = f"loss {' and '.join(broken)}" if broken else "gradient"
    return (
        f"{where} not finite at step {result.step}, samples {', '.join(batch.ids)}: the weights were not "
        f"moved and the last checkpoint is sound; try a lower --optim.learning-rate"
    )


@contextmanager
def asked_to_stop(processes: runtime.Processes) -> Iterator[Callable[[], bool]]:
    """A function that returns whether SIGINT or SIGTERM came; alone, a second SIGINT is a Ctrl-C.

    Of several processes each gets the same request twice: SLURM or a terminal signals all that there are, and
    torchrun passes it on to those that it has started.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT and processes.count == 1:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
