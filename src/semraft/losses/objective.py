"""The training objective: the sequence loss and a named, weighted sum of auxiliary terms."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from semraft.config import LossConfig
from semraft.losses.matching import matching
from semraft.losses.reduction import refinement_sum
from semraft.losses.semantic import semantic_smoothness_v1_values
from semraft.losses.sequence import sequence_values, trusted_pixels
from semraft.sample import FlowBatch, Prediction


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """An auxiliary term: its values from a prediction, a batch and the trusted pixels V.

    `values` gives one value per refinement, or a single one for a term that acts once.
    """

    values: Callable[[Prediction, FlowBatch, Bool[Tensor, "B H W"]], Float[Tensor, " T"]]
    needs: tuple[str, ...]
    scalar: str
    about: str


def _semantic_v1(prediction: Prediction, batch: FlowBatch, trusted: Bool[Tensor, "B H W"]) -> Tensor:
    assert batch.labels1 is not None
    assert batch.labels2 is not None
    return semantic_smoothness_v1_values(prediction.flows, batch.labels1, batch.labels2, trusted)


def _matching(prediction: Prediction, batch: FlowBatch, trusted: Bool[Tensor, "B H W"]) -> Tensor:
    visible = trusted if batch.occluded1 is None else trusted & ~batch.occluded1
    return matching(prediction.features1, prediction.features2, batch.flow, visible)[None]


TERMS = {
    "semantic-v1": Term(
        values=_semantic_v1,
        needs=("labels1", "labels2"),
        scalar="semantic_loss",
        about="within-class first-order smoothness of the flow, the study's loss (weight 0.5 there)",
    ),
    "matching": Term(
        values=_matching,
        needs=(),
        scalar="matching_loss",
        about="cross-entropy of the correlation against the true target cell: features learn sooner",
    ),
}
"""Every auxiliary term by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """The total to minimise, and each loss with its value per refinement, before weights."""

    total: Float[Tensor, ""]
    values: dict[str, Float[Tensor, " T"]]
    """Scalar name (`flow_loss`, `semantic_loss`, ...) -> values; one value for a term that acts once."""


def objective(prediction: Prediction, batch: FlowBatch, config: LossConfig) -> Objective:
    """L_flow + sum of weight x term, each summed over refinements with the gamma weights.

    A term of weight 0 is computed and reported, and changes nothing.
    """
    trusted = trusted_pixels(batch.flow, batch.valid, config.max_flow_px)
    flow_values = sequence_values(
        prediction.flows, batch.flow, batch.valid, config.normalize, config.max_flow_px
    )
    total = refinement_sum(flow_values, config.gamma)
    values = {"flow_loss": flow_values}
    for chosen in config.terms:
        term = TERMS[chosen.name]
        with torch.set_grad_enabled(torch.is_grad_enabled() and chosen.weight != 0):
            values[term.scalar] = term.values(prediction, batch, trusted)
        if chosen.weight != 0:
            total = total + chosen.weight * refinement_sum(values[term.scalar], config.gamma)
    return Objective(total=total, values=values)


def check_terms(config: LossConfig, provides: dict[str, frozenset[str]]) -> None:
    """Refuses, before the first step, terms that are unknown, doubled, or need what a data set lacks.

    Args:
        config: The losses asked for.
        provides: Data set name -> the optional fields its samples have.

    Raises:
        ValueError: One line: which term, what it needs, which data set does not have it.
    """
    names = [term.name for term in config.terms]
    for name in names:
        if name not in TERMS:
            raise ValueError(f"no loss term is called {name!r}: choose from {', '.join(TERMS)}")
        if names.count(name) > 1:
            raise ValueError(f"loss term {name!r} is given twice")
        for dataset, fields in provides.items():
            missing = [need for need in TERMS[name].needs if need not in fields]
            if missing:
                raise ValueError(
                    f"loss term {name!r} needs {' and '.join(missing)}, which data set {dataset!r} does not "
                    f"have: take the term out or train on other data"
                )
