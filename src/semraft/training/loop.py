"""Training: one loop from a configuration to a run directory.

No plotting, no argument parsing, no data set names, no metric definitions: those live in their own rooms.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from semraft import runtime, tracking
from semraft.clearml_session import ClearMLSession
from semraft.config import RunConfig, to_json
from semraft.data.loader import TrainingBatch, training_batches
from semraft.data.requirements import require_labels
from semraft.diagnosis.rollback import read_rollbacks, remedied
from semraft.evaluation.evaluate import Evaluation
from semraft.evaluation.validate import motion_by_class, training_metrics, validate, write_validation
from semraft.losses.term_weights import changing_weights, settled
from semraft.models.heads import is_of_head
from semraft.monitor.monitor import RolledBack, Watcher, act, is_judged, keep_sound, keep_start
from semraft.sample import DamagedFile, FlowBatch, FlowDataset
from semraft.training import run_data
from semraft.training.agreement import Ending, OutOfTime, TrainingStopped, by_all, lost_processes_named
from semraft.training.checkpoint import link_checkpoint
from semraft.training.provenance import fingerprints
from semraft.training.state import TrainingState, initial_state, settled_config
from semraft.training.step import Taken, take_step


def train(
    config: RunConfig,
    run: Path,
    resume: bool = False,
    max_minutes: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Trains one run to its end and returns its folder; back to a sound checkpoint if `config` wants that.

    Args:
        config: The whole run; with `resume`, what is in its config.json.
        run: The run's folder.
        resume: Go on exactly where checkpoints/last.pt left off.
        max_minutes: Stop, with a checkpoint, after the first step that ends so long after this call.
        clock: Seconds, from any start.

    Raises:
        ValueError: The configuration, data or folder do not fit together (nothing was trained).
        DamagedFile: A training pair is damaged and `data.damaged` is "refuse".
        OutOfTime: Stopped by `max_minutes`; to be resumed.
        TrainingStopped: Loss or gradient became non-finite, the process was asked to stop, or the run went
            wrong and `config.when_worse` says so.
    """
    until_s = clock() + 60 * max_minutes
    device = runtime.choose_device(config.device)
    runtime.keep_freed_memory()
    processes = runtime.join_processes(device)
    with lost_processes_named(processes, run):
        while True:
            try:
                _train(config, run, resume, lambda: clock() >= until_s, device, processes)
            except RolledBack as back:
                if processes.leads:
                    print(f"! {run} {back}", file=sys.stderr)
                resume = True
                continue
            except TrainingStopped:  # In every process.
                runtime.leave_processes(processes)
                raise
            runtime.leave_processes(processes)
            return run


@dataclass(frozen=True, kw_only=True, slots=True)
class _Begun:
    """A run that is ready for its next step."""

    config: RunConfig
    """As it is on this device, after what rollbacks have changed."""
    state: TrainingState
    batches: Generator[TrainingBatch, None, None]
    first: TrainingBatch | None
    """The first of its batches; None: its last step is done."""
    validation: dict[str, tuple[FlowDataset, tuple[int, ...]]]
    tracker: tracking.Tracker | None
    """Of the process that leads."""


def _begin(
    asked: RunConfig, run: Path, resume: bool, device: torch.device, processes: runtime.Processes
) -> _Begun:
    """Reads what a run needs, or what it left, and writes what a new run is."""
    config = settled_config(remedied(asked, read_rollbacks(run)), device)
    training, weights = run_data.checked_training_data(config)
    validation, left_out = run_data.validation_data(config.data)
    require_labels(config.model.conditioning, (dataset for dataset, _ in validation.values()))
    # A resumed run has weights of its own: those it started from may be gone.
    start = replace(config, model=replace(config.model, weights="")) if resume else config
    state = initial_state(start, device)
    workers = runtime.loader_workers(config.data.workers, device)
    if resume:
        state.restore(run, device, processes.leads)
    elif processes.leads:
        record = runtime.environment_record(device, config.precision, processes)
        record["loader_workers"] = workers
        # Without heads: variants of one seed with and without them share the rest.
        shared = {name: value for name, value in state.model.state_dict().items() if not is_of_head(name)}
        record["fingerprints"] = fingerprints(config, shared, training, weights)
        _write_run(run, config, record | run_data.data_record(training, validation, left_out))
        keep_start(state, run, config)
    batches = training_batches(
        training,
        weights,
        replace(config.data, workers=workers),
        config.seed,
        config.optim,
        state.step,
        processes.rank,
        processes.count,
        config.fault,
        device,
    )
    return _Begun(
        config=config,
        state=state,
        batches=batches,
        first=next(batches, None),
        validation=validation,
        tracker=_open_tracker(run, config, state.step + 1) if processes.leads else None,
    )


def _train(
    asked: RunConfig,
    run: Path,
    resume: bool,
    is_late: Callable[[], bool],
    device: torch.device,
    processes: runtime.Processes,
) -> None:
    """As `train`, up to where it must go back.

    Raises:
        RolledBack: The run's last checkpoint is a sound one now, and it is to be resumed.
    """
    with by_all(processes):
        begun = _begin(asked, run, resume, device, processes)
    config, state, tracker = begun.config, begun.state, begun.tracker
    state.share(device)
    progress = tqdm(total=config.optim.steps, initial=state.step, unit="step", disable=not processes.leads)
    watcher = Watcher(run=run, config=config, tracker=tracker) if tracker is not None else None
    state.model.train()
    upcoming: TrainingBatch | Exception | None = begun.first
    with (
        progress,
        _asked_to_stop(processes) as asked_to_stop,
        closing(begun.batches),
        tracker or nullcontext(),
    ):

        def own_ending() -> Ending:
            if isinstance(upcoming, Exception):
                return Ending.UNREADABLE
            if upcoming is None:  # This is the last step.
                return Ending.NONE
            return Ending.LATE if is_late() else Ending.ASKED if asked_to_stop() else Ending.NONE

        if not resume:
            _validate_start(begun, run, processes)
        while isinstance(upcoming, TrainingBatch):
            (batch, skipped), measured = upcoming, state.measured
            # One batch ahead: if it can't be read, all processes hear of it in this step.
            upcoming = _next(begun.batches)
            try:
                taken = take_step(state, batch, config, own_ending)
            except TrainingStopped:
                if watcher is not None:
                    watcher.broke(state)
                if config.when_worse != "go-on":
                    act(watcher, state)
                raise
            step, last = state.step, state.step == config.optim.steps
            if watcher is not None:
                watcher.see(state, taken)
            else:
                state.pulses.clear()  # Only the process that writes tells of itself.
            if config.when_worse != "go-on" and is_judged(step, config):
                act(watcher, state)
            for problem in skipped:  # Every process writes its own.
                tracking.append_line(run / tracking.SKIPPED, {"step": step, **problem})
            if watcher is not None:
                _record_weights(run, step, settled(measured, state.measured))
            if step % config.log_every == 0 or last:  # Every process: means are taken over all.
                values = _window_metrics(state, taken, batch, config)
                if tracker is not None:
                    tracker.log(step, "train", values)
                    progress.set_postfix(loss=f"{values['total_loss']:.3f}", epe=f"{values['epe']:.2f}")
            is_saved = taken.ending is not Ending.NONE or step % config.checkpoint_every == 0
            is_validated = last or step % config.validate_every == 0
            if is_saved or is_validated:
                state.share_window()
                scored: dict[str, Evaluation] | None = None
                if is_validated:
                    scored = validate(state.scored, begun.validation, config, run, processes, last)
                with by_all(processes):
                    if tracker is not None and scored is not None:
                        _keep(state, write_validation(scored, run, step, tracker), run, config)
                    elif tracker is not None:
                        state.save(run / tracking.CHECKPOINTS / "last.pt", config)
                        keep_sound(run, step, config)
                state.model.train()
            progress.update()
            if taken.ending is not Ending.NONE:
                runtime.leave_processes(processes)
                raise _farewell(taken.ending, upcoming, run, step)
    if watcher is not None:
        watcher.end()


def _validate_start(begun: _Begun, run: Path, processes: runtime.Processes) -> None:
    """Validation before the first step of a run that starts from given weights: worse than they were is the
    first thing to know of it."""
    if begun.config.model.weights and begun.validation:
        scored = validate(
            begun.state.scored, begun.validation, begun.config, run, processes, keep_pairs=False
        )
        with by_all(processes):
            if begun.tracker is not None:
                score = write_validation(scored, run, 0, begun.tracker)
                _keep(begun.state, score, run, begun.config)
        begun.state.model.train()


def _next(batches: Iterator[TrainingBatch]) -> TrainingBatch | Exception | None:
    """The next batch, None after the last; or why it can't be read."""
    try:
        return next(batches, None)
    except (DamagedFile, OSError, RuntimeError) as error:  # RuntimeError: a worker was killed.
        return error


def _farewell(ending: Ending, upcoming: TrainingBatch | Exception | None, run: Path, step: int) -> Exception:
    """What a training raises that all processes agreed to end after a step."""
    if isinstance(upcoming, Exception):
        return upcoming
    what, how = f"stopped after step {step}", f"go on with `semraft train --resume {run}`"
    if ending is Ending.UNREADABLE:
        return TrainingStopped(f"{what}, as another process can't read its next batch and says why: {how}")
    if ending is Ending.LATE:
        return OutOfTime(f"{what}, as --max-minutes says: {how}")
    return TrainingStopped(f"{what}: {how}")


def _window_metrics(
    state: TrainingState, taken: Taken, batch: FlowBatch, config: RunConfig
) -> dict[str, float]:
    """The line of metrics.jsonl of the steps since the last one."""
    values = state.close_window(config.loss.gamma) | training_metrics(taken.prediction, batch)
    values |= motion_by_class(taken.prediction, batch, config.loss)
    values |= {"learning_rate": taken.learning_rate}
    return values | changing_weights(config.loss, taken.weights)


def _write_run(run: Path, config: RunConfig, record: dict[str, Any]) -> None:
    """Writes what a new run is, and tells the person what of it may surprise."""
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


def _record_weights(run: Path, step: int, weights: dict[str, float]) -> None:
    """Writes down the weights that were found at this step, and says them."""
    for name, weight in weights.items():
        tracking.append_line(run / tracking.WEIGHTS, {"step": step, "term": name, "weight": weight})
        tqdm.write(f"loss term {name}: weight {weight:.4g}, measured up to step {step}", file=sys.stderr)


def _keep(state: TrainingState, score: float, run: Path, config: RunConfig) -> None:
    """A checkpoint of a validated step, under its number and as the last and perhaps the best."""
    improved, state.best = score < state.best, min(score, state.best)
    path = run / tracking.CHECKPOINTS / f"step-{state.step:06d}.pt"
    state.save(path, config)
    # Studies take a run for done when last.pt is its last checkpoint: it comes last.
    for name in ("best.pt", "last.pt") if improved else ("last.pt",):
        link_checkpoint(path, name)


@contextmanager
def _asked_to_stop(processes: runtime.Processes) -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question the loop asks in each step; alone, a second SIGINT is Ctrl-C.

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
