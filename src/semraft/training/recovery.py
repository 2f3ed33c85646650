"""Consequences of a verdict: a run stops, or goes back to its last sound checkpoint."""

import sys
from dataclasses import asdict
from pathlib import Path

import torch

from semraft import tracking
from semraft.agreement import WentWrong
from semraft.config import RunConfig
from semraft.diagnosis.rollback import (
    GOES_BACK,
    MAX_ROLLBACKS,
    acted_on,
    plan,
    read_rollbacks,
    sound_checkpoints,
)
from semraft.losses.reduction import largest_over_processes
from semraft.monitor.monitor import Monitor
from semraft.training.state import TrainingState, link_checkpoint

SOUND_KEPT = 3
"""Checkpoints kept to go back to, beside those of validations."""


def goes_back(monitor: Monitor, state: TrainingState) -> bool:
    """Does what the configuration wants of a run whose verdict names a cause; all processes call it together.

    Only of causes that are acted on (`diagnosis.rollback.acted_on`).

    Returns:
        Whether last.pt is now the last sound checkpoint, from which the run is to be resumed.

    Raises:
        WentWrong: The run is to stop, or can't go back.
    """
    verdict, device = monitor.verdict, next(state.model.parameters()).device
    acts = verdict is not None and acted_on(monitor.config, verdict) is not None
    if not largest_over_processes(torch.tensor(float(acts), device=device)):
        return False
    # The first process decides and moves files; the others wait for the outcome.
    reason = _stop_or_go_back(monitor, state.step) if monitor.tracker is not None else ""
    if largest_over_processes(torch.tensor(float(bool(reason)), device=device)):
        raise WentWrong(reason or "the run went wrong: its first process says how")
    return True


def _stop_or_go_back(monitor: Monitor, step: int) -> str:
    """Goes back, as far as files are concerned; or returns why the run stops."""
    assert monitor.verdict is not None
    run, config, cause = monitor.run, monitor.config, acted_on(monitor.config, monitor.verdict)
    assert cause is not None
    what = f"{cause.name} since step {cause.first_step}: {cause.evidence}"
    checkpoints, before = sound_checkpoints(run), read_rollbacks(run)
    rollback = plan(config, cause, step, checkpoints) if config.when_worse in GOES_BACK else None
    if rollback is None or len(before) == MAX_ROLLBACKS:
        monitor.judge(stopped=True)
        if config.when_worse == "stop":
            return f"stopped at step {step}, as --when-worse stop says: {what}"
        why = f"after {MAX_ROLLBACKS} rollbacks" if rollback else "and no checkpoint is from before that"
        return f"stopped at step {step}, {why}: {what}"
    best = run / tracking.CHECKPOINTS / "best.pt"
    for path in (path for saved, path in checkpoints.items() if saved > rollback.step):
        if best.exists() and tracking.is_same_file(best, path):
            best.unlink()
        path.unlink()
    link_checkpoint(checkpoints[rollback.step], "last.pt")
    tracking.append_line(run / tracking.ROLLBACKS, asdict(rollback))
    print(f"! {run} {rollback.text()}", file=sys.stderr)
    return ""


def keep_start(state: TrainingState, run: Path, config: RunConfig) -> None:
    """Keeps a checkpoint of the weights before the first step, where a run may go back to them."""
    if config.when_worse in GOES_BACK:
        state.save(run / tracking.CHECKPOINTS / "sound-000000.pt", config)


def keep_sound(run: Path, step: int, config: RunConfig) -> None:
    """Keeps last.pt under its step's number too, where a run may go back to it."""
    if config.when_worse not in GOES_BACK:
        return
    link_checkpoint(run / tracking.CHECKPOINTS / "last.pt", f"sound-{step:06d}.pt")
    numbered = sorted((run / tracking.CHECKPOINTS).glob("sound-*.pt"))
    for path in numbered[1:-SOUND_KEPT]:  # The first is the start.
        path.unlink()
