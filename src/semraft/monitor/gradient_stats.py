"""Gradient statistics of a training step, every so many steps: gradients, flow, activations, updates.

Each is a number of one batch, a line of health.jsonl: gradients are of the whole batch of all processes, all
else of the part of the process that writes. They cost a backward pass for each term (the flow loss's gradient
is the step's own minus theirs), so that the distance between two such steps grows with the number of terms:
below 3 per cent of the time in all (docs/performance.md).
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from semraft.config import LossConfig, RunConfig, TermConfig
from semraft.evaluation.evaluate import place_masks
from semraft.losses.gradient_surgery import Gradients, StepGradients
from semraft.losses.reduction import mean_over_processes
from semraft.losses.terms import TERMS, term_values
from semraft.metrics import SPEED_EDGES_PX, SPEEDS, Record, measure, metric_name, pool
from semraft.models.raft import RAFT
from semraft.ops.classes import CLASSES, CommonClass
from semraft.ops.fetch import fetched
from semraft.sample import FlowBatch, Prediction

STEPS_PER_TERM = 60
"""Steps between two with statistics, for each term: its backward pass takes 0.6 of a step."""
MODULES = {
    "feature_encoder": "encoder",
    "context_encoder": "context",
    "update_block": "update",
    "mask_head": "upsampler",
}
"""First part of a parameter's name -> its module in the statistics; heads are not shared, and left out."""
SMALLEST = 1e-20
"""The least norm that is divided by."""


def statistics_every(config: RunConfig) -> int:
    """Number of steps between two with gradient statistics."""
    return config.health_every or STEPS_PER_TERM * max(1, len(config.loss.terms))


def has_statistics(config: RunConfig, step: int) -> bool:
    """Whether a step has a line of health.jsonl: the first, and every so many."""
    return step == 1 or separates_terms(config, step)


def separates_terms(config: RunConfig, step: int) -> bool:
    """Whether the terms' gradients of a step are separated; not of the first, where they mean little."""
    return step % statistics_every(config) == 0


class ActivationRanges:
    """Largest correlation and hidden state of a model in training since they were last taken.

    A forward hook for each, attached to the model until `close`.
    """

    def __init__(self, model: RAFT) -> None:
        self.sees_hidden = False
        """Whether the hidden state, which its gates keep between -1 and 1, and the context are looked at."""
        self.spent_s = 0.0
        self._largest: dict[str, Tensor] = {}
        self._hooks = [
            model.update_block.motion_encoder.register_forward_pre_hook(
                lambda module, inputs: self._see(module, "correlation_abs_max", inputs[0])
            ),
            model.update_block.register_forward_hook(
                lambda module, inputs, outputs: (
                    self._see(module, "hidden_abs_max", outputs[0]) if self.sees_hidden else None
                )
            ),
            model.context_encoder.register_forward_hook(
                lambda module, inputs, output: (
                    self._see(
                        module, "inactive_context_pct", inactive_pct(output, model.update_block.channels)
                    )
                    if self.sees_hidden
                    else None
                )
            ),
        ]

    def take(self) -> dict[str, Tensor]:
        """The ranges so far, on their device; none from here on."""
        found, self._largest = self._largest, {}
        return found

    def close(self) -> None:
        """Removes the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _see(self, module: nn.Module, name: str, value: Tensor) -> None:
        if not module.training:  # A validation, or the backward flow.
            return
        started = time.perf_counter()
        top = value.detach().abs().amax().float()  # An order of magnitude faster than a norm.
        self._largest[name] = torch.maximum(self._largest[name], top) if name in self._largest else top
        self.spent_s += time.perf_counter() - started


@torch.no_grad()
def inactive_pct(encoded: Float[Tensor, "B D h w"], channels: tuple[int, int]) -> Float[Tensor, ""]:
    """The percentage of context channels that are 0 in every cell of a batch once ReLU has cut them.

    Args:
        encoded: Output of the context encoder: hidden state first, then context.
        channels: Numbers of channels of the two.
    """
    largest = encoded.detach()[:, channels[0] :].amax(dim=(0, 2, 3))
    return 100 * (largest <= 0).float().mean()


@torch.no_grad()
def gradient_statistics(gradients: StepGradients, names: Sequence[str]) -> dict[str, Float[Tensor, ""]]:
    """Gradient norms on shared parameters, cosines by module, and shares, of losses that were separated.

    `share_pct_TERM` is the term's part of the summed gradient norms, after gate, projection and cap. The loss
    scale is divided out.

    Args:
        gradients: Those of a step taken with `separate_terms`.
        names: Names of the trained parameters, in the order of the gradients.
    """
    assert gradients.loss_scale is not None
    modules, device = [MODULES.get(name.split(".")[0]) for name in names], gradients.norm.device

    def by_module(gradients: Gradients) -> dict[str, Gradients]:
        pairs = list(zip(modules, gradients, strict=True))
        return {module: [found for own, found in pairs if own == module] for module in MODULES.values()}

    flow = by_module(gradients.flow)
    terms = {name: by_module(found) for name, found in gradients.terms.items()}
    norms = {
        name: _norm([g for module in found.values() for g in module if g is not None], device)
        / gradients.loss_scale
        for name, found in {"flow": flow, **terms}.items()
    }
    values = {f"gradient_norm_{name}": norm for name, norm in norms.items()}
    acting = {name: norm * gradients.kept_frac.get(name, 1.0) for name, norm in norms.items()}
    total = torch.stack(list(acting.values())).sum()
    for name, found in terms.items():
        share_pct = 100 * acting[name] / total
        values[f"share_pct_{name}"] = torch.where(total > SMALLEST, share_pct, 0.0)
        for module in MODULES.values():
            both = zip(flow[module], found[module], strict=True)
            pairs = [(one, two) for one, two in both if one is not None and two is not None]
            if pairs:
                values[f"cosine_{name}_{module}"] = _cosine(pairs, device)
    return values


@torch.no_grad()
def refinement_statistics(
    prediction: Prediction, batch: FlowBatch, config: LossConfig
) -> dict[str, Float[Tensor, ""]]:
    """Length of the flow against that of the truth by speed, and error gained and undone by refinements.

    `shrinkage_SPEED` is mean |predicted| / mean |true|, NaN without such pixels. `gained_px` is the error
    after the first refinement minus that after the last, `undone_px` the mean over pixels of the last error
    minus the least of all.
    """
    trusted = batch.trusted(config.max_flow_px)
    true_px, found_px = (_length_px(flow) for flow in (batch.flow, prediction.flow))
    speed = torch.stack([true_px >= edge for edge in SPEED_EDGES_PX]).sum(dim=0)
    values = {}
    for number, name in enumerate(SPEEDS):
        among = trusted & (speed == number)
        length = _mean(true_px, among).clamp(min=SMALLEST)
        values[f"shrinkage_{name}"] = _mean(found_px, among) / length
    errors = torch.stack([_length_px(flow - batch.flow) for flow in prediction.flows])
    values["gained_px"] = _mean(errors[0] - errors[-1], trusted)
    values["undone_px"] = _mean(errors[-1] - errors.amin(dim=0), trusted)
    return values


@torch.no_grad()
def floors(
    prediction: Prediction, batch: FlowBatch, config: LossConfig, by_class: bool = False
) -> dict[str, Float[Tensor, ""]]:
    """Each flow term evaluated on the true flow: its lower bound.

    Where the truth is not known the prediction's last refinement stands in for it. `floor_TERM` stands beside
    `value_TERM`, the term on the last refinement's flow; a floor above the value pulls away from the truth.
    With `by_class`, `floor_TERM_CLASS` too, of the terms with a region option.
    """
    trusted = batch.trusted(config.max_flow_px)
    truth = torch.where(trusted[:, None], batch.flow, prediction.flow.float())
    both = replace(prediction, flows=[truth, prediction.flow])
    values: dict[str, Tensor] = {}
    present = _present(batch, trusted) if by_class and config.terms else []
    for chosen in config.terms:
        name = chosen.name
        if TERMS[chosen.name].acts_on != "flow":
            continue
        values[f"floor_{name}"], values[f"value_{name}"] = _values(chosen, both, batch, trusted)
        for entry, of_class in present:
            if "where" not in TERMS[chosen.name].options:
                values[f"floor_{name}_{entry.name}"] = _values(chosen, both, batch, trusted & of_class)[0]
            elif chosen.where in ("all", entry.name):
                narrowed = replace(chosen, where=entry.name)
                values[f"floor_{name}_{entry.name}"] = _values(narrowed, both, batch, trusted)[0]
    return values


def shared_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trained weights of MODULES."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name.split(".")[0] in MODULES
    }


@torch.no_grad()
def update_sizes(before: Mapping[str, Tensor], model: nn.Module) -> dict[str, Float[Tensor, ""]]:
    """The update of each module since its weights were `before`: |change| / |weights|."""
    now, values = dict(model.named_parameters()), {}
    for module in MODULES.values():
        names = [name for name in before if MODULES[name.split(".")[0]] == module]
        if names:
            device = before[names[0]].device
            moved = _norm([now[name] - before[name] for name in names], device)
            length = _norm([before[name] for name in names], device)
            values[f"moved_{module}"] = moved / length.clamp(min=SMALLEST)
    return values


@torch.no_grad()
def read_statistics(
    numbers: Mapping[str, Float[Tensor, ""]], prediction: Prediction, batch: FlowBatch, config: LossConfig
) -> dict[str, float]:
    """Statistics on the CPU, with one wait for the device: `numbers` that are not NaN, and EPE by stratum."""
    maps = {
        "flow": prediction.flow.float(),
        "truth": batch.flow,
        "trusted": batch.trusted(config.max_flow_px),
    }
    for name, known in (("labels", batch.labels1), ("moving", batch.moving1)):
        if known is not None:
            maps[name] = known
    stacked, *fetched_maps = fetched([torch.stack([n.float() for n in numbers.values()]), *maps.values()])
    read = zip(numbers, stacked.tolist(), strict=True)
    values = {name: value for name, value in read if not math.isnan(value)}
    pairs = zip(*(of_batch.numpy() for of_batch in fetched_maps), strict=True)
    pooled = pool([_measured(dict(zip(maps, pair, strict=True))) for pair in pairs])
    wanted = ("boundary", "interior", "static", "moving", *(entry.name for entry in CLASSES))
    named = {metric_name("epe", stratum) for stratum in wanted}
    return values | {name: value for name, value in pooled.items() if name in named}


def _present(
    batch: FlowBatch, trusted: Bool[Tensor, "B H W"]
) -> list[tuple[CommonClass, Bool[Tensor, "B H W"]]]:
    """The classes with trusted pixels in any process, and their masks: `floors` exchanges every value."""
    if batch.labels1 is None:
        return []
    places = [batch.labels1 == entry.id for entry in CLASSES]
    seen = mean_over_processes(torch.stack([(place & trusted).any() for place in places]).float())
    (seen,) = fetched([seen])
    return [(entry, place) for entry, place, some in zip(CLASSES, places, seen, strict=True) if some]


def _values(
    chosen: TermConfig, prediction: Prediction, batch: FlowBatch, trusted: Bool[Tensor, "B H W"]
) -> Float[Tensor, " T"]:
    return term_values(chosen, prediction, batch, trusted)


def _measured(maps: Mapping[str, np.ndarray]) -> Record:
    """The metrics of one pair of a batch, by class and near boundaries where it has labels."""
    labels = maps["labels"].astype(np.uint8) if "labels" in maps else None
    return measure(
        maps["flow"].transpose(1, 2, 0),
        maps["truth"].transpose(1, 2, 0),
        maps["trusted"],
        masks=place_masks(labels, maps.get("moving")),
        labels=labels,
        class_names=tuple(entry.name for entry in CLASSES),
    )


def _length_px(flow: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B H W"]:
    return torch.hypot(*flow.float().unbind(dim=1))  # A norm over two channels takes 80 times as long.


def _mean(values: Float[Tensor, "B H W"], among: Bool[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """The mean over some pixels, NaN where there are none, without a wait for their number."""
    return torch.where(among, values, 0).sum() / among.sum()


def _norm(tensors: Sequence[Tensor], device: torch.device) -> Float[Tensor, ""]:
    if not tensors:
        return torch.zeros((), device=device)
    return torch.stack([tensor.double().square().sum() for tensor in tensors]).sum().sqrt()


def _cosine(pairs: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> Float[Tensor, ""]:
    product = torch.stack([(one.double() * two.double()).sum() for one, two in pairs]).sum()
    norms = _norm([one for one, _ in pairs], device) * _norm([two for _, two in pairs], device)
    return torch.where(norms > SMALLEST, product / norms, 0.0)
