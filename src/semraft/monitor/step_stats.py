"""What every step tells of itself at next to no cost: its batch, its flow, its move; a line of pulse.jsonl.

Numbers stay on the device until a line is written, so that nothing waits for them. A line is the mean over as
many steps as let a run have a thousand lines; of names in `_max` it is the largest, in `_samples` the sum.
As with all that a training watches of itself, it is of the part of the batch of the process that writes.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from semraft.config import RunConfig
from semraft.losses.objective import Objective, taught_pixels
from semraft.losses.reduction import masked_mean
from semraft.losses.sequence import trusted_pixels
from semraft.losses.terms import TERMS
from semraft.monitor.data_checks import between_frac, read
from semraft.ops.fetch import fetched
from semraft.sample import FlowBatch, Prediction
from semraft.training.optim import learning_rate

LINES = 1000
SWAPPED_LESS, SCALED_LESS = 0.6, 0.85
"""A reading whose misfit is below this part of the given one's contradicts it. With u and v exchanged that of
1433 sound samples of the world was at least 0.96 times the given one's, that of 1356 of 1430 whose truth was
exchanged below 0.6 times; at another length that of 2 of 480 sound ones was below 0.85 times."""
STILL_MORE = 1.7
"""Pixels that stand still fit their pictures no worse than those that move along their true flow: noise and
augmentation change both. A sample where they miss by more than so many times as much has pixels without truth
that count as standing still (rates in docs/diagnosis.md)."""
MIN_POINTS = 30
"""Fewer points of a sample decide nothing."""
CLIPPED_EVERY = 5
"""Steps between looks at the gradient's norm once it is clipped."""

Pulse = dict[str, Tensor]
"""Name -> a number of one step, on whatever device it was found."""


def pulse_every(config: RunConfig) -> int:
    """Steps a line of pulse.jsonl is the mean of."""
    return max(1, config.optim.steps // LINES)


@torch.no_grad()
def batch_pulse(batch: FlowBatch, config: RunConfig) -> Pulse:
    """Whether the batch's truth fits its pictures, and its labels are classes (`ops.readings`)."""
    trusted = trusted_pixels(batch.flow, batch.valid, config.loss.max_flow_px)
    visible = trusted if batch.occluded1 is None else trusted & ~batch.occluded1
    readings = read(batch.image1, batch.image2, batch.flow, visible)
    enough = readings.points >= MIN_POINTS
    stands = enough & (readings.standing_points >= MIN_POINTS)
    found = {
        "trusted_frac": trusted.float().mean(),
        "seen_samples": torch.tensor(float(len(batch.ids))),
        "swapped_samples": (enough & (readings.swapped < SWAPPED_LESS * readings.as_given)).sum().float(),
        "scaled_samples": (enough & (readings.scaled < SCALED_LESS * readings.as_given)).sum().float(),
        "false_still_samples": (stands & (readings.standing > STILL_MORE * readings.as_given)).sum().float(),
    }
    if batch.labels1 is not None:
        found["between_classes_frac"] = between_frac(batch.labels1)
    return found


@torch.no_grad()
def flow_pulse(
    prediction: Prediction,
    batch: FlowBatch,
    losses: Objective,
    weights: Mapping[str, float],
    config: RunConfig,
) -> Pulse:
    """How far the first and the last refinement are from the truth, how long flow is against it, the losses.

    Over every pixel with truth: a grid of points would leave too few of sparse truth. `l1_px` is the number
    that the flow loss must be: the mean L1 distance of the last flow, over the pixels that the loss reads or
    all (`normalize`), of all processes.
    """
    truth = batch.flow
    trusted = trusted_pixels(truth, batch.valid, config.loss.max_flow_px)
    first, last = prediction.flows[0].float(), prediction.flow.float()
    lengths = torch.stack([first - truth, last - truth, last, truth]).square().sum(dim=2).sqrt()
    means = torch.where(trusted, lengths, 0).sum(dim=(1, 2, 3)) / trusted.sum().clamp(min=1)
    found = dict(zip(("first_epe_px", "epe_px", "length_px", "true_length_px"), means, strict=True))
    taught = trusted & taught_pixels(batch, config.loss)
    distance = torch.where(taught, (last - truth).abs().sum(dim=1), 0)
    every = torch.ones_like(taught) if config.loss.normalize == "all" else taught
    found["l1_px"] = masked_mean(distance, every)
    found |= {"total_loss": losses.total.detach(), "flow_loss": losses.values["flow_loss"][-1].detach()}
    for name, weight in weights.items():
        found[f"value_{name}"] = losses.values[TERMS[name].scalar][-1].detach()
        found[f"weight_{name}"] = torch.tensor(weight)
    return found


@torch.no_grad()
def move_pulse(
    model: nn.Module, optimizer: torch.optim.Optimizer, gradient_norm: Tensor, config: RunConfig, step: int
) -> Pulse:
    """What the step did with its gradient. `rate_ratio` is the learning rate over the one asked for,
    `optimizer_steps_missing` how many steps its moments do not know of."""
    states = list(optimizer.state.values())
    known = states[0]["step"].detach().float() if states else torch.zeros(())
    rate = optimizer.param_groups[0]["lr"]
    found = {
        "gradient_norm": gradient_norm.detach(),
        "rate_ratio": torch.tensor(rate / learning_rate(step - 1, config.optim)),
        "optimizer_steps_missing": step - known,
    }
    if config.optim.clip_norm and step % CLIPPED_EVERY == 0:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        found["clipped_ratio_max"] = norm / config.optim.clip_norm
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        means = [norm.running_mean.double().sum() for norm in norms if norm.running_mean is not None]
        found["batch_norm_sum"] = torch.stack(means).sum()
    return found


def line_of(pulses: Sequence[Pulse]) -> dict[str, float]:
    """One line of several steps' pulses; a number that some lack is of those that have it."""
    names = [name for pulse in pulses for name in pulse]
    together: dict[str, list[float]] = {}
    for name, value in zip(
        names, fetched([value for pulse in pulses for value in pulse.values()]), strict=True
    ):
        together.setdefault(name, []).append(float(value))
    line = {}
    for name, values in together.items():
        if name.endswith("_max"):
            # Of what is not a number a maximum in Python depends on the order.
            line[name] = math.nan if any(map(math.isnan, values)) else max(values)
        else:
            line[name] = math.fsum(values) / (1 if name.endswith("_samples") else len(values))
    return line
