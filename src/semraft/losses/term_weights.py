"""Weights of the auxiliary terms at each step: schedules, measured shares and learnt log variances.

A schedule is a pure function of the step, except one that follows the flow loss. A share is measured as a
part of the flow loss's gradient norm over a window of batches, then fixed. A log variance is learnt.

Source of the log variances: Kendall, Gal, Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses,
CVPR 2018, with s = log sigma^2: a loss L counts as exp(-s) L + s/2, which s minimises at exp(-s) = 1 / (2 L).
Differs from it: only auxiliary terms have an s, so that the flow loss can't be weighted down. With the weight
w of a term: w (exp(-s) L + s/2), so that w = 0 leaves s unchanged and a term ends near w / (2 L). A loss of
nearly 0 gets a large weight in time: `--loss.share-cap` limits its effect.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semraft.config import LossConfig, RunConfig, TermConfig
from semraft.losses.objective import Objective
from semraft.losses.reduction import mean_over_processes, refinement_sum
from semraft.losses.terms import TERMS

MEASURED_STEPS = 8
"""Batches of the window that a share is measured over, and of the mean of the flow loss at the start."""
FOLLOWED_STEPS = 50
"""Time constant of the flow loss's running mean, in batches."""


class NoGradient(ValueError):
    """A share can't be measured because the term has no gradient; the message gives the way out."""


@dataclass(kw_only=True, slots=True)
class TermWeights:
    """Weights of the terms of a run, and the state that they depend on; all tensors are on the CPU."""

    shares: dict[str, Float[Tensor, "4"]] = field(default_factory=dict)
    """Term name -> sums of the flow's and of the term's gradient norms, number of batches in the running
    window, and the weight of the last whole window (0: none yet)."""
    flow_level: Float[Tensor, "3"] = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    """The flow loss's mean over the first batches, its running mean since, number of first batches."""
    log_variances: dict[str, nn.Parameter] = field(default_factory=dict)
    """Term name -> s, of the terms with `modulation=uncertainty`."""

    @classmethod
    def initial(cls, config: LossConfig) -> "TermWeights":
        """Weights before the first step; every s is 0, so that a learnt weight starts at the given one."""
        learnt = [chosen.name for chosen in config.terms if chosen.modulation == "uncertainty"]
        return cls(log_variances={name: nn.Parameter(torch.zeros(())) for name in learnt})

    def at(self, step: int, config: RunConfig) -> dict[str, float]:
        """Term name -> its weight at optimiser step `step` (from 1); 0 for a share that is not known yet."""
        optim = config.optim
        rate_frac = optim.rate_at(step - 1) / optim.learning_rate
        start, now, _ = self.flow_level.tolist()
        flow_loss_frac = min(now / start, 1.0) if start > 0 else 1.0
        weights = {}
        for chosen in config.loss.terms:
            full = chosen.weight
            if chosen.share is not None:
                full = float(self.shares[chosen.name][3]) if chosen.name in self.shares else 0.0
            weight = full * scheduled_frac(chosen, step, optim.steps, rate_frac, flow_loss_frac)
            if chosen.name in self.log_variances:
                weight *= math.exp(-self.log_variances[chosen.name].item())
            weights[chosen.name] = weight
        return weights

    def known_log_variances(self) -> dict[str, float]:
        """Term name -> s now."""
        return {name: value.item() for name, value in self.log_variances.items()}

    def measure_shares(
        self,
        losses: Objective,
        parameters: Sequence[nn.Parameter],
        config: LossConfig,
        step: int,
        loss_scale: float,
    ) -> dict[str, float]:
        """Measures the shares that are due at `step`; no gradient is kept, and the graph stays.

        The weight is share x sum |flow gradient| / sum |term gradient| over MEASURED_STEPS batches, norms
        over the parameters that both act on, of the gradients of the whole batch of all processes.

        Args:
            loss_scale: The gradient scaler's factor: half-precision gradients of a term do not vanish. It
                cancels out.

        Returns:
            Term name -> weight, of the terms whose window is complete with this step.

        Raises:
            NoGradient: After a whole window no finite gradient of the term was seen.
        """
        known_now = {}
        for chosen in config.terms:
            if not is_measured(chosen, step):
                continue
            name, known = chosen.name, self.shares.get(chosen.name, torch.zeros(4, dtype=torch.float64))
            flow_loss, term_loss = (
                loss_scale * refinement_sum(losses.values[scalar], config.gamma)
                for scalar in ("flow_loss", TERMS[name].scalar)
            )
            norms = _gradient_norms(flow_loss, term_loss, parameters).cpu().double()
            if norms.isfinite().all():
                known = known + torch.cat([norms, torch.tensor([1.0, 0.0], dtype=torch.float64)])
            if not is_measured(chosen, step + 1):
                known = _completed(chosen, step, known)
                known_now[name] = float(known[3])
            self.shares[name] = known
        return known_now

    def learn(self, losses: Objective, weights: Mapping[str, float], config: LossConfig) -> None:
        """Gives each s its gradient w (1/2 - exp(-s) L), and follows the flow loss where a schedule does.

        L and the flow loss are of the whole batch of all processes. Over the first MEASURED_STEPS batches
        both numbers of the flow loss are the mean so far; later the first stands, and the second goes on with
        1 / FOLLOWED_STEPS of each batch.

        Args:
            weights: The weights of this step, w exp(-s).
        """
        for name, log_variance in self.log_variances.items():
            if weights[name] != 0:
                loss = mean_over_processes(refinement_sum(losses.values[TERMS[name].scalar], config.gamma))
                slope = weights[name] * (math.exp(log_variance.item()) / 2 - float(loss))
                log_variance.grad = torch.full_like(log_variance, slope)
        if any(chosen.schedule == "flow-loss" for chosen in config.terms):
            value = float(mean_over_processes(refinement_sum(losses.values["flow_loss"], config.gamma)))
            start, now, batches = self.flow_level.tolist()
            if batches < MEASURED_STEPS:
                batches += 1
                start = now = start + (value - start) / batches
            else:
                now += (value - now) / FOLLOWED_STEPS
            self.flow_level = torch.tensor([start, now, batches], dtype=torch.float64)


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


def changing_weights(config: LossConfig, weights: Mapping[str, float]) -> dict[str, float]:
    """The weights for the metrics, under the name of the term's value: only those that can change."""
    return {
        f"{TERMS[chosen.name].scalar}_weight": weights[chosen.name]
        for chosen in config.terms
        if chosen.share is not None
        or chosen.ramp
        or chosen.schedule != "constant"
        or chosen.modulation != "none"
    }


def is_measured(chosen: TermConfig, step: int) -> bool:
    """Whether a term's share is measured at this step."""
    again = chosen.measure_again or chosen.measure_after
    starts = (chosen.measure_after, again)
    return chosen.share is not None and any(start < step <= start + MEASURED_STEPS for start in starts)


def _completed(chosen: TermConfig, step: int, known: Float[Tensor, "4"]) -> Float[Tensor, "4"]:
    """The state after a whole window: an empty window, and the weight."""
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
