"""A training session: what one process holds between opening a run and leaving it."""

import json
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from semraft import runtime, tracking
from semraft.agreement import Ending, OutOfTime, TrainingStopped, by_all
from semraft.clearml_session import ClearMLSession
from semraft.config import RunConfig, to_json
from semraft.data.loader import TrainingBatch
from semraft.diagnosis.rollback import apply_rollbacks, read_rollbacks
from semraft.evaluation.evaluate import Evaluation
from semraft.evaluation.validate import Validation, validate, write_validation
from semraft.models.heads import is_of_head
from semraft.monitor.gradient_stats import separates_terms
from semraft.monitor.monitor import Monitor, is_judged
from semraft.sample import DamagedFile, FlowBatch
from semraft.step_result import StepResult
from semraft.training import run_data
from semraft.training.provenance import fingerprints
from semraft.training.recovery import goes_back, keep_sound, keep_start
from semraft.training.state import TrainingState, initial_state, link_checkpoint, resolve_config
from semraft.training.step import NoShare
from semraft.training.window_metrics import add_step, window_metrics

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
    is_asked: Callable[[], bool] = lambda: False
    skipped: tuple[Any, ...] = ()
    """Damaged pairs that were passed over for the current batch."""

    def batches(self) -> Iterator[FlowBatch]:
        """The batches of the steps to come."""
        while isinstance(self.upcoming, TrainingBatch):
            batch, self.skipped = self.upcoming
            # One batch ahead: if it can't be read, all processes hear of it in this step.
            self.upcoming = _next(self.source)
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
        scored = validate(self.state.scored, self.validation, self.config, self.run, self.processes, False)
        with by_all(self.processes):
            if self.tracker is not None:
                score = write_validation(scored, self.run, 0, self.tracker)
                _keep(self.state, score, self.run, self.config)
        self.state.model.train()

    def went_back(self, result: StepResult, batch: FlowBatch) -> bool:
        """Whether the run is to be resumed from an earlier checkpoint, as its verdict asks for.

        Raises:
            TrainingStopped: The verdict ends the run, or loss or gradient is not finite.
        """
        is_done = result.ending is not Ending.NOT_FINITE
        may_go_back = not is_done or is_judged(result.step, self.config)
        if self.config.when_worse != "go-on" and may_go_back and goes_back(self.monitor, self.state):
            return True
        if not is_done:
            raise TrainingStopped(_not_finite(result, batch))
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
            values = window_metrics(self.state, result, batch, config)
            if self.tracker is not None:
                self.tracker.log(step, "train", values)
                self.progress.set_postfix(loss=f"{values['total_loss']:.3f}", epe=f"{values['epe']:.2f}")

    def validate_and_save(self, ending: Ending) -> None:
        """Validates and writes checkpoints, after the steps that are due."""
        state, config, step = self.state, self.config, self.state.step
        is_last = step == config.optim.steps
        is_validated = is_last or step % config.validate_every == 0
        if is_validated or ending is not Ending.NONE or step % config.checkpoint_every == 0:
            state.share_window()
            scored: dict[str, Evaluation] | None = None
            if is_validated:
                scored = validate(state.scored, self.validation, config, self.run, self.processes, is_last)
            with by_all(self.processes):
                if self.tracker is not None and scored is not None:
                    _keep(state, write_validation(scored, self.run, step, self.tracker), self.run, config)
                elif self.tracker is not None:
                    state.save(self.run / tracking.CHECKPOINTS / "last.pt", config)
                    keep_sound(self.run, step, config)
            state.model.train()
        self.progress.update()

    def end_if_agreed(self, ending: Ending) -> None:
        """Ends a training that all processes agreed to end.

        Raises:
            OutOfTime: The minutes of this session are over.
            TrainingStopped: A process was asked to stop, or can't read its next batch.
            DamagedFile, OSError, RuntimeError: This process can't read its next batch.
        """
        if ending is Ending.NONE:
            return
        runtime.leave_processes(self.processes)
        if isinstance(self.upcoming, Exception):
            raise self.upcoming
        what = f"stopped after step {self.state.step}"
        how = f"go on with `semraft train --resume {self.run}`"
        if ending is Ending.UNREADABLE:
            raise TrainingStopped(f"{what}, as another process can't read its next batch and says why: {how}")
        if ending is Ending.LATE:
            raise OutOfTime(f"{what}, as --max-minutes says: {how}")
        raise TrainingStopped(f"{what}: {how}")


@contextmanager
def open_session(
    asked: RunConfig,
    run: Path,
    resume: bool,
    device: torch.device,
    processes: runtime.Processes,
    is_late: Callable[[], bool],
    open_batches: OpenBatches,
    draw_seed: int | None,
) -> Iterator[Session]:
    """Opens a run for training, new or resumed; `train` explains the arguments."""
    with by_all(processes):
        session = _begin(asked, run, resume, device, processes, is_late, open_batches, draw_seed)
    session.state.share(device)
    session.state.model.train()
    with (
        session.progress,
        asked_to_stop(processes) as session.is_asked,
        closing(session.source),
        session.tracker or nullcontext(),
        closing(session.monitor),
    ):
        if not resume:
            session.validate_start()
        try:
            yield session
        except NoShare:
            session.monitor.judge(stopped=True)
            raise


def _begin(
    asked: RunConfig,
    run: Path,
    resume: bool,
    device: torch.device,
    processes: runtime.Processes,
    is_late: Callable[[], bool],
    open_batches: OpenBatches,
    draw_seed: int | None,
) -> Session:
    """Reads the data of a run and a resumed run's checkpoint, and writes the records of a new run."""
    config = resolve_config(apply_rollbacks(asked, read_rollbacks(run)), device)
    training, weights = run_data.checked_training_data(config)
    validation, left_out = run_data.checked_validation_data(config)
    # A resumed run has weights of its own: those it started from may be gone.
    start = replace(config, model=replace(config.model, weights="")) if resume else config
    state = initial_state(start, device)
    seed = config.seed if draw_seed is None else draw_seed
    workers = runtime.loader_workers(config.data.workers, device)
    if resume:
        state.restore(run, device, processes.leads)
    elif processes.leads:
        record = runtime.environment_record(device, config.precision, processes)
        record["loader_workers"] = workers
        # Without heads: variants of one seed with and without them share the rest.
        shared = {name: value for name, value in state.model.state_dict().items() if not is_of_head(name)}
        record["fingerprints"] = fingerprints(config, shared, training, weights, seed)
        _write_run(run, config, record | run_data.data_record(training, validation, left_out))
        keep_start(state, run, config)
    source = open_batches(
        training,
        weights,
        replace(config.data, workers=workers),
        seed,
        config.optim,
        state.step,
        processes.rank,
        processes.count,
        device,
    )
    first = next(source, None)
    tracker = _open_tracker(run, config, state.step + 1) if processes.leads else None
    return Session(
        run=run,
        config=config,
        processes=processes,
        state=state,
        source=source,
        upcoming=first,
        validation=validation,
        tracker=tracker,
        monitor=Monitor(
            run=run,
            config=config,
            model=state.model,
            optimizer=state.optimizer,
            scaler=state.scaler,
            statistics=state.statistics,
            step=state.step,
            tracker=tracker,
        ),
        progress=tqdm(total=config.optim.steps, initial=state.step, unit="step", disable=not processes.leads),
        is_late=is_late,
    )


def _next(batches: Iterator[TrainingBatch]) -> TrainingBatch | Exception | None:
    """The next batch, None after the last, or the error if it can't be read."""
    try:
        return next(batches, None)
    except (DamagedFile, OSError, RuntimeError) as error:  # RuntimeError: a worker was killed.
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


def _write_run(run: Path, config: RunConfig, record: dict[str, Any]) -> None:
    """Writes the records of a new run, and prints its warnings."""
    if config.model.arch != "tiny" and not config.model.weights:
        record["warnings"].append("starts from random weights; --model.weights FILE fine-tunes a checkpoint")
    tracking.create_run(run)
    tracking.write_text(run / tracking.CONFIG, to_json(config))
    tracking.write_text(run / tracking.ENVIRONMENT, json.dumps(record, indent=2))
    for warning in (
        *record["warnings"],
        *(f"not validated on {name}" for name in record["data"]["left_out"]),
    ):
        print(f"! {warning}", file=sys.stderr)


def _open_tracker(run: Path, config: RunConfig, first_step: int) -> tracking.Tracker:
    sessions = [ClearMLSession(run, first_step)] if config.tracker == "clearml" else []
    return tracking.Tracker(run, first_step, sessions)


def _keep(state: TrainingState, score: float, run: Path, config: RunConfig) -> None:
    """Writes the checkpoint of a validated step, under its number, as the last and perhaps as the best."""
    improved, state.best = score < state.best, min(score, state.best)
    path = run / tracking.CHECKPOINTS / f"step-{state.step:06d}.pt"
    state.save(path, config)
    # Studies take a run for done when last.pt is its last checkpoint: it comes last.
    for name in ("best.pt", "last.pt") if improved else ("last.pt",):
        link_checkpoint(path, name)


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
