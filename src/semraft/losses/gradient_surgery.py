"""Gradient surgery: gradients of auxiliary terms, limited so that none undoes that of the flow loss.

A term acts on parameters that the flow loss reaches too (shared: encoders, update block, upsampler), and
perhaps on some that it alone reaches (its head, a decoder). Only on the shared ones can it do harm: there its
gradient is cut, by one number for all of them. Parameters that it alone reaches always learn in full. The
gradient of the flow loss never changes, and that of one term does not depend on another's.

`--loss.combine sum` without `--loss.share-cap` needs no surgery: one backward pass of the total.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semraft.config import LossConfig, TermConfig
from semraft.losses.objective import Objective
from semraft.losses.reduction import mean_over_processes, process_count, refinement_sum
from semraft.losses.term_weights import gradients_of
from semraft.losses.terms import TERMS

Gradients = Sequence[Tensor | None]
"""The gradient of a loss in each parameter, None where it does not reach."""
TINY = torch.finfo(torch.float32).tiny
"""The smallest denominator: a norm of 0 divides nothing."""
SEPARABLE = 1e-4
"""A difference of gradients is off by up to 8e-6 of the minuend's length in float32 (1.4e-2 in bfloat16)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepGradients:
    """The parts of a step's gradient; those of losses are times the loss scale."""

    flow: Gradients = ()
    """Of the flow loss, in each trained parameter; empty where losses were not separated."""
    terms: Mapping[str, Gradients] = field(default_factory=dict)
    """Term name -> its weighted gradient before surgery, of each that weighs something."""
    kept_frac: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    """Term name -> the norm left by surgery of its gradient on shared parameters, as a fraction; 0 if it is
    not finite. Empty without surgery."""
    loss_scale: Float[Tensor, ""] | None = None
    """The gradient scaler's factor; None where losses were not separated."""
    separation_s: float = 0.0
    """Seconds that separating the losses took beside the step's own backward pass."""
    norm: Float[Tensor, ""]
    """Of the whole gradient before clipping, without the loss scale."""


def gated(flow: Float[Tensor, " N"], term: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The term's gradient if its cosine with the flow loss's is not negative, else 0.

    Source: Du et al., Adapting Auxiliary Losses Using Gradient Similarity, arXiv 1812.02224, 2018, the
    unweighted version. Differs from it at a cosine of 0, where all counts instead of half.
    """
    # Multiply instead of `where`: NaN propagates, and stops the run or lowers the loss scale.
    return term * (torch.dot(flow, term) >= 0)


def projected(flow: Float[Tensor, " N"], term: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The term's gradient without what goes against the flow loss's; as it is if nothing does.

    Source: Yu et al., Gradient Surgery for Multi-Task Learning (PCGrad), NeurIPS 2020. Differs from it: only
    the auxiliary gradient is projected, and on that of the flow loss alone.
    """
    direction = flow / _norm(flow).clamp(min=TINY)
    return term - torch.dot(direction, term).clamp(max=0) * direction


def capped(flow: Float[Tensor, " N"], term: Float[Tensor, " N"], cap: float) -> Float[Tensor, " N"]:
    """The term's gradient, shortened to at most `cap` times the norm of the flow loss's.

    Where a batch has no flow truth at all, the flow loss has no gradient and the term none either.
    """
    return term * (cap * _norm(flow) / _norm(term).clamp(min=TINY)).clamp(max=1)


def constrain(
    flow: Float[Tensor, " N"], term: Float[Tensor, " N"], config: LossConfig
) -> Float[Tensor, " N"]:
    """A term's gradient on shared parameters after gate, projection and norm cap, as configured."""
    if config.combine == "gate":
        term = gated(flow, term)
    if config.combine == "project":
        term = projected(flow, term)
    return capped(flow, term, config.share_cap) if config.share_cap > 0 else term


def combine(
    flow: Gradients, terms: Mapping[str, Gradients], config: LossConfig
) -> tuple[list[Tensor | None], dict[str, Float[Tensor, ""]]]:
    """The sum of the flow loss's gradient and of each term's after surgery; and `StepGradients.kept_frac`.

    No tensor is twice in the sum, nor one of the arguments.
    """
    total = [None if gradient is None else gradient.clone() for gradient in flow]
    kept_frac = {}
    for name, term in terms.items():
        both = zip(flow, term, strict=True)
        shared = [number for number, (f, t) in enumerate(both) if f is not None and t is not None]
        counting = list(term)
        if shared:
            of_flow, of_term = _vector(flow, shared), _vector(term, shared)
            left = constrain(of_flow, of_term, config)
            kept_frac[name] = (_norm(left) / _norm(of_term).clamp(min=TINY)).nan_to_num(0)
            sizes = [_at(term, number).numel() for number in shared]
            for number, part in zip(shared, torch.split(left, sizes), strict=True):
                counting[number] = part.view_as(_at(term, number))
        for number, gradient in enumerate(counting):
            if gradient is not None:
                so_far = total[number]
                total[number] = gradient.clone() if so_far is None else so_far + gradient
    return total, kept_frac


def flow_gradient(total: Gradients, terms: Mapping[str, Gradients]) -> Gradients:
    """The gradient of the flow loss in a plain sum: the total minus the terms', copied.

    Below SEPARABLE of the total it is 0: a batch without flow truth has no flow gradient.
    """
    flow = [None if gradient is None else gradient.clone() for gradient in total]
    for term in terms.values():
        both = zip(flow, term, strict=True)
        flow = [rest if rest is None or part is None else rest - part for rest, part in both]
    if terms:
        is_rounding = _length(flow) < SEPARABLE * _length(total)  # Not read here: that waits for the device.
        flow = [None if rest is None else torch.where(is_rounding, 0, rest) for rest in flow]
    return flow


def term_gradients(
    losses: Objective,
    weights: Mapping[str, float],
    parameters: Sequence[nn.Parameter],
    config: LossConfig,
    scale: Callable[[Tensor], Tensor],
) -> dict[str, Gradients]:
    """Term name -> its weighted gradient, of each that weighs something, of the whole batch; the graph stays.

    Args:
        scale: The gradient scaler's multiplication of a loss; gradients come out multiplied likewise.
    """

    def loss(chosen: TermConfig) -> Tensor:
        values = losses.values[TERMS[chosen.name].scalar]
        return scale(weights[chosen.name] * refinement_sum(values, config.gamma))

    acting = [chosen for chosen in config.terms if weights[chosen.name] != 0]
    return {chosen.name: batch_gradients(loss(chosen), parameters) for chosen in acting}


def batch_gradients(loss: Float[Tensor, ""], parameters: Sequence[nn.Parameter]) -> Gradients:
    """`gradients_of` the whole batch: the mean over the processes, each of which has that of its part.

    All is averaged before anything is decided, so that processes decide alike, and as one would.
    """
    found = gradients_of(loss, parameters)
    if process_count() == 1:
        return found
    # A term may find nothing to act on in one process's part: all send the same, and what they reach.
    reached = torch.tensor([float(gradient is not None) for gradient in found], device=loss.device)
    sent = [
        torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()
        for parameter, gradient in zip(parameters, found, strict=True)
    ]
    mean = mean_over_processes(torch.cat([*sent, reached]))
    sizes = [*(parameter.numel() for parameter in parameters), len(parameters)]
    *parts, reached = torch.split(mean, sizes)
    return [
        part.view_as(parameter) if somewhere else None
        for part, parameter, somewhere in zip(parts, parameters, reached.tolist(), strict=True)
    ]


def _norm(vector: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    norm: Tensor = torch.linalg.vector_norm(vector)
    return norm


def _length(gradients: Gradients) -> Float[Tensor, ""]:
    found = [gradient for gradient in gradients if gradient is not None]
    return torch.nn.utils.get_total_norm(found)


def _vector(gradients: Gradients, numbers: Sequence[int]) -> Float[Tensor, " N"]:
    return torch.cat([_at(gradients, number).flatten() for number in numbers])


def _at(gradients: Gradients, number: int) -> Tensor:
    gradient = gradients[number]
    assert gradient is not None
    return gradient
