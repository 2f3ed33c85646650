"""The training loop: from a configuration to a run directory."""

import math
import time
from collections.abc import Callable
from pathlib import Path

from semraft import runtime
from semraft.agreement import joined_processes
from semraft.config import RunConfig
from semraft.data.loader import training_batches
from semraft.step_result import StepResult
from semraft.training.open_session import open_session
from semraft.training.session import OpenBatches
from semraft.training.step import training_step


def train(
    config: RunConfig,
    run: Path,
    resume: bool = False,
    max_minutes: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
    *,
    draw_seed: int | None = None,
    open_batches: OpenBatches = training_batches,
    step: Callable[..., StepResult] = training_step,
) -> Path:
    """Trains one run to its end and returns its folder; back to a sound checkpoint if `config` wants that.

    Args:
        config: The whole run; with `resume`, the contents of its config.json.
        run: The run's folder.
        resume: Go on exactly where checkpoints/last.pt left off.
        max_minutes: Stop, with a checkpoint, after the first step that ends so long after this call.
        clock: Seconds, from any start.
        draw_seed: Seed of sample order and augmentation; the run's own without.
        open_batches: Opens the loader; a wrapper may change its batches.
        step: Takes a step; a wrapper may change its configuration.

    Raises:
        ValueError: The configuration, data or folder do not fit together (nothing was trained).
        DamagedFile: A training pair is damaged and `data.damaged` is "refuse".
        OutOfTime: Stopped by `max_minutes`; to be resumed.
        TrainingStopped: Loss or gradient became non-finite, the process was asked to stop, or the run went
            wrong and `config.when_worse` ends it.
    """
    until_s = clock() + 60 * max_minutes

    def is_late() -> bool:
        return clock() >= until_s

    device = runtime.choose_device(config.device)
    runtime.keep_freed_memory()
    with joined_processes(device, run) as processes:
        while True:
            with open_session(
                config, run, resume, device, processes, is_late, open_batches, draw_seed
            ) as session:
                for batch in session.batches():
                    state, separates = session.state, session.separates_terms()
                    result = step(state, batch, session.config, separates, session.own_ending)
                    session.monitor.observe(result, batch)
                    if session.went_back(result, batch):
                        break
                    session.log(result, batch)
                    session.validate_and_save()
                    session.end_if_agreed(result.ending)
                else:
                    session.monitor.end()
                    return run
            resume = True
