"""What of a run changes from step to step: what a checkpoint keeps, and a resumed run takes up again."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from semraft import runtime, tracking
from semraft.config import OptimConfig, RunConfig
from semraft.losses.objective import Objective
from semraft.losses.reduction import mean_over_processes, process_count, refinement_sum
from semraft.losses.term_weights import FlowLevel, Measured
from semraft.losses.terms import taught_heads
from semraft.losses.uncertainty_weights import initial_log_variances
from semraft.models.build import build_model, settle_batch_norm
from semraft.models.raft import RAFT
from semraft.monitor.step_stats import Pulse, line_of
from semraft.ops.fetch import fetched
from semraft.training.checkpoint import load_checkpoint, save_checkpoint
from semraft.training.optim import average_decay, make_optimizer, move_average

RECORDS = (tracking.METRICS, tracking.HEALTH, tracking.PULSE, tracking.SKIPPED, tracking.WEIGHTS)
"""The files of a run that a resumed one takes back to its checkpoint's step."""


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """A training between two steps."""

    model: RAFT
    network: nn.Module
    """What a step calls: the model, or the one that averages its gradients over processes."""
    average: RAFT | None
    """The moving average of the model's weights, where the configuration asks for one."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    """Steps done."""
    measured: Measured = field(default_factory=dict)
    """Shares of loss terms so far."""
    flow_level: FlowLevel = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    """The flow loss at the start and now, for terms whose weights go by it."""
    log_variances: dict[str, nn.Parameter] = field(default_factory=dict)
    """Those of the terms that are modulated."""
    window: dict[str, Tensor] = field(default_factory=dict)
    """Sums of the current logging window, on the device, and the number of its `steps`."""
    pulses: list[Pulse] = field(default_factory=list)
    """What steps told of themselves since the last line of pulse.jsonl."""
    best: float = float("inf")
    """The lowest EPE of a validation so far, in pixels."""

    @property
    def scored(self) -> RAFT:
        """The network to validate and to hand out: the average, if there is one."""
        return self.average or self.model

    def move_average(self, step: int, config: OptimConfig) -> None:
        """Moves the average, if there is one, towards the weights that step `step` (from 1) left."""
        if self.average is not None:
            move_average(self.average, self.model, average_decay(step, config))

    def share(self, device: torch.device) -> None:
        """From here on gradients are averaged over processes, which start from the first one's weights."""
        if process_count() > 1:
            ids = None if device.type == "cpu" else [device.index]
            self.network = DistributedDataParallel(self.model, device_ids=ids)

    def add(self, losses: Objective, gradient_norm: Tensor, told: Mapping[str, Tensor]) -> None:
        """Adds a step's losses and what else is told of it to the window, without waiting for the device."""
        values = {"total_loss": losses.total, "gradient_norm": gradient_norm, **losses.values, **told}
        for name, value in values.items():
            self.window[name] = self.window.get(name, 0) + value.detach().float()
        self.window["steps"] = self.window.get("steps", torch.zeros(())) + 1

    def close_window(self, gamma: float) -> dict[str, float]:
        """Means over the window and all processes, per refinement where a loss has them; a new window."""
        steps = float(self.window.pop("steps"))
        means: dict[str, float] = {}
        sums = fetched([mean_over_processes(summed) for summed in self.window.values()])
        for name, summed in zip(self.window, sums, strict=True):
            value = summed / steps
            if value.ndim == 0:
                means[name] = float(value)
                continue
            means[name] = float(refinement_sum(value, gamma))
            if len(value) > 1:
                means |= {f"{name}_iter_{t:03d}": float(part) for t, part in enumerate(value)}
        self.window.clear()
        return means

    def share_window(self) -> None:
        """Gives every process the means of all for its sums: a checkpoint keeps those of one of them."""
        if process_count() > 1:
            self.window = {
                name: summed if name == "steps" else mean_over_processes(summed)
                for name, summed in self.window.items()
            }

    def close_pulses(self) -> dict[str, float]:
        """A line of pulse.jsonl; new ones."""
        line = line_of(self.pulses)
        self.pulses.clear()
        return line

    def save(self, path: Path, config: RunConfig) -> None:
        """Writes a checkpoint, whole or not at all."""
        save_checkpoint(
            path,
            arch=config.model.arch,
            validation_updates=config.validation_updates,
            precision=config.precision,
            step=self.step,
            model=self.model,
            average=self.average,
            optimizer=self.optimizer,
            scaler=self.scaler,
            window=self.window,
            measured=self.measured,
            flow_level=self.flow_level,
            log_variances=self.log_variances,
            pulses=self.pulses,
            best=self.best,
        )

    def restore(self, run: Path, device: torch.device, leads: bool) -> None:
        """Takes up a run's last checkpoint; the leading process takes its records back to that step."""
        saved = load_checkpoint(run / tracking.CHECKPOINTS / "last.pt")
        if self.average is not None:
            self.average.load_state_dict(saved["model"])
        self.model.load_state_dict(saved["model" if self.average is None else "unaveraged"])
        # AdamW reads its step counters on the CPU: on the device each would be a wait, twice a step.
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.step, self.best = saved["step"], saved["best"]
        self.window = {
            name: value if name == "steps" else value.to(device) for name, value in saved["window"].items()
        }
        self.measured, self.pulses = saved.get("measured", {}), saved.get("pulses", [])
        self.flow_level = saved.get("flow_level", self.flow_level)
        with torch.no_grad():
            for term, log_variance in self.log_variances.items():
                log_variance.copy_(saved["log_variances"][term])
        for name in RECORDS if leads else ():
            tracking.forget_after(run / name, self.step)


def settled_config(config: RunConfig, device: torch.device) -> RunConfig:
    """The configuration with every `auto` replaced by what it means on this device.

    Raises:
        ValueError: A precision that the device does not have.
    """
    precision = runtime.choose_precision(config.precision, device)
    return replace(config, precision=precision, model=settle_batch_norm(config.model))


def initial_state(config: RunConfig, device: torch.device) -> TrainingState:
    """A run before its first step, of this process alone (`TrainingState.share`).

    Raises:
        ValueError: The weights that it is to start from do not fit.
    """
    model = build_model(config.model, config.seed).to(device)
    model.train_heads({field for chosen in config.loss.terms for field in taught_heads(chosen)})
    average = copy.deepcopy(model).requires_grad_(False) if config.optim.ema else None
    log_variances = initial_log_variances(config.loss)
    return TrainingState(
        model=model,
        network=model,
        average=average,
        optimizer=make_optimizer(model, config.optim, log_variances.values()),
        log_variances=log_variances,
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "float16"),
    )
