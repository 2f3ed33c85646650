"""One training step: forward pass, losses, backward pass, update of the weights."""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.profiler import record_function

from semraft import runtime
from semraft.agreement import Ending, WentWrong, agreed_ending
from semraft.config import LossConfig, RunConfig
from semraft.losses.gradient_surgery import (
    Gradients,
    StepGradients,
    batch_gradients,
    combine,
    flow_gradient,
    term_gradients,
)
from semraft.losses.objective import Objective, needed_passes, objective
from semraft.losses.reduction import refinement_sum
from semraft.losses.term_weights import NoGradient, is_measured
from semraft.models.heads import is_of_head
from semraft.sample import FlowBatch, Prediction
from semraft.step_result import StepResult
from semraft.training.auxiliary_passes import add_passes
from semraft.training.state import TrainingState

LossFunction = Callable[[Prediction, FlowBatch, LossConfig, Mapping[str, float]], Objective]


class NoShare(WentWrong):
    """A training stopped because the share of a term can't be measured."""


@runtime.one_size()
def training_step(
    state: TrainingState,
    batch: FlowBatch,
    config: RunConfig,
    separate_terms: bool = False,
    own_ending: Callable[[], Ending] = lambda: Ending.NONE,
    loss_function: LossFunction | None = None,
) -> StepResult:
    """Trains on one batch; where loss or gradient of any process is not finite, no weight moves.

    Args:
        separate_terms: Take the gradient of each term as well, each by a backward pass.
        own_ending: Called just before the weights move: why this process would end the training.
        loss_function: Instead of `objective`.
    """
    prediction = predict(state, batch, config)
    weights = state.term_weights.at(state.step + 1, config)
    losses = (loss_function or objective)(prediction, batch, config.loss, weights)
    measured = measure_shares(losses, state, config)
    gradients = backward(losses, weights, state, config, separate_terms)
    ending = agreed_ending(own_ending(), is_finite(losses, gradients, state))
    result = StepResult(
        step=state.step + 1,
        prediction=prediction.detached(),
        losses=losses.detached(),
        weights=weights,
        log_variances=state.term_weights.known_log_variances(),
        measured=measured,
        gradients=gradients,
        ending=ending,
    )
    if ending is not Ending.NOT_FINITE:
        state.update(result, config)
    return result


def predict(state: TrainingState, batch: FlowBatch, config: RunConfig) -> Prediction:
    """The network's prediction for a batch in the run's precision, with the auxiliary passes of the terms."""
    assert config.precision != "auto"
    precise = runtime.autocast(batch.image1.device, config.precision)
    with record_function("network forward"), precise:
        prediction: Prediction = state.network(
            batch.image1, batch.image2, config.num_updates, labels1=batch.labels1, labels2=batch.labels2
        )
    if needed_passes(config.loss):
        add_passes(prediction, state.model, batch, config, state.step + 1)
    return prediction


def measure_shares(losses: Objective, state: TrainingState, config: RunConfig) -> dict[str, float]:
    """`TermWeights.measure_shares` of the step, where any is due.

    Raises:
        NoShare: A term has no share of the gradient.
    """
    if not any(is_measured(chosen, state.step + 1) for chosen in config.loss.terms):
        return {}  # Without `get_scale`, which waits for the device.
    trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    try:
        return state.term_weights.measure_shares(
            losses, trained, config.loss, state.step + 1, state.scaler.get_scale()
        )
    except NoGradient as error:
        raise NoShare(str(error)) from error


def backward(
    losses: Objective,
    weights: dict[str, float],
    state: TrainingState,
    config: RunConfig,
    separate_terms: bool,
) -> StepGradients:
    """Gives every trained parameter its gradient, clipped, and returns what is known of its parts."""
    named = [(name, value) for name, value in state.model.named_parameters() if value.requires_grad]
    trained, scale, device = [value for _, value in named], state.scaler.scale, losses.total.device
    is_plain, started = not config.loss.has_surgery, _now(device) if separate_terms else 0.0
    flow: Gradients = ()
    terms: dict[str, Gradients] = {}
    kept_frac: dict[str, Float[Tensor, ""]] = {}
    loss_scale, separation_s = None, 0.0
    if separate_terms or not is_plain:
        with record_function("terms apart"):
            terms = term_gradients(losses, weights, trained, config.loss, scale)
    if separate_terms:
        loss_scale, separation_s = scale(torch.ones((), device=device)), _now(device) - started
    state.optimizer.zero_grad(set_to_none=True)
    if is_plain:
        with record_function("network backward"):
            torch.autograd.backward(scale(losses.total + zero_gradient_for_idle_heads(named)))
        if separate_terms:
            flow = flow_gradient([parameter.grad for parameter in trained], terms)
    else:
        with record_function("network backward"):
            flow_loss = refinement_sum(losses.values["flow_loss"], config.loss.gamma)
            flow = batch_gradients(scale(flow_loss), trained)
        total, kept_frac = combine(flow, terms, config.loss)
        for (name, parameter), gradient in zip(named, total, strict=True):
            idle = torch.zeros_like(parameter) if is_of_head(name) else None
            parameter.grad = idle if gradient is None else gradient
    with record_function("optimiser"):
        state.scaler.unscale_(state.optimizer)
        norm = clip(state.model, config.optim.clip_norm)
    return StepGradients(
        flow=flow,
        terms=terms,
        kept_frac=kept_frac,
        loss_scale=loss_scale,
        separation_s=separation_s if is_plain else 0.0,
        norm=norm,
    )


def zero_gradient_for_idle_heads(named: Sequence[tuple[str, nn.Parameter]]) -> Float[Tensor, ""]:
    """0, with a gradient of 0 for every head that trains.

    A head whose terms weigh nothing has no gradient otherwise, and processes would wait for it. With one
    process too: AdamW skips a parameter without a gradient but decays one whose gradient is 0, so that the
    result would depend on the number of processes.
    """
    heads = [0 * parameter.sum() for name, parameter in named if is_of_head(name)]
    return torch.stack(heads).sum() if heads else torch.zeros(())


def clip(model: nn.Module, clip_norm: float) -> Float[Tensor, ""]:
    """Clips the gradient to `clip_norm` (0: not at all) and returns its norm before."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm if clip_norm > 0 else float("inf"))


def is_finite(losses: Objective, gradients: StepGradients, state: TrainingState) -> Bool[Tensor, ""]:
    """Whether the loss is finite, and the gradient too: but a gradient scaler itself skips such a step."""
    total = losses.total if state.scaler.is_enabled() else losses.total + gradients.norm
    return total.isfinite()


def _now(device: torch.device) -> float:
    """Seconds, once the device has done its work so far."""
    runtime.synchronize(device)
    return time.perf_counter()
