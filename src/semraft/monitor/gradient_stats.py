"""What a training watches of itself, every so many steps: gradients, flow, activations, moves; health.jsonl.

Every number is a fact of one batch: of gradients of the whole one whatever processes share it, of all else
the part of the process that writes. What to conclude is not said here. A watched step costs a backward pass
for each term (the flow loss's gradient is what they leave of the step's own), so that the distance between
two of them grows with the number of terms: below 3 per cent of the time in all (docs/performance.md).
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from semraft import runtime
from semraft.config import LossConfig, RunConfig, TermConfig
from semraft.evaluation.evaluate import place_masks
from semraft.losses.gradient_surgery import Combined, Gradients
from semraft.losses.reduction import mean_over_processes
from semraft.losses.sequence import trusted_pixels
from semraft.losses.terms import TERMS, term_values
from semraft.metrics import SPEED_EDGES_PX, SPEEDS, Record, measure, metric_name, pool
from semraft.models.raft import RAFT
from semraft.ops.classes import CLASSES, CommonClass
from semraft.ops.fetch import fetched
from semraft.sample import FlowBatch, Prediction

STEPS_PER_TERM = 60
"""Steps between two watched ones, for each term whose gradient is taken: a backward pass is 0.6 of a step."""
MODULES = {
    "feature_encoder": "encoder",
    "context_encoder": "context",
    "update_block": "update",
    "mask_head": "upsampler",
}
"""First part of a parameter's name -> the module it is reported under; heads are not shared, and left out."""
SMALLEST = 1e-20
"""Below this a norm is none: a quotient by it would say nothing."""


@dataclass(kw_only=True, slots=True)
class Watch:
    """What is seen of one step while it is taken; `values`, once it is read, is a line of health.jsonl."""

    device: torch.device
    values: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, Tensor] = field(default_factory=dict)
    """Values that are still on the device; NaN where there is nothing to tell."""
    maps: dict[str, Tensor] = field(default_factory=dict)
    """What metrics are made of, on the CPU: flow, its truth and V, labels and what moves where known."""
    before: dict[str, Tensor] = field(default_factory=dict)
    """The weights before the step moves them."""
    spent_s: float = 0.0
    """Seconds that watching took."""


def watched_every(config: RunConfig) -> int:
    """Steps between two watched ones."""
    return config.health_every or STEPS_PER_TERM * max(1, len(config.loss.terms))


def is_watched(config: RunConfig, step: int) -> bool:
    """Whether a step is watched: the first, and every so many."""
    return step == 1 or sees_gradients(config, step)


def sees_gradients(config: RunConfig, step: int) -> bool:
    """Whether a watched step tells of its gradients too: the first, of which they say little, does not."""
    return step % watched_every(config) == 0


@dataclass(kw_only=True, slots=True)
class Ranges:
    """The largest hidden state and correlation of all refinements, on their device."""

    largest: dict[str, Tensor] = field(default_factory=dict)
    spent_s: float = 0.0
    """Seconds that looking took."""

    def see(self, name: str, value: Tensor) -> None:
        """Looks at one refinement."""
        started = time.perf_counter()
        top = value.detach().abs().amax().float()  # An order of magnitude faster than a norm.
        self.largest[name] = torch.maximum(self.largest[name], top) if name in self.largest else top
        self.spent_s += time.perf_counter() - started


@contextmanager
def ranges_of(model: RAFT, hidden: bool) -> Iterator[Ranges]:
    """Inside, ranges are seen; with `hidden` that of the state too, which its gates keep between -1 and 1."""
    ranges = Ranges()
    motion_encoder = model.update_block.motion_encoder
    hooks = [
        motion_encoder.register_forward_pre_hook(
            lambda module, inputs: ranges.see("correlation_abs_max", inputs[0])
        )
    ]
    if hidden:
        hooks.append(
            model.update_block.register_forward_hook(
                lambda module, inputs, outputs: ranges.see("hidden_abs_max", outputs[0])
            )
        )
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def counted(watch: Watch) -> Iterator[None]:
    """Inside, time is spent on watching."""
    started = _now(watch.device)
    yield
    watch.spent_s += _now(watch.device) - started


@torch.no_grad()
def watch_gradients(
    watch: Watch, combined: Combined, names: Sequence[str], loss_scale: Float[Tensor, ""]
) -> None:
    """Gradient norm of the flow loss and of each weighted term on the shared parameters, how they agree by
    module (cosine), and the part of all norms that is a term's, as far as it is let act (share_pct).

    Args:
        names: Of the parameters that the gradients are of.
        loss_scale: The number that a gradient scaler multiplied losses with; it cancels out.
    """
    modules = [MODULES.get(name.split(".")[0]) for name in names]

    def by_module(gradients: Gradients) -> dict[str, Gradients]:
        pairs = list(zip(modules, gradients, strict=True))
        return {module: [found for own, found in pairs if own == module] for module in MODULES.values()}

    flow = by_module(combined.flow)
    terms = {name: by_module(found) for name, found in combined.terms.items()}
    norms = {
        name: _norm([g for module in found.values() for g in module if g is not None], watch.device)
        / loss_scale
        for name, found in {"flow": flow, **terms}.items()
    }
    watch.numbers |= {f"gradient_norm_{name}": norm for name, norm in norms.items()}
    acting = {name: norm * combined.kept.get(name, 1.0) for name, norm in norms.items()}
    total = torch.stack(list(acting.values())).sum()
    for name, found in terms.items():
        share_pct = 100 * acting[name] / total
        watch.numbers[f"share_pct_{name}"] = torch.where(total > SMALLEST, share_pct, 0.0)
        for module in MODULES.values():
            both = zip(flow[module], found[module], strict=True)
            pairs = [(one, two) for one, two in both if one is not None and two is not None]
            if pairs:
                watch.numbers[f"cosine_{name}_{module}"] = _cosine(pairs, watch.device)


@torch.no_grad()
def watch_flow(
    watch: Watch, prediction: Prediction, batch: FlowBatch, config: LossConfig, by_class: bool
) -> None:
    """How long the flow is against the truth, where it errs, what refinements make of each other; `floors`.

    `shrinkage_SPEED` is mean |predicted| / mean |true|. `gained_px` is the error after the first refinement
    minus that after the last, `undone_px` the mean over pixels of the last error minus the best of all.
    """
    trusted = trusted_pixels(batch.flow, batch.valid, config.max_flow_px)
    true_px, found_px = (_length_px(flow) for flow in (batch.flow, prediction.flow))
    speed = torch.stack([true_px >= edge for edge in SPEED_EDGES_PX]).sum(dim=0)
    for number, name in enumerate(SPEEDS):
        among = trusted & (speed == number)
        length = _mean(true_px, among).clamp(min=SMALLEST)
        watch.numbers[f"shrinkage_{name}"] = _mean(found_px, among) / length
    errors = torch.stack([_length_px(flow - batch.flow) for flow in prediction.flows])
    watch.numbers["gained_px"] = _mean(errors[0] - errors[-1], trusted)
    watch.numbers["undone_px"] = _mean(errors[-1] - errors.amin(dim=0), trusted)
    watch.maps = {"flow": prediction.flow.float(), "truth": batch.flow, "trusted": trusted}
    for name, known in (("labels", batch.labels1), ("moving", batch.moving1)):
        if known is not None:
            watch.maps[name] = known
    watch.numbers |= floors(prediction, batch, config, by_class)


@torch.no_grad()
def floors(
    prediction: Prediction, batch: FlowBatch, config: LossConfig, by_class: bool = False
) -> dict[str, Float[Tensor, ""]]:
    """The value of every term that judges the flow on the true one: what is left with nothing to learn.

    Where the truth is not known the prediction's last refinement stands in for it. `floor_TERM` stands beside
    `value_TERM`, the term on the last refinement's flow; a floor above the value pulls away from the truth.
    With `by_class`, `floor_TERM_CLASS` too, of the terms that can tell.
    """
    trusted = trusted_pixels(batch.flow, batch.valid, config.max_flow_px)
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


def watch_weights(watch: Watch, model: nn.Module) -> None:
    """Keeps a copy of what the step is about to move."""
    watch.before = {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name.split(".")[0] in MODULES
    }


@torch.no_grad()
def watch_move(watch: Watch, model: nn.Module) -> None:
    """How far the step moved each module: |change| / |weights|."""
    now = dict(model.named_parameters())
    for module in MODULES.values():
        names = [name for name in watch.before if MODULES[name.split(".")[0]] == module]
        if names:
            moved = _norm([now[name] - watch.before[name] for name in names], watch.device)
            length = _norm([watch.before[name] for name in names], watch.device)
            watch.numbers[f"moved_{module}"] = moved / length.clamp(min=SMALLEST)
    watch.before.clear()


def _present(
    batch: FlowBatch, trusted: Bool[Tensor, "B H W"]
) -> list[tuple[CommonClass, Bool[Tensor, "B H W"]]]:
    """The classes that any process has trusted pixels of, and where: each asks the others for every value."""
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


@torch.no_grad()
def read_watch(watch: Watch) -> None:
    """Brings what was seen to the CPU, with one wait for the device, and makes `values` of it."""
    numbers, *maps = fetched(
        [torch.stack([number.float() for number in watch.numbers.values()]), *watch.maps.values()]
    )
    found = zip(watch.numbers, numbers.tolist(), strict=True)
    watch.values |= {name: value for name, value in found if not math.isnan(value)}
    if not maps:
        return
    pairs = zip(*(of_batch.numpy() for of_batch in maps), strict=True)
    pooled = pool([_measured(dict(zip(watch.maps, pair, strict=True))) for pair in pairs])
    wanted = ("boundary", "interior", "static", "moving", *(entry.name for entry in CLASSES))
    named = {metric_name("epe", stratum) for stratum in wanted}
    watch.values |= {name: value for name, value in pooled.items() if name in named}


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
    """The mean over some pixels, NaN where there are none. The number of them need not be known here."""
    return torch.where(among, values, 0).sum() / among.sum()


def _norm(tensors: Sequence[Tensor], device: torch.device) -> Float[Tensor, ""]:
    if not tensors:
        return torch.zeros((), device=device)
    return torch.stack([tensor.double().square().sum() for tensor in tensors]).sum().sqrt()


def _cosine(pairs: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> Float[Tensor, ""]:
    product = torch.stack([(one.double() * two.double()).sum() for one, two in pairs]).sum()
    norms = _norm([one for one, _ in pairs], device) * _norm([two for _, two in pairs], device)
    return torch.where(norms > SMALLEST, product / norms, 0.0)


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was told."""
    runtime.synchronize(device)
    return time.perf_counter()
