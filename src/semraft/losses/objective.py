"""The training objective: the sequence loss and a named, weighted sum of auxiliary terms."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.profiler import record_function

from semraft.config import LossConfig
from semraft.losses.auxiliary_term import PASSES, check_options
from semraft.losses.reduction import quickest, refinement_sum
from semraft.losses.sequence import sequence_values
from semraft.losses.terms import TERMS, needed_fields, needed_heads, term_values
from semraft.sample import FlowBatch, Prediction


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """The total to minimise, and each loss with its value per refinement, before weights."""

    total: Float[Tensor, ""]
    values: dict[str, Float[Tensor, " T"]]
    """Scalar name (`flow_loss`, `semantic_loss`, ...) -> values; one value for a term that acts once."""

    def detached(self) -> "Objective":
        """The same numbers without the graph behind them."""
        values = {name: value.detach() for name, value in self.values.items()}
        return Objective(total=self.total.detach(), values=values)


def supervised_pixels(batch: FlowBatch, config: LossConfig) -> Bool[Tensor, "B H W"]:
    """The trusted pixels that the flow loss reads: all, or those visible in frame 2 (`occluded`)."""
    trusted = batch.trusted(config.max_flow_px)
    if config.occluded == "keep":
        return trusted
    assert batch.occluded1 is not None  # `check_terms` refuses other data before the first step.
    return trusted & ~batch.occluded1


def objective(
    prediction: Prediction,
    batch: FlowBatch,
    config: LossConfig,
    weights: Mapping[str, float] | None = None,
) -> Objective:
    """L_flow + sum of weight x term, each summed over refinements with the gamma weights.

    A term of weight 0 is computed and reported, and changes nothing.

    Args:
        weights: Term name -> its weight at this step (`TermWeights.at`); without, that of the configuration.
    """
    trusted = batch.trusted(config.max_flow_px)
    flows = quickest(prediction.flows)
    with record_function("flow loss"):
        supervised = supervised_pixels(batch, config)
        flow_values = sequence_values(flows, batch.flow, supervised, config.normalize)
        total = refinement_sum(flow_values, config.gamma)
    values = {"flow_loss": flow_values}
    for chosen in config.terms:
        term = TERMS[chosen.name]
        weight = chosen.weight if weights is None else weights[chosen.name]
        # A share is measured by the term's gradient, which it must have before it has a weight.
        has_gradient = torch.is_grad_enabled() and (weight != 0 or chosen.share is not None)
        with record_function(chosen.name), torch.set_grad_enabled(has_gradient):
            values[term.scalar] = term_values(chosen, prediction, batch, trusted, flows)
            if weight != 0:
                total = total + weight * refinement_sum(values[term.scalar], config.gamma)
    return Objective(total=total, values=values)


def needed_passes(config: LossConfig) -> frozenset[str]:
    """The fields of a prediction that terms read and a further pass of the network must give."""
    return PASSES.intersection(field for chosen in config.terms for field in needed_heads(chosen))


def check_terms(
    config: LossConfig, provides: dict[str, frozenset[str]], heads: frozenset[str] = frozenset()
) -> None:
    """Refuses, before the first step, losses that are unknown, doubled, or need what is not there.

    Args:
        config: The losses asked for.
        provides: Data set name -> the optional fields its samples have.
        heads: The optional fields of a prediction that the network gives.

    Raises:
        ValueError: One line: which term, what it needs, what does not have it.
    """
    for dataset, given in provides.items():
        if config.occluded == "leave-out" and "occluded1" not in given:
            raise ValueError(
                f"--loss.occluded leave-out needs occluded1, which data set {dataset!r} does not have: take "
                f"--loss.occluded keep, or train on other data"
            )
    names = [chosen.name for chosen in config.terms]
    for chosen in config.terms:
        if chosen.name not in TERMS:
            raise ValueError(f"no loss term is called {chosen.name!r}: choose from {', '.join(TERMS)}")
        if names.count(chosen.name) > 1:
            raise ValueError(f"loss term {chosen.name!r} is given twice")
        check_options(TERMS[chosen.name], chosen)
        for dataset, given in provides.items():
            missing = [need for need in needed_fields(chosen) if need not in given]
            if missing:
                way_out = "choose mask=forward-backward, " if "occluded1" in missing else ""
                raise ValueError(
                    f"loss term {chosen.name!r} needs {' and '.join(missing)}, which data set {dataset!r} "
                    f"does not have: take the term out, {way_out}or train on other data"
                )
        lacking = [need for need in needed_heads(chosen) if need not in heads | PASSES]
        if lacking:
            raise ValueError(
                f"loss term {chosen.name!r} needs {' and '.join(lacking)}, which the network does not give: "
                f"take the term out, or choose a network with that head"
            )
