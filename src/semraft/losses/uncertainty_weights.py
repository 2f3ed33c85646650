"""Weights that are learnt: a log variance for a term, after the uncertainty of its task.

Source: Kendall, Gal, Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018, with
s = log sigma^2: a loss L counts as exp(-s) L + s/2, which s minimises at exp(-s) = 1 / (2 L). Differs from
it: only auxiliary terms have an s. The flow loss keeps weight 1, so that it can't be modulated away.

With a term's weight w: w (exp(-s) L + s/2), so that w = 0 leaves s alone and a term ends near w / (2 L). A
loss of nearly 0 thus gets a large weight in time: `--loss.share-cap` limits what it does.
"""

import math
from collections.abc import Mapping

import torch
from torch import nn

from semraft.config import LossConfig
from semraft.losses.objective import Objective
from semraft.losses.reduction import mean_over_processes, refinement_sum
from semraft.losses.terms import TERMS

LogVariances = Mapping[str, nn.Parameter]
"""Term name -> s. On the CPU, where weights are."""


def initial_log_variances(config: LossConfig) -> dict[str, nn.Parameter]:
    """0 for each term that is modulated: its weight starts as the one it was given."""
    return {
        chosen.name: nn.Parameter(torch.zeros(()))
        for chosen in config.terms
        if chosen.modulation == "uncertainty"
    }


def modulated(weights: Mapping[str, float], log_variances: LogVariances) -> dict[str, float]:
    """Weights times exp(-s)."""
    return {
        name: weight * math.exp(-log_variances[name].item()) if name in log_variances else weight
        for name, weight in weights.items()
    }


def learn_log_variances(
    losses: Objective, weights: Mapping[str, float], config: LossConfig, log_variances: LogVariances
) -> None:
    """Gives each s its gradient w (1/2 - exp(-s) L), L of the whole batch whatever processes share it.

    Args:
        weights: The modulated weights of this step, w exp(-s).
    """
    for name, log_variance in log_variances.items():
        if weights[name] == 0:
            continue
        value = mean_over_processes(refinement_sum(losses.values[TERMS[name].scalar], config.gamma))
        slope = weights[name] * (math.exp(log_variance.item()) / 2 - float(value))
        log_variance.grad = torch.full_like(log_variance, slope)
