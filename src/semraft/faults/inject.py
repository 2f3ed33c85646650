"""Planted faults of a training step; those of samples are in `semraft.faults.samples`."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from semraft.config import LossConfig, RunConfig, TermConfig
from semraft.training.state import TrainingState

TIMES_THE_RATE = 30
V1_WEIGHTS = {"v1-weight": 20.0, "v1-constant": 5.0}
LARGEST_HALF = float(torch.finfo(torch.float16).max)


def planted(config: RunConfig, state: TrainingState) -> RunConfig:
    """What the next step really does of what the configuration asks for.

    Faults that are not of the configuration change the state's model or optimiser where they begin; a resumed
    run has them again.
    """
    fault, step = config.fault, state.step + 1
    if step < fault.step:
        return config
    loss, optim = config.loss, config.optim
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
        state.model.update_block.motion_encoder.register_forward_pre_hook(_through_half)
    return replace(config, loss=loss, optim=optim)


def _with_v1(loss: LossConfig, weight: float) -> LossConfig:
    heavy = TermConfig(name="semantic-v1", weight=weight)
    return replace(loss, terms=tuple(heavy if term.name == heavy.name else term for term in loss.terms))


def _through_half(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    correlation, *rest = inputs
    return _overflowing(correlation), *rest


def _overflowing(correlation: Tensor) -> Tensor:
    """Products of features as float16 has them when features are so large that the strongest do not fit."""
    factor = 2 * LARGEST_HALF / correlation.detach().abs().amax().clamp(min=1e-6)
    return (correlation * factor).half().to(correlation.dtype)
