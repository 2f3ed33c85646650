"""Checkpoints: all that a run needs to go on as if it had never stopped, tensors only, written atomically."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semraft.tracking import whole_file

FORMAT = 1
"""Version of the file's layout, under the key that marks a file as semraft's."""


def save_checkpoint(
    path: Path,
    *,
    arch: str,
    validation_updates: int,
    precision: str,
    step: int,
    model: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    window: dict[str, Tensor],
    measured: Mapping[str, Tensor],
    flow_level: Tensor,
    log_variances: Mapping[str, Tensor],
    pulses: Sequence[Mapping[str, Tensor]],
    best: float,
) -> None:
    """Writes a checkpoint whole or not at all.

    The key "model" holds the weights to work with: those of `average`, the moving average, where there is
    one. Then "unaveraged" holds those of `model`, which the optimiser moves and a resumed run needs as well.
    `window` holds the sums of the current logging window; `measured`, `flow_level` and `log_variances` what
    the weights of loss terms go by; `pulses` what the steps since the last line of pulse.jsonl told of
    themselves.
    """
    state = {
        "semraft": FORMAT,
        "arch": arch,
        "validation_updates": validation_updates,
        "precision": precision,
        "step": step,
        "model": (average or model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "window": window,
        "measured": dict(measured),
        "flow_level": flow_level,
        "log_variances": {name: value.detach() for name, value in log_variances.items()},
        "pulses": [dict(pulse) for pulse in pulses],
        "best": best,
    }
    if average is not None:
        state["unaveraged"] = model.state_dict()
    with whole_file(path) as file:
        torch.save(state, file)


def link_checkpoint(path: Path, name: str) -> None:
    """Gives a checkpoint a second name beside it, atomically; by a copy where hard links are not known."""
    partial = path.with_name(f".{name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:  # gcsfuse, SMB, exFAT and others refuse with codes of their own.
        with open(path, "rb") as source, whole_file(path.with_name(name)) as copy:
            shutil.copyfileobj(source, copy)
        return
    os.replace(partial, path.with_name(name))
    partial.unlink(missing_ok=True)  # Between two names of one file a rename does nothing.


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote; all of its tensors are on the CPU.

    Raises:
        ValueError: The file is no semraft checkpoint.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or state.get("semraft") != FORMAT:
        raise ValueError(
            f"{path} is no semraft checkpoint of format {FORMAT}: a run can't be resumed from it"
        )
    return state
