"""What each term weighs at a step: schedules, and weights that are measured as shares of the flow gradient.

A schedule is a pure function of the step, and one of them of the flow loss so far. A measured weight is one
too once it is known. What is measured so far is in tensors that a checkpoint keeps.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semraft.config import LossConfig, TermConfig
from semraft.losses.objective import Objective
from semraft.losses.reduction import mean_over_processes, refinement_sum
from semraft.losses.terms import TERMS

MEASURED_STEPS = 8
"""Batches that a share is measured over, and the flow loss at the start."""
FOLLOWED_STEPS = 50
"""Batches over which the flow loss is followed: the time constant of its running mean."""

Measured = Mapping[str, Float[Tensor, "4"]]
"""Term name -> sums of the flow's and the term's gradient norms and number of batches in the running window,
and the weight that the last whole window gave (0: none yet)."""

FlowLevel = Float[Tensor, "3"]
"""The flow loss's mean over the first batches and its running mean since, and the number of those batches."""


class NoGradient(ValueError):
    """A share can't be measured, because the term has no gradient; the message says what to do."""


def scheduled_frac(
    chosen: TermConfig, step: int, steps: int, learning_rate_frac: float, flow_loss_frac: float
) -> float:
    """The part of its weight that a term has at optimiser step `step`, from 1 to `steps`.

    Args:
        learning_rate_frac: The step's learning rate over its peak.
        flow_loss_frac: The flow loss over that at the start, at most 1.
    """
    start = chosen.measure_after + MEASURED_STEPS if chosen.share is not None else 0
    ramp = 1.0 if chosen.ramp == 0 else min(max(step - start, 0) / chosen.ramp, 1.0)
    if chosen.schedule == "learning-rate":
        return ramp * learning_rate_frac
    if chosen.schedule == "decay":
        return ramp * (steps - step) / steps
    if chosen.schedule == "flow-loss":
        return ramp * flow_loss_frac
    return ramp


def step_weights(
    config: LossConfig,
    step: int,
    steps: int,
    learning_rate_frac: float,
    measured: Measured,
    flow_level: FlowLevel,
) -> dict[str, float]:
    """Each term's weight at a step; 0 for a share that is not known yet."""
    weights = {}
    start, now, _ = flow_level.tolist()
    flow_loss_frac = min(now / start, 1.0) if start > 0 else 1.0
    for chosen in config.terms:
        full = chosen.weight
        if chosen.share is not None:
            full = float(measured[chosen.name][3]) if chosen.name in measured else 0.0
        weights[chosen.name] = full * scheduled_frac(chosen, step, steps, learning_rate_frac, flow_loss_frac)
    return weights


def changing_weights(config: LossConfig, weights: Mapping[str, float]) -> dict[str, float]:
    """The weights worth a line in the metrics, under the name of the term's value: those that move."""
    return {
        f"{TERMS[chosen.name].scalar}_weight": weights[chosen.name]
        for chosen in config.terms
        if chosen.share is not None
        or chosen.ramp
        or chosen.schedule != "constant"
        or chosen.modulation != "none"
    }


def next_flow_level(losses: Objective, config: LossConfig, level: FlowLevel) -> FlowLevel:
    """The flow loss as known after this step, of the whole batch whatever processes share it.

    Over the first MEASURED_STEPS batches both numbers are the plain mean so far; then the first stands, and
    the second goes on with 1 / FOLLOWED_STEPS of each batch. Unchanged if no term goes by it.
    """
    if not any(chosen.schedule == "flow-loss" for chosen in config.terms):
        return level
    value = float(mean_over_processes(refinement_sum(losses.values["flow_loss"], config.gamma)))
    start, now, batches = level.tolist()
    if batches < MEASURED_STEPS:
        batches += 1
        start = now = start + (value - start) / batches
    else:
        now += (value - now) / FOLLOWED_STEPS
    return torch.tensor([start, now, batches], dtype=torch.float64)


def is_measured(chosen: TermConfig, step: int) -> bool:
    """Whether a term's share is measured at this step."""
    again = chosen.measure_again or chosen.measure_after
    starts = (chosen.measure_after, again)
    return chosen.share is not None and any(start < step <= start + MEASURED_STEPS for start in starts)


def measure_shares(
    losses: Objective,
    parameters: Sequence[nn.Parameter],
    config: LossConfig,
    step: int,
    measured: Measured,
    loss_scale: float = 1.0,
) -> dict[str, Float[Tensor, "4"]]:
    """What is measured after this step: gradients are taken, none is kept, and the graph stays.

    The weight is share x sum |flow gradient| / sum |term gradient| over MEASURED_STEPS batches, norms over
    the parameters that both act on, of the gradients of the whole batch whatever processes share it.

    Args:
        loss_scale: What a gradient scaler multiplies losses with, so that half-precision gradients of a term
            do not vanish; it cancels out.

    Raises:
        NoGradient: After a whole window no finite gradient of the term was seen.
    """
    after = dict(measured)
    for chosen in config.terms:
        if not is_measured(chosen, step):
            continue
        known = after.get(chosen.name, torch.zeros(4, dtype=torch.float64))
        norms = _gradient_norms(
            loss_scale * refinement_sum(losses.values["flow_loss"], config.gamma),
            loss_scale * refinement_sum(losses.values[TERMS[chosen.name].scalar], config.gamma),
            parameters,
        )
        norms = norms.cpu().double()
        if norms.isfinite().all():
            known = known + torch.cat([norms, torch.tensor([1.0, 0.0], dtype=torch.float64)])
        if not is_measured(chosen, step + 1):
            known = _weight_of(chosen, step, known)
        after[chosen.name] = known
    return after


def settled(before: Measured, after: Measured) -> dict[str, float]:
    """The weights that became known between two states."""
    old = {name: float(state[3]) for name, state in before.items()}
    new = {name: float(state[3]) for name, state in after.items()}
    return {name: weight for name, weight in new.items() if weight and weight != old.get(name)}


def _weight_of(chosen: TermConfig, step: int, known: Float[Tensor, "4"]) -> Float[Tensor, "4"]:
    """The state after a whole window: an empty one, and the weight."""
    flow_norm, term_norm, batches, _ = known.tolist()
    if not batches or not flow_norm or not term_norm:
        raise NoGradient(
            f"loss term {chosen.name!r} has no share of the gradient: that of the flow loss and its own are "
            f"{flow_norm:g} and {term_norm:g} over {int(batches)} batches up to step {step}; give it a "
            f"weight, or measure later (measure-after=N)"
        )
    assert chosen.share is not None
    return torch.tensor([0, 0, 0, chosen.share * flow_norm / term_norm], dtype=torch.float64)


def _gradient_norms(
    flow_loss: Float[Tensor, ""], term_loss: Float[Tensor, ""], parameters: Sequence[nn.Parameter]
) -> Float[Tensor, "2"]:
    """Gradient norms of both losses over the parameters that both depend on."""
    pairs = zip(*(gradients_of(loss, parameters) for loss in (flow_loss, term_loss)), strict=True)
    shared = [(flow, term) for flow, term in pairs if flow is not None and term is not None]
    # Each process has the gradient of its part: the mean of those is the batch's, the mean of norms is not.
    squares = [
        torch.stack([mean_over_processes(gradient).square().sum() for gradient in pair]) for pair in shared
    ]
    return torch.stack(squares).sum(0).sqrt() if squares else flow_loss.new_zeros(2)


def gradients_of(loss: Float[Tensor, ""], parameters: Sequence[nn.Parameter]) -> Sequence[Tensor | None]:
    """The gradient of a loss in each parameter, None where it does not depend on it. The graph stays."""
    if not loss.requires_grad:
        return [None] * len(parameters)
    return torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
