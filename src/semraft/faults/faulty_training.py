"""Faulty training steps, and a training with a fault: the sound loop around both."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semraft.config import LossConfig, RunConfig, TermConfig
from semraft.faults.fault_config import FaultConfig
from semraft.faults.faulty_batches import faulty_batches
from semraft.sample import FlowBatch
from semraft.step_result import StepResult
from semraft.training import loop
from semraft.training.state import TrainingState
from semraft.training.step import training_step

TIMES_THE_RATE = 30
V1_WEIGHTS = {"v1-weight": 20.0, "v1-constant": 5.0}
LARGEST_HALF = float(torch.finfo(torch.float16).max)


def train(config: RunConfig, run: Path, *arguments: Any) -> Path:
    """`training.loop.train` with the fault of the configuration."""
    batches = partial(faulty_batches, config.fault)
    return loop.train(config, run, *arguments, open_batches=batches, step=partial(faulty_step, config.fault))


def faulty_step(
    fault: FaultConfig, state: TrainingState, batch: FlowBatch, config: RunConfig, *arguments: Any
) -> StepResult:
    """`training_step` with a fault."""
    return training_step(state, batch, inject(fault, config, state), *arguments)


def inject(fault: FaultConfig, config: RunConfig, state: TrainingState) -> RunConfig:
    """The configuration of the coming step, with a fault.

    Faults that are not of the configuration change the state's model or optimiser where they begin.
    """
    step, loss, optim = state.step + 1, config.loss, config.optim
    if step < fault.step:
        return config
    if fault.kind == "learning-rate":
        optim = replace(optim, learning_rate=TIMES_THE_RATE * optim.learning_rate)
    elif fault.kind == "no-clipping":
        optim = replace(optim, clip_norm=0.0)
    elif fault.kind == "normalization":
        loss = replace(loss, normalize="all")
    elif fault.kind in V1_WEIGHTS:
        loss = _with_v1(loss, V1_WEIGHTS[fault.kind])
    elif fault.kind == "optimizer-restart" and step == fault.step:
        state.optimizer.state.clear()
    elif fault.kind == "batch-norm" and state.model.batch_norm_is_frozen:
        state.model.batch_norm_is_frozen = False
        state.model.train()
    elif fault.kind == "half-overflow" and step == fault.step:
        # Before all other hooks: the monitor is to see the overflow.
        state.model.update_block.motion_encoder.register_forward_pre_hook(_through_half, prepend=True)
    return replace(config, loss=loss, optim=optim)


def _with_v1(loss: LossConfig, weight: float) -> LossConfig:
    heavy = TermConfig(name="semantic-v1", weight=weight)
    return replace(loss, terms=tuple(heavy if term.name == heavy.name else term for term in loss.terms))


def _through_half(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    correlation, *rest = inputs
    return _overflowing(correlation), *rest


def _overflowing(correlation: Tensor) -> Tensor:
    """Correlations in float16, of features so large that the strongest leave its range."""
    factor = 2 * LARGEST_HALF / correlation.detach().abs().amax().clamp(min=1e-6)
    return (correlation * factor).half().to(correlation.dtype)
