"""Opening of a training session: from a configuration to a `Session`, and whatever ends it, out of it."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from semraft import runtime, tracking
from semraft.agreement import TrainingStopped, by_all
from semraft.clearml_session import ClearMLSession
from semraft.config import RunConfig, to_json
from semraft.diagnosis.rollback import apply_rollbacks, read_rollbacks
from semraft.models.heads import is_of_head
from semraft.monitor.monitor import Monitor
from semraft.run_lock import lock_run
from semraft.training import run_data
from semraft.training.provenance import fingerprints
from semraft.training.recovery import keep_start
from semraft.training.session import OpenBatches, Session, asked_to_stop, next_batch
from semraft.training.state import initial_state, resolve_config
from semraft.training.step import NoShare


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
    with ExitStack() as held:
        with by_all(processes):
            session = _begin(asked, run, resume, device, processes, is_late, open_batches, draw_seed, held)
        session.state.share(device)
        session.state.model.train()
        held.enter_context(session.progress)
        session.is_asked = held.enter_context(asked_to_stop(processes))
        held.enter_context(closing(session.source))
        held.enter_context(session.tracker or nullcontext())
        held.enter_context(closing(session.monitor))
        try:
            session.state.end_step()
            session.validate_again() if resume else session.validate_start()
            yield session
        except BaseException as error:
            session.save_on_the_way_out(error)
            if isinstance(error, NoShare):
                session.monitor.judge(stopped=True)
            if isinstance(error, KeyboardInterrupt):
                raise TrainingStopped(f"{session.stopped}: {session.resume}") from None
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
    held: ExitStack,
) -> Session:
    """Reads the data of a run and a resumed run's checkpoint, and writes the records of a new run.

    The lock of the run's folder is put among what is `held` until the session ends.
    """
    if resume and processes.leads:
        held.enter_context(lock_run(run))
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
        held.enter_context(lock_run(run))
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
    first = next_batch(source)
    if isinstance(first, Exception):
        raise first
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
        saved_step=state.step,
    )


def _write_run(run: Path, config: RunConfig, record: dict[str, Any]) -> None:
    """Writes the records of a new run, and prints its warnings."""
    if config.model.arch != "tiny" and not config.model.weights:
        record["warnings"].append("starts from random weights; --model.weights FILE fine-tunes a checkpoint")
    tracking.create_run(run, to_json(config))
    tracking.write_text(run / tracking.ENVIRONMENT, json.dumps(record, indent=2))
    for warning in (
        *record["warnings"],
        *(f"not validated on {name}" for name in record["data"]["left_out"]),
    ):
        print(f"! {warning}", file=sys.stderr)


def _open_tracker(run: Path, config: RunConfig, first_step: int) -> tracking.Tracker:
    sessions = [ClearMLSession(run, first_step)] if config.tracker == "clearml" else []
    return tracking.Tracker(run, first_step, sessions)
