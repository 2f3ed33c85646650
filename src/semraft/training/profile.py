"""What a step of training costs and where: `semraft train RECIPE --profile`. Nothing of it is kept.

A few steps are taken in pieces. Every loss is timed alone, forward and backward, down to copies of what the
network said; the sum of what they learnt goes on into the network in one backward pass, as in a real step.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from semraft import runtime
from semraft.config import RunConfig
from semraft.data.loader import training_batches
from semraft.losses.gradient_surgery import is_plain_sum
from semraft.losses.objective import needed_passes, taught_pixels
from semraft.losses.reduction import refinement_sum
from semraft.losses.sequence import sequence_values, trusted_pixels
from semraft.losses.term_weights import gradients_of
from semraft.losses.terms import term_values
from semraft.models.raft import RAFT
from semraft.sample import FlowBatch, Prediction
from semraft.training import run_data
from semraft.training.auxiliary_passes import add_passes
from semraft.training.optim import learning_rate, set_learning_rate
from semraft.training.state import TrainingState, initial_state, settled_config
from semraft.training.step import backward_flow, clip, forward

WARM_UP_STEPS = 2
"""Steps that are not counted: kernels are compiled and memory is asked for in them."""
STEPS = 5

BASE = ("network forward", "flow loss", "network backward", "optimiser")
"""The parts of a step without terms, and without what they read."""
READ = ("backward flow", "further passes", "heads")
"""What terms read: other passes of the network, and heads, forward and backward."""

Seconds = dict[str, float]
"""Part of a step, or name of a loss term -> how long it takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Medians over the counted steps."""

    clock: str
    """What was measured: the CPU time of all threads, or time on a device that was waited for."""
    parts: Seconds

    @property
    def step_s(self) -> float:
        """A whole step without loading, validation or records."""
        return sum(self.parts.values())

    @property
    def base_s(self) -> float:
        """The part of it that a run without terms and heads has too."""
        return sum(self.parts[part] for part in BASE)

    @property
    def terms_s(self) -> float:
        """All terms alone, without what they read."""
        return sum(seconds for part, seconds in self.parts.items() if part not in (*BASE, *READ))

    def to_json(self) -> dict[str, Any]:
        """As values that `json` can write."""
        return {
            "clock": self.clock,
            "steps": STEPS,
            "step_s": self.step_s,
            "base_s": self.base_s,
            "terms_of_base_pct": 100 * self.terms_s / self.base_s,
            "added_of_base_pct": 100 * (self.step_s / self.base_s - 1),
            "parts": {
                part: {"seconds": seconds, "share_pct": 100 * seconds / self.step_s}
                for part, seconds in self.parts.items()
            },
        }

    def table(self) -> str:
        """A line each part, then what terms and what they read add to the base step."""
        width = max(map(len, self.parts))
        rows = [
            f"{part:{width}}  {1000 * seconds:10.1f} ms  {100 * seconds / self.step_s:5.1f} %"
            for part, seconds in (*self.parts.items(), ("step", self.step_s))
        ]
        values = self.to_json()
        head = f"{self.clock} of a step, medians of {STEPS} after {WARM_UP_STEPS} to warm up"
        base = (
            f"base step ({', '.join(BASE)}): {1000 * self.base_s:.1f} ms; terms add "
            f"{values['terms_of_base_pct']:.1f} % to it, with what they read "
            f"{values['added_of_base_pct']:.1f} %"
        )
        return "\n".join([head, *rows, base])


class Stopwatch:
    """Adds up the seconds that the parts of one step take."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds: Seconds = {}

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Adds what is inside to a part."""
        started = self.clock()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + self.clock() - started


def profile(config: RunConfig) -> Profile:
    """Takes WARM_UP_STEPS + STEPS steps of a run and says what they cost; writes nothing.

    Raises:
        ValueError: The configuration and data do not fit together.
        DamagedFile: A training pair is damaged and `data.damaged` is "refuse".
    """
    device = runtime.choose_device(config.device)
    runtime.keep_freed_memory()
    config = replace(settled_config(config, device), optim=replace(config.optim, steps=WARM_UP_STEPS + STEPS))
    training, weights = run_data.checked_training_data(config)
    state = initial_state(config, device)
    state.model.train()
    taken = []
    data = replace(config.data, workers=runtime.loader_workers(config.data.workers, device))
    for batch, _ in training_batches(training, weights, data, config.seed, config.optim, device=device):
        watch = Stopwatch(_clock(device))
        take_apart(state, batch, config, watch)
        taken.append(watch.seconds)
    counted = taken[WARM_UP_STEPS:]
    return Profile(
        clock="CPU time" if device.type == "cpu" else f"time on {device}",
        parts={part: median(seconds[part] for seconds in counted) for part in counted[0]},
    )


def take_apart(state: TrainingState, batch: FlowBatch, config: RunConfig, watch: Stopwatch) -> None:
    """The step that `take_step` takes, in pieces. Terms have their full weight; a share counts as 1."""
    step = state.step + 1
    set_learning_rate(state.optimizer, learning_rate(step - 1, config.optim))
    needed = needed_passes(config.loss)
    with _reading(state.model) as read, watch.timing("network forward"):
        prediction = forward(state.network, batch, config)
    if "backward_flow" in needed:
        with watch.timing("backward flow"):
            prediction.backward_flow = backward_flow(state.model, batch, prediction, config)
    if needed & {"still", "viewed"}:
        with watch.timing("further passes"):
            add_passes(prediction, state.model, batch, config, step)
    of_network: list[tuple[Tensor, Tensor]] = []
    of_passes: list[tuple[Tensor, Tensor]] = []
    copies = _copies(replace(prediction, still=None, viewed=None), of_network)
    copies.still, copies.viewed = (_copies(made, of_passes) for made in (prediction.still, prediction.viewed))
    time_losses(state, copies, batch, config, watch)
    if not is_plain_sum(config.loss):
        time_apart(state, prediction, batch, config, watch)
    state.optimizer.zero_grad(set_to_none=True)
    if of_passes:
        with watch.timing("further passes"):
            _hand_on(of_passes)
    with watch.timing("network backward"):
        _hand_on(of_network)
    time_heads(read, config, watch)
    with watch.timing("optimiser"):
        state.scaler.unscale_(state.optimizer)
        clip(state.model, config.optim.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.move_average(step, config.optim)
    state.step = step


def time_losses(
    state: TrainingState, copies: Prediction, batch: FlowBatch, config: RunConfig, watch: Stopwatch
) -> None:
    """Each loss forward and backward; the copies get the gradients."""
    loss = config.loss
    with watch.timing("flow loss"):
        taught = taught_pixels(batch, loss)
        values = sequence_values(copies.flows, batch.flow, taught, loss.normalize, loss.max_flow_px)
        torch.autograd.backward(state.scaler.scale(refinement_sum(values, loss.gamma)))
    for chosen in loss.terms:
        with watch.timing(chosen.name):
            trusted = trusted_pixels(batch.flow, batch.valid, loss.max_flow_px)
            values = term_values(chosen, copies, batch, trusted)
            total = chosen.weight * refinement_sum(values, loss.gamma)
            if total.requires_grad:
                torch.autograd.backward(state.scaler.scale(total))


def time_apart(
    state: TrainingState, prediction: Prediction, batch: FlowBatch, config: RunConfig, watch: Stopwatch
) -> None:
    """What it costs to know each term's gradient: a backward pass of its own, through the network.

    The sum is learnt from all the same; what is decided by the gradients costs next to nothing.
    """
    trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    trusted = trusted_pixels(batch.flow, batch.valid, config.loss.max_flow_px)
    for chosen in config.loss.terms:
        values = term_values(chosen, prediction, batch, trusted)
        loss = state.scaler.scale(refinement_sum(values, config.loss.gamma))
        with watch.timing("terms apart"):
            gradients_of(loss, trained)


def time_heads(read: Mapping[nn.Module, Tensor], config: RunConfig, watch: Stopwatch) -> None:
    """Heads once more, alone, on what they read; their time is taken from that of the network."""
    for head, source in read.items():
        assert config.precision != "auto"
        parts = {"network forward": 0.0, "network backward": 0.0}
        source = source.detach().requires_grad_()
        started = watch.clock()
        with runtime.autocast(source.device, config.precision):
            logits = head(source)
        parts["network forward"] = watch.clock() - started
        learning = [parameter for parameter in head.parameters() if parameter.requires_grad]
        if learning:
            started = watch.clock()
            torch.autograd.grad(logits, [source, *learning], torch.ones_like(logits))
            parts["network backward"] = watch.clock() - started
        for part, seconds in parts.items():
            watch.seconds[part] -= seconds
        watch.seconds["heads"] = watch.seconds.get("heads", 0.0) + sum(parts.values())


@contextmanager
def _reading(model: RAFT) -> Iterator[dict[nn.Module, Tensor]]:
    """Inside, what each head reads is kept."""
    read: dict[nn.Module, Tensor] = {}
    heads = [head for head in (model.occlusion_head, model.decoder) if head is not None]
    hooks = [
        head.register_forward_pre_hook(lambda module, inputs: read.update({module: inputs[0]}))
        for head in heads
    ]
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()


def _copies(made: Any, pairs: list[tuple[Tensor, Tensor]]) -> Any:
    """The same with a copy of every tensor that has a gradient, cut off; `pairs` gets tensor and copy."""
    if isinstance(made, Tensor):
        if not made.requires_grad:
            return made
        pairs.append((made, made.detach().requires_grad_()))
        return pairs[-1][1]
    if isinstance(made, Prediction):
        return Prediction(**{field.name: _copies(getattr(made, field.name), pairs) for field in fields(made)})
    if isinstance(made, list):
        return [_copies(part, pairs) for part in made]
    if isinstance(made, tuple):
        return type(made)(*(_copies(part, pairs) for part in made))
    return made


def _hand_on(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """The backward pass from the tensors, with what their copies have learnt."""
    learnt = [(made, copy.grad) for made, copy in pairs if copy.grad is not None]
    torch.autograd.backward([made for made, _ in learnt], [gradient for _, gradient in learnt])


def _clock(device: torch.device) -> Callable[[], float]:
    """CPU seconds of this process; of a GPU the time at which it is done with all it was given."""
    if device.type == "cpu":
        return time.process_time

    def after_all() -> float:
        runtime.synchronize(device)
        return time.perf_counter()

    return after_all
