"""One step: a batch in, the weights moved, and what there is to tell of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semraft import runtime
from semraft.config import RunConfig
from semraft.faults.inject import planted
from semraft.losses.gradient_surgery import (
    Gradients,
    combined_gradients,
    is_plain_sum,
    parted,
    term_gradients,
)
from semraft.losses.objective import Objective, needed_passes, objective
from semraft.losses.term_weights import (
    Measured,
    NoGradient,
    is_measured,
    measure_shares,
    next_flow_level,
    step_weights,
)
from semraft.losses.terms import TERMS
from semraft.losses.uncertainty_weights import learn_log_variances, modulated
from semraft.models.heads import is_of_head
from semraft.models.raft import RAFT
from semraft.monitor.gradient_stats import (
    Watch,
    counted,
    is_watched,
    ranges_of,
    read_watch,
    sees_gradients,
    watch_flow,
    watch_gradients,
    watch_move,
    watch_weights,
)
from semraft.monitor.step_stats import batch_pulse, flow_pulse, move_pulse
from semraft.sample import FlowBatch, Prediction
from semraft.training.agreement import Ending, TrainingStopped, agreed_ending
from semraft.training.auxiliary_passes import add_passes
from semraft.training.optim import learning_rate, set_learning_rate
from semraft.training.state import TrainingState


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A step that was taken."""

    prediction: Prediction
    """Without its graph, which would else live until the next step's is there."""
    learning_rate: float
    weights: dict[str, float]
    """Loss term -> its weight."""
    watch: Watch | None
    """What was seen of it, if it was watched."""
    watched_s: float
    """Seconds that seeing took."""
    ending: Ending
    """Why the training ends with this step, as all processes agree."""


@runtime.one_size()
def take_step(
    state: TrainingState,
    batch: FlowBatch,
    asked: RunConfig,
    own_ending: Callable[[], Ending] = lambda: Ending.NONE,
) -> Taken:
    """Trains on one batch: forward, losses, backward, one move of the weights.

    Args:
        asked: The run's configuration; a fault planted in it acts here.
        own_ending: Asked shortly before the weights move: why this process would end the training.

    Raises:
        TrainingStopped: In all processes: loss or gradient is not finite in one of them, and the weights were
            not moved. Or a share can't be measured.
    """
    config, step = planted(asked, state), state.step + 1
    rate = learning_rate(step - 1, config.optim)
    set_learning_rate(state.optimizer, rate)
    watch = Watch(device=batch.image1.device) if is_watched(config, step) else None
    with ranges_of(state.model, hidden=watch is not None) as ranges:
        prediction = forward(state.network, batch, config)
    if "backward_flow" in needed_passes(config.loss):
        prediction.backward_flow = backward_flow(state.model, batch, prediction, config)
    add_passes(prediction, state.model, batch, config, step)
    rate_frac = rate / config.optim.learning_rate
    scheduled = step_weights(
        config.loss, step, config.optim.steps, rate_frac, state.measured, state.flow_level
    )
    weights = modulated(scheduled, state.log_variances)
    losses = objective(prediction, batch, config.loss, weights)
    measured = _measure(losses, state, config, step)
    started = time.perf_counter()
    pulse = ranges.largest | batch_pulse(batch, asked) | flow_pulse(prediction, batch, losses, weights, asked)
    state.pulses.append(pulse)
    watched_s = ranges.spent_s + time.perf_counter() - started
    if watch is not None:
        with counted(watch):
            watch.numbers |= ranges.largest
            watch_flow(watch, prediction, batch, config.loss, by_class=step == 1)
            watch_weights(watch, state.model)
    state.optimizer.zero_grad(set_to_none=True)
    told = _learn(losses, weights, state, config, watch if sees_gradients(config, step) else None)
    state.scaler.unscale_(state.optimizer)
    gradient_norm = clip(state.model, config.optim.clip_norm)
    # A gradient scaler passes over steps whose gradient is not finite.
    total = losses.total if state.scaler.is_enabled() else losses.total + gradient_norm
    ending = agreed_ending(own_ending(), total.isfinite())
    if ending is Ending.NOT_FINITE:
        raise TrainingStopped(_what_is_not_finite(step, batch, losses, gradient_norm))
    learn_log_variances(losses, weights, config.loss, state.log_variances)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.move_average(step, config.optim)
    started = time.perf_counter()
    pulse |= move_pulse(state.model, state.optimizer, gradient_norm, asked, step)
    watched_s += time.perf_counter() - started
    if watch is not None:
        with counted(watch):
            watch_move(watch, state.model)
            watch.numbers["loss_scale"] = loss_scale(state)
            read_watch(watch)
            watch.values["learning_rate"] = rate
    state.step, state.measured = step, measured
    state.flow_level = next_flow_level(losses, config.loss, state.flow_level)
    state.add(losses, gradient_norm, told)
    watched_s += watch.spent_s if watch is not None else 0.0
    return Taken(
        prediction=prediction.detached(),
        learning_rate=rate,
        weights=weights,
        watch=watch,
        watched_s=watched_s,
        ending=ending,
    )


def forward(network: nn.Module, batch: FlowBatch, config: RunConfig) -> Prediction:
    """What the network says of a batch, in the run's precision."""
    assert config.precision != "auto"
    with runtime.autocast(batch.image1.device, config.precision):
        prediction: Prediction = network(
            batch.image1, batch.image2, config.num_updates, labels1=batch.labels1, labels2=batch.labels2
        )
    return prediction


def backward_flow(
    model: RAFT, batch: FlowBatch, prediction: Prediction, config: RunConfig
) -> Float[Tensor, "B 2 H W"]:
    """The flow from frame 2 to frame 1, for checks: without gradient, and batch norm learns nothing of it."""
    assert config.precision != "auto"
    model.eval()
    with runtime.autocast(batch.image1.device, config.precision):
        flow = model.backward_flow(
            batch.image2, prediction, config.num_updates, labels1=batch.labels1, labels2=batch.labels2
        )
    model.train()
    return flow


def _learn(
    losses: Objective, weights: dict[str, float], state: TrainingState, config: RunConfig, watch: Watch | None
) -> dict[str, Tensor]:
    """Gives every parameter its gradient, times the loss scale; what there is to tell of terms that are held.

    Told of a term: which part of its gradient's norm was kept, and the log variance that its weight has.
    """
    device, scale = losses.total.device, state.scaler.scale
    named = [(name, value) for name, value in state.model.named_parameters() if value.requires_grad]
    trained, plain = [parameter for _, parameter in named], is_plain_sum(config.loss)
    if plain:
        terms: dict[str, Gradients] = {}
        if watch is not None:
            with counted(watch):
                terms = term_gradients(losses, weights, trained, config.loss, scale)
        torch.autograd.backward(scale(losses.total + _nothing_of_heads(state.model)))
        combined = parted([parameter.grad for parameter in trained], terms)
    else:
        combined = combined_gradients(losses, weights, trained, config.loss, scale)
        for (name, parameter), gradient in zip(named, combined.gradients, strict=True):
            still = torch.zeros_like(parameter) if is_of_head(name) else None  # As _nothing_of_heads has it.
            parameter.grad = still if gradient is None else gradient
    if watch is not None:
        with counted(watch):
            watch_gradients(watch, combined, [name for name, _ in named], loss_scale(state))
    told = {
        f"{TERMS[name].scalar}_log_variance": torch.tensor(value.item(), device=device)
        for name, value in state.log_variances.items()
    }
    for chosen in () if plain else config.loss.terms:
        nothing_taken = torch.ones((), device=device)
        told[f"{TERMS[chosen.name].scalar}_kept_frac"] = combined.kept.get(chosen.name, nothing_taken)
    return told


def _nothing_of_heads(model: RAFT) -> Float[Tensor, ""]:
    """0, with a gradient of 0 to every head that learns.

    While its terms weigh nothing a head has no gradient else, and processes would wait for it. Whatever their
    number: an optimiser that passes a parameter over is another one than one that sees it stand still.
    """
    learning = [
        parameter
        for name, parameter in model.named_parameters()
        if is_of_head(name) and parameter.requires_grad
    ]
    return torch.stack([0 * parameter.sum() for parameter in learning]).sum() if learning else torch.zeros(())


def _measure(losses: Objective, state: TrainingState, config: RunConfig, step: int) -> Measured:
    """The shares of the loss terms as known after this step."""
    if not any(is_measured(chosen, step) for chosen in config.loss.terms):
        return state.measured  # A scaler's number is waited for where it is needed.
    trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    try:
        return measure_shares(losses, trained, config.loss, step, state.measured, state.scaler.get_scale())
    except NoGradient as error:
        raise TrainingStopped(str(error)) from error


def loss_scale(state: TrainingState) -> Float[Tensor, ""]:
    """What losses are multiplied with before gradients are taken, on their device."""
    scaled: Tensor = state.scaler.scale(torch.ones((), device=next(state.model.parameters()).device))
    return scaled


def clip(model: nn.Module, clip_norm: float) -> Float[Tensor, ""]:
    """Clips the gradient to `clip_norm` (0: not at all) and returns its norm before."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm if clip_norm > 0 else float("inf"))


def _what_is_not_finite(step: int, batch: FlowBatch, losses: Objective, gradient_norm: Tensor) -> str:
    broken = [name for name, values in losses.values.items() if not torch.isfinite(values).all()]
    if not broken and gradient_norm.isfinite():
        where = "loss of another process"
    else:
        where = f"loss {' and '.join(broken)}" if broken else "gradient"
    return (
        f"{where} not finite at step {step}, samples {', '.join(batch.ids)}: the weights were not moved and "
        f"the last checkpoint is sound; try a lower --optim.learning-rate"
    )
