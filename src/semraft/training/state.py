"""Mutable state of a training, saved in and restored from checkpoints."""

import copy
import io
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Required

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from semraft import runtime, tracking
from semraft.config import RunConfig
from semraft.losses.reduction import process_count
from semraft.losses.term_weights import TermWeights
from semraft.losses.terms import taught_heads
from semraft.models.raft import RAFT
from semraft.models.weights import (
    Checkpoint,
    build_model,
    checked_checkpoint,
    read_tensors,
    settle_batch_norm,
)
from semraft.records import Count, DamagedFile
from semraft.step_result import StepResult
from semraft.training.optim import average_decay, make_optimizer, move_average

FORMAT = 1
"""Version of a checkpoint's layout, under the key that marks a file as semraft's."""


class TrainingCheckpoint(Checkpoint, total=False):
    """The content of a checkpoint of a training."""

    step: Required[Count]
    optimizer: Required[dict[str, Any]]
    scaler: Required[dict[str, Any]]
    window: Required[dict[str, Any]]
    best: Required[float]
    unaveraged: dict[str, Tensor]
    measured: dict[str, Tensor]
    flow_level: Tensor
    log_variances: dict[str, Tensor]
    pulses: list[dict[str, Tensor]]


RECORDS = (tracking.METRICS, tracking.HEALTH, tracking.PULSE, tracking.SKIPPED, tracking.WEIGHTS)
"""Files of a run that a resumed run truncates to the step of its checkpoint."""


class WholeStep(NamedTuple):
    """The small parts of a `TrainingState` after a whole step; its tensors are never changed in place."""

    step: int
    window: dict[str, Tensor]
    statistics: list[dict[str, Tensor]]
    shares: dict[str, Tensor]
    flow_level: Tensor
    best: float
    buffers: tuple[Tensor, ...]
    """Statistics of batch norm, which the forward pass of a step moves; none where they are frozen."""


UNREADABLE = (DamagedFile, OSError)
"""Errors of `load_checkpoint` on a file that is damaged, for whatever reason."""


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """A training between two steps."""

    model: RAFT
    network: nn.Module
    """The module that a step calls: the model, or DistributedDataParallel around it."""
    average: RAFT | None
    """The moving average of the model's weights, where the configuration asks for one."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    term_weights: TermWeights
    step: int = 0
    """Number of steps done."""
    window: dict[str, Tensor] = field(default_factory=dict)
    """Sums over the current logging window, of all processes, on the device, and its number of `steps`."""
    statistics: list[dict[str, Tensor]] = field(default_factory=list)
    """Statistics of the steps since the last line of pulse.jsonl."""
    best: float = float("inf")
    """The lowest EPE of a validation so far, in pixels."""
    whole: "WholeStep | None" = None
    """The parts of the state after the last whole step that the coming one changes before it is done."""

    @property
    def scored(self) -> RAFT:
        """The network for validation and checkpoints: the average, if there is one."""
        return self.average or self.model

    def share(self, device: torch.device) -> None:
        """Averages gradients over processes from now on; all start from the first one's weights."""
        if process_count() > 1:
            ids = None if device.type == "cpu" else [device.index]
            self.network = DistributedDataParallel(self.model, device_ids=ids)

    def update(self, result: StepResult, config: RunConfig) -> None:
        """Moves the weights by the gradients that the parameters hold."""
        self.term_weights.learn(result.losses, result.weights, config.loss)
        with record_function("optimiser"):
            for group in self.optimizer.param_groups:
                group["lr"] = config.optim.rate_at(self.step)
            self.step += 1  # From here on the weights are no longer those of the step before (`go_back`).
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.average is not None:
                move_average(self.average, self.model, average_decay(self.step, config.optim))

    def end_step(self) -> None:
        """Marks the step as whole: done, and in the records."""
        weights, frozen = self.term_weights, self.model.batch_norm_is_frozen
        self.whole = WholeStep(
            step=self.step,
            window=dict(self.window),
            statistics=list(self.statistics),
            shares=dict(weights.shares),
            flow_level=weights.flow_level,
            best=self.best,
            buffers=() if frozen else tuple(buffer.clone() for buffer in self.model.buffers()),
        )

    def go_back(self) -> bool:
        """Takes the state back to the last whole step, from within the next; whether that can be done.

        It can't be once weights have moved: a step that fails there, or in its records, is lost.
        """
        whole = self.whole
        if whole is None or whole.step != self.step:
            return False
        self.window, self.statistics, self.best = whole.window, whole.statistics, whole.best
        self.term_weights.shares, self.term_weights.flow_level = whole.shares, whole.flow_level
        for buffer, kept in zip(self.model.buffers(), whole.buffers, strict=False):
            buffer.copy_(kept)
        return True

    def save(self, path: Path, config: RunConfig) -> None:
        """Writes a checkpoint, whole or not at all.

        The key "model" holds the weights to work with: those of the moving average, where there is one. Then
        "unaveraged" holds those that the optimiser moves, which a resumed run needs as well.
        """
        saved = {
            "semraft": FORMAT,
            "arch": config.model.arch,
            "validation_updates": config.validation_updates,
            "precision": config.precision,
            "step": self.step,
            "model": self.scored.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "window": self.window,
            "measured": self.term_weights.shares,
            "flow_level": self.term_weights.flow_level,
            "log_variances": {name: s.detach() for name, s in self.term_weights.log_variances.items()},
            "pulses": self.statistics,
            "best": self.best,
        }
        if self.average is not None:
            saved["unaveraged"] = self.model.state_dict()
        # In memory first: torch would turn the error of a full disk into one that does not name it.
        packed = io.BytesIO()
        torch.save(saved, packed)
        with tracking.whole_file(path) as file:
            file.write(packed.getbuffer())

    def restore(self, run: Path, device: torch.device, leads: bool) -> None:
        """Restores a run's last checkpoint; the leading process truncates its records to that step."""
        saved, path = load_last_checkpoint(run), run / tracking.CHECKPOINTS / "last.pt"
        try:
            self._restore(saved, device)
        except (RuntimeError, LookupError, TypeError, AttributeError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise DamagedFile(path, f"is not of the run in {run / tracking.CONFIG}: {reason}") from error
        for name in RECORDS if leads else ():
            tracking.forget_after(run / name, self.step)

    def _restore(self, saved: TrainingCheckpoint, device: torch.device) -> None:
        if self.average is not None:
            self.average.load_state_dict(saved["model"])
        self.model.load_state_dict(saved["model" if self.average is None else "unaveraged"])
        # AdamW reads its step counters on the CPU: on the device each would be a wait, twice a step.
        self.optimizer.load_state_dict(saved["optimizer"])
        _require_moments(self.optimizer)
        self.scaler.load_state_dict(saved["scaler"])
        self.step, self.best = saved["step"], saved["best"]
        self.window = {
            name: value if name == "steps" else value.to(device) for name, value in saved["window"].items()
        }
        self.statistics = saved.get("pulses", [])
        weights = self.term_weights
        weights.shares = saved.get("measured", {})
        weights.flow_level = saved.get("flow_level", weights.flow_level)
        with torch.no_grad():
            for term, log_variance in weights.log_variances.items():
                log_variance.copy_(saved["log_variances"][term])


def _require_moments(optimizer: torch.optim.Optimizer) -> None:
    """Checks the moments that an optimiser has of its parameters: torch does not.

    Raises:
        ValueError: Some are of another shape than their parameter.
    """
    for weight, moments in optimizer.state.items():
        if any(moments[name].shape != weight.shape for name in ("exp_avg", "exp_avg_sq")):
            raise ValueError("the optimiser has moments of another shape than their parameter")


def resolve_config(config: RunConfig, device: torch.device) -> RunConfig:
    """The configuration with every `auto` replaced by its meaning on this device.

    Raises:
        ValueError: A precision that the device does not have.
    """
    precision = runtime.choose_precision(config.precision, device)
    return replace(config, precision=precision, model=settle_batch_norm(config.model))


def initial_state(config: RunConfig, device: torch.device) -> TrainingState:
    """The state of a run before its first step, of this process alone (`TrainingState.share`).

    Raises:
        ValueError: The weights that the run is to start from do not fit.
    """
    model = build_model(config.model, config.seed).to(device)
    model.train_heads({head for chosen in config.loss.terms for head in taught_heads(chosen)})
    average = copy.deepcopy(model).requires_grad_(False) if config.optim.ema else None
    term_weights = TermWeights.initial(config.loss)
    return TrainingState(
        model=model,
        network=model,
        average=average,
        optimizer=make_optimizer(model, config.optim, term_weights.log_variances.values()),
        term_weights=term_weights,
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "float16"),
    )


def load_checkpoint(path: Path) -> TrainingCheckpoint:
    """The contents of a checkpoint of `TrainingState.save`; all of its tensors are on the CPU.

    Raises:
        DamagedFile: The file is no semraft checkpoint of a training.
    """
    return checked_checkpoint(path, read_tensors(path), TrainingCheckpoint)


def load_last_checkpoint(run: Path) -> TrainingCheckpoint:
    """The contents of a run's last checkpoint.

    Raises:
        DamagedFile: It is damaged; with the latest sound one of a validated step, and how to go on from that.
    """
    last = run / tracking.CHECKPOINTS / "last.pt"
    try:
        return load_checkpoint(last)
    except UNREADABLE as error:
        reason = str(error).removeprefix(f"{last}: ").partition("\n")[0]
    for older in sorted(last.parent.glob("step-*.pt"), reverse=True):
        try:
            step = load_checkpoint(older)["step"]
        except UNREADABLE:
            continue
        raise DamagedFile(last, f"{reason}: that of step {step} is sound: `cp {older} {last}`, then resume")
    raise DamagedFile(last, f"{reason}: no other checkpoint is sound, start again")


def numbered(step: int) -> str:
    """The name of the checkpoint of a validated step."""
    return f"step-{step:06d}.pt"


def link_checkpoint(path: Path, name: str) -> None:
    """Gives a checkpoint a second name beside it, atomically; a copy on file systems without hard links."""
    partial = path.with_name(f".{name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:  # gcsfuse, SMB, exFAT and others refuse with codes of their own.
        with open(path, "rb") as source, tracking.whole_file(path.with_name(name)) as copied:
            shutil.copyfileobj(source, copied)
        return
    os.replace(partial, path.with_name(name))
    partial.unlink(missing_ok=True)  # Between two names of one file a rename does nothing.
