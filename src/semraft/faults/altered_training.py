"""Altered trainings: the loop around batches and steps with a fault or with the original study's code."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semraft.agreement import Ending
from semraft.config import LossConfig, RunConfig, TermConfig
from semraft.faults.as_it_was import objective_as_it_was, resize_as_it_was
from semraft.faults.fault_config import FaultConfig, fault_of
from semraft.faults.faulty_batches import faulty_batches
from semraft.sample import FlowBatch
from semraft.step_result import StepResult
from semraft.training import loop
from semraft.training.state import TrainingState
from semraft.training.step import training_step

TIMES_THE_RATE = 30
V1_WEIGHTS = {"v1-weight": 20.0, "v1-constant": 5.0}
OF_LOSSES = {"broadcast-flow-mask", "v1-broadcast-mask", "v1-mean-all"}
"""Alterations of the losses."""
LARGEST_HALF = float(torch.finfo(torch.float16).max)


def train(config: RunConfig, run: Path, *arguments: Any) -> Path:
    """`training.loop.train` with the alterations of the configuration.

    Raises:
        ValueError: An alteration that does not exist, or that does not fit the run.
    """
    altered, fault = frozenset(config.altered), fault_of(config.altered)
    learnt = config.model.conditioning == "truth" or "segmentation" in {t.name for t in config.loss.terms}
    if "grey-labels" in altered and learnt:
        raise ValueError("--altered grey-labels gives new classes: take a run that learns no classes")
    resized = partial(resize_as_it_was, altered)
    return loop.train(
        config,
        run,
        *arguments,
        draw_seed=draw_seed(config),
        open_batches=partial(faulty_batches, fault, resized=resized),
        step=partial(altered_step, altered, fault),
    )


def draw_seed(config: RunConfig) -> int:
    """The seed of sample order and augmentation."""
    return 0 if "fixed-draws" in config.altered else config.seed


def altered_step(
    altered: frozenset[str],
    fault: FaultConfig,
    state: TrainingState,
    batch: FlowBatch,
    config: RunConfig,
    separate_terms: bool = False,
    own_ending: Callable[[], Ending] = lambda: Ending.NONE,
) -> StepResult:
    """`training_step` with the alterations of a run."""
    losses = partial(objective_as_it_was, altered) if altered & OF_LOSSES else None
    config = inject(fault, config, state)
    return training_step(state, batch, config, separate_terms, own_ending, losses)


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
