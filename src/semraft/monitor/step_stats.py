"""Cheap statistics of every training step: its batch, its flow error, its update; a line of pulse.jsonl.

Values stay on the device until a line is written, so that no step waits for it. A line is the mean over as
many steps as give a run a thousand lines; of names in `_max` it is the maximum, in `_samples` the sum. They
are of the process that writes, that is of its part of the batch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semraft.config import RunConfig
from semraft.losses.objective import supervised_pixels
from semraft.losses.reduction import masked_mean
from semraft.losses.terms import TERMS
from semraft.monitor.data_checks import between_frac, read
from semraft.ops.fetch import fetched
from semraft.sample import FlowBatch
from semraft.step_result import StepResult

LINES = 1000
SWAPPED_LESS, SCALED_LESS = 0.6, 0.85
"""A check whose misfit is below this part of the given flow's contradicts it. With u and v exchanged the
misfit of 1433 sound samples of the world was at least 0.96 times that of the given flow, and below 0.6 times
for 1356 of 1430 samples whose truth was exchanged; with another length below 0.85 times for 2 of 480 sound
samples."""
STILL_MORE = 1.7
"""Pixels that stand still fit their images no worse than those that move along their true flow: noise and
augmentation change both. A sample where they miss by more than so many times as much has pixels without truth
that count as standing still (rates in docs/diagnosis.md)."""
MIN_POINTS = 30
"""Fewer points of a sample decide nothing."""
CLIPPED_EVERY = 5
"""Steps between two measurements of the gradient's norm after clipping."""

StepStatistics = dict[str, Tensor]
"""Name -> a number of one step, on any device."""


def line_every(config: RunConfig) -> int:
    """Number of steps that a line of pulse.jsonl is the mean of."""
    return max(1, config.optim.steps // LINES)


@torch.no_grad()
def batch_statistics(batch: FlowBatch, config: RunConfig) -> StepStatistics:
    """How well the flow truth aligns the images, and whether labels are classes (`monitor.data_checks`)."""
    trusted = batch.trusted(config.loss.max_flow_px)
    visible = trusted if batch.occluded1 is None else trusted & ~batch.occluded1
    checks = read(batch.image1, batch.image2, batch.flow, visible)
    enough = checks.points >= MIN_POINTS
    stands = enough & (checks.standing_points >= MIN_POINTS)
    found = {
        "trusted_frac": trusted.float().mean(),
        "seen_samples": torch.tensor(float(len(batch.ids))),
        "swapped_samples": (enough & (checks.swapped < SWAPPED_LESS * checks.as_given)).sum().float(),
        "scaled_samples": (enough & (checks.scaled < SCALED_LESS * checks.as_given)).sum().float(),
        "false_still_samples": (stands & (checks.standing > STILL_MORE * checks.as_given)).sum().float(),
    }
    if batch.labels1 is not None:
        found["between_classes_frac"] = between_frac(batch.labels1)
    return found


@torch.no_grad()
def flow_statistics(result: StepResult, batch: FlowBatch, config: RunConfig) -> StepStatistics:
    """EPE of the first and of the last refinement, length of the flow and of its truth, losses and weights.

    Over every pixel with truth: a grid of points would leave too few of sparse truth. `l1_px` is the expected
    flow loss: the mean L1 distance of the last flow to the truth, over the pixels that the flow loss reads or
    over all (`normalize`), of all processes.
    """
    prediction, losses = result.prediction, result.losses
    truth, trusted = batch.flow, batch.trusted(config.loss.max_flow_px)
    first, last = prediction.flows[0].float(), prediction.flow.float()
    off = last - truth
    # A sum over an axis of two takes several times as long.
    lengths = torch.hypot(*torch.stack([first - truth, off, last, truth]).unbind(dim=2))
    means = torch.where(trusted, lengths, 0).sum(dim=(1, 2, 3)) / trusted.sum().clamp(min=1)
    found = dict(zip(("first_epe_px", "epe_px", "length_px", "true_length_px"), means, strict=True))
    supervised = supervised_pixels(batch, config.loss)
    distance = torch.where(supervised, off.abs().sum(dim=1), 0)
    counted = torch.ones_like(supervised) if config.loss.normalize == "all" else supervised
    found["l1_px"] = masked_mean(distance, counted)
    found |= {"total_loss": losses.total, "flow_loss": losses.values["flow_loss"][-1]}
    for name, weight in result.weights.items():
        found[f"value_{name}"] = losses.values[TERMS[name].scalar][-1]
        found[f"weight_{name}"] = torch.tensor(weight)
    return found


@torch.no_grad()
def update_statistics(
    model: nn.Module, optimizer: torch.optim.Optimizer, gradient_norm: Tensor, config: RunConfig, step: int
) -> StepStatistics:
    """Gradient norm, learning rate and batch norm of step `step`.

    `rate_ratio` is the learning rate over the configured one, `optimizer_steps_missing` the number of steps
    that AdamW's moments have not seen.
    """
    states = list(optimizer.state.values())
    seen = states[0]["step"].detach().float() if states else torch.zeros(())
    rate = optimizer.param_groups[0]["lr"]
    found = {
        "gradient_norm": gradient_norm.detach(),
        "rate_ratio": torch.tensor(rate / config.optim.rate_at(step - 1)),
        "optimizer_steps_missing": step - seen,
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


def line_of(steps: Sequence[StepStatistics]) -> dict[str, float]:
    """The line of several steps; a number that some steps lack is the mean over those that have it."""
    names = [name for numbers in steps for name in numbers]
    together: dict[str, list[float]] = {}
    for name, value in zip(
        names, fetched([value for numbers in steps for value in numbers.values()]), strict=True
    ):
        together.setdefault(name, []).append(float(value))
    line = {}
    for name, values in together.items():
        if name.endswith("_max"):
            # Python's maximum of NaN and numbers depends on their order.
            line[name] = math.nan if any(map(math.isnan, values)) else max(values)
        else:
            line[name] = math.fsum(values) / (1 if name.endswith("_samples") else len(values))
    return line
