"""Training: one loop from a configuration to a run directory.

No plotting, no argument parsing, no data set names, no metric definitions: those live in their own rooms.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from semraft import runtime, tracking
from semraft.clearml_session import ClearMLSession
from semraft.config import RunConfig, to_json
from semraft.data.loader import training_batches
from semraft.diagnosis.remedy import read_rollbacks, remedied
from semraft.losses.reduction import mean_over_processes, process_count
from semraft.losses.weights import changing_weights, settled
from semraft.models.heads import is_of_head
from semraft.sample import FlowBatch
from semraft.training import sources
from semraft.training.checkpoint import link_checkpoint
from semraft.training.fingerprints import fingerprints
from semraft.training.state import TrainingState, initial_state, settled_config
from semraft.training.step import OutOfTime, Taken, TrainingStopped, take_step
from semraft.training.validate import motion_by_class, training_metrics, validate
from semraft.training.watcher import RolledBack, Watcher, act, is_judged, keep_sound, keep_start


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
    while True:
        try:
            return _train(config, run, resume, lambda: clock() >= until_s)
        except RolledBack as back:
            print(f"! {run} {back}", file=sys.stderr)
            resume = True


def _train(config: RunConfig, run: Path, resume: bool, is_late: Callable[[], bool]) -> Path:
    """As `train`, up to where it must go back.

    Raises:
        RolledBack: The run's last checkpoint is a sound one now, and it is to be resumed.
    """
    device = runtime.choose_device(config.device)
    runtime.keep_freed_memory()
    processes = runtime.join_processes(device)
    config = settled_config(remedied(config, read_rollbacks(run)), device)
    training, weights = sources.checked_training_data(config)
    validation, left_out = sources.validation_data(config.data)
    sources.require_labels(config.model.conditioning, (dataset for dataset, _ in validation.values()))
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
        _begin(run, config, record | sources.data_record(training, validation, left_out))
    tracker = _open_tracker(run, config, state.step + 1) if processes.leads else None
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
    progress = tqdm(total=config.optim.steps, initial=state.step, unit="step", disable=not processes.leads)
    watcher = Watcher(run=run, config=config, tracker=tracker) if tracker is not None else None
    if processes.leads and not resume:
        keep_start(state, run, config)
    state.model.train()
    with progress, _asked_to_stop() as asked_to_stop, tracker or nullcontext():
        for batch, skipped in batches:
            measured = state.measured
            try:
                taken = take_step(state, batch, config)
            except TrainingStopped:
                if watcher is not None:
                    watcher.broke(state)
                if config.when_worse != "go-on" and processes.count == 1:
                    act(watcher, state, several=False)
                raise
            step, last = state.step, state.step == config.optim.steps
            asked, late = _in_any_process(asked_to_stop(), is_late() and not last, device)
            if watcher is not None:
                watcher.see(state, taken)
            else:
                state.pulses.clear()  # Only the process that writes tells of itself.
            if config.when_worse != "go-on" and is_judged(step, config):
                act(watcher, state, processes.count > 1)
            for problem in skipped:  # Every process writes its own.
                tracking.append_line(run / tracking.SKIPPED, {"step": step, **problem})
            if watcher is not None:
                _record_weights(run, step, settled(measured, state.measured))
            if step % config.log_every == 0 or last:  # Every process: means are taken over all.
                values = _window_metrics(state, taken, batch, config)
                if tracker is not None:
                    tracker.log(step, "train", values)
                    progress.set_postfix(loss=f"{values['total_loss']:.3f}", epe=f"{values['epe']:.2f}")
            if step % config.validate_every == 0 or last:
                if tracker is not None:
                    score = validate(state.scored, validation, config, run, step, tracker, keep_pairs=last)
                    _keep(state, score, run, config)
                state.model.train()
            elif processes.leads and (step % config.checkpoint_every == 0 or asked or late):
                state.save(run / tracking.CHECKPOINTS / "last.pt", config)
                keep_sound(run, step, config)
            progress.update()
            if asked or late:
                _stop(run, step, late)
    if watcher is not None:
        watcher.end()
    runtime.leave_processes()
    return run


def _in_any_process(asked: bool, late: bool, device: torch.device) -> tuple[bool, bool]:
    """Each flag, True if it is in any process: a signal or a clock of one must stop all at the same step."""
    if process_count() == 1:
        return asked, late
    asked, late = (mean_over_processes(torch.tensor([float(asked), float(late)], device=device)) > 0).tolist()
    return asked, late


def _stop(run: Path, step: int, late: bool) -> None:
    """Leaves the other processes, which all stop here, and the training.

    Raises:
        OutOfTime: The time is up (`late`).
        TrainingStopped: The process was asked to stop.
    """
    runtime.leave_processes()
    what, how = f"stopped after step {step}", f"go on with `semraft train --resume {run}`"
    if late:
        raise OutOfTime(f"{what}, as --max-minutes says: {how}")
    raise TrainingStopped(f"{what}: {how}")


def _window_metrics(
    state: TrainingState, taken: Taken, batch: FlowBatch, config: RunConfig
) -> dict[str, float]:
    """The line of metrics.jsonl of the steps since the last one."""
    values = state.close_window(config.loss.gamma) | training_metrics(taken.prediction, batch)
    values |= motion_by_class(taken.prediction, batch, config.loss)
    values |= {"learning_rate": taken.learning_rate}
    return values | changing_weights(config.loss, taken.weights)


def _begin(run: Path, config: RunConfig, record: dict[str, Any]) -> None:
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
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question the loop asks after each step; a second one is Ctrl-C."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
