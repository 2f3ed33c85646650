"""Profile of a training step by part: `semraft train RECIPE --profile`. It writes no run.

The step names its parts by `record_function` ranges; torch's profiler measures a few steps. The backward pass
of an operation counts for the range that recorded it, which both events' sequence numbers tell.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, record_function

from semraft import runtime
from semraft.config import RunConfig
from semraft.data.loader import training_batches
from semraft.models.raft import RAFT
from semraft.training import run_data
from semraft.training.state import initial_state, resolve_config
from semraft.training.step import training_step

WARM_UP_STEPS = 2
"""Steps before those that count: kernels are compiled and memory is reserved in them."""
STEPS = 5

BASE = ("network forward", "flow loss", "network backward", "optimiser")
"""The parts of a step without terms, and without what they read."""
READ = ("backward flow", "auxiliary passes", "heads")
"""Other passes of the network, and heads, that terms read; forward and backward."""
APART = "terms apart"
"""The backward passes that give each term's own gradient (`--loss.combine`, `--loss.share-cap`)."""
BACKWARD_OP = "autograd::engine::evaluate_function"

Seconds = dict[str, float]
"""Part of a step, or name of a loss term -> its time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Medians over the counted steps."""

    clock: str
    """The kind of time: wall time of the CPU, or time of the device's kernels."""
    parts: Seconds

    @property
    def step_s(self) -> float:
        """Seconds of a whole step without loading, validation or records."""
        return sum(self.parts.values())

    @property
    def base_s(self) -> float:
        """Seconds of the parts that a run without terms and heads has too."""
        return sum(self.parts[part] for part in BASE)

    @property
    def terms_s(self) -> float:
        """Seconds of the terms alone, without the passes and heads that they read."""
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
        """A line for each part, then the cost of the terms beside the base step."""
        width = max(map(len, self.parts))
        rows = [
            f"{part:{width}}  {1000 * seconds:10.1f} ms  {100 * seconds / self.step_s:5.1f} %"
            for part, seconds in (*self.parts.items(), ("step", self.step_s))
        ]
        values = self.to_json()
        head = f"{self.clock} of a step, medians of {STEPS} after {WARM_UP_STEPS} to warm up"
        base = (
            f"base step ({', '.join(BASE)}): {1000 * self.base_s:.1f} ms; terms add "
            f"{values['terms_of_base_pct']:.1f} % to it, with passes and heads "
            f"{values['added_of_base_pct']:.1f} %"
        )
        return "\n".join([head, *rows, base])


def profile(config: RunConfig) -> Profile:
    """The profile of STEPS steps of a run, after WARM_UP_STEPS.

    Raises:
        ValueError: The configuration and data do not fit together.
        DamagedFile: A training pair is damaged and `data.damaged` is "refuse".
    """
    device = runtime.choose_device(config.device)
    runtime.keep_freed_memory()
    config = replace(resolve_config(config, device), optim=replace(config.optim, steps=WARM_UP_STEPS + STEPS))
    training, weights = run_data.checked_training_data(config)
    state = initial_state(config, device)
    state.model.train()
    on_cpu = device.type == "cpu"
    activities = [ProfilerActivity.CPU] if on_cpu else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    data = replace(config.data, workers=runtime.loader_workers(config.data.workers, device))
    steps: list[Seconds] = []
    with heads_named(state.model):
        for batch, _ in training_batches(training, weights, data, config.seed, config.optim, device=device):
            with torch.profiler.profile(activities=activities) as profiler:
                training_step(state, batch, config)
                runtime.synchronize(device)
            names = {*BASE, *READ, APART, *(chosen.name for chosen in config.loss.terms)}
            steps.append(parts_of(profiler.events(), names, on_cpu))
    counted = steps[WARM_UP_STEPS:]
    return Profile(
        clock="wall time on the CPU" if on_cpu else f"time on {device}",
        parts={part: median(seconds[part] for seconds in counted) for part in counted[0]},
    )


def parts_of(events: list[FunctionEvent], names: set[str], on_cpu: bool = True) -> Seconds:
    """The time of each range of these names, without ranges inside it, and of the backward of its operations.

    The backward of the network's own operations, and whatever belongs to no range, is "network backward".
    """
    ranges: dict[int, str] = {}
    for event in events:
        if event.sequence_nr >= 0 and not event.name.startswith(BACKWARD_OP):
            ranges.setdefault(event.sequence_nr, _range(event, names))
    seconds = dict.fromkeys((name for name in (*BASE, *sorted(names - {*BASE})) if name), 0.0)
    for event in events:
        inside, own_s = _range(event.cpu_parent, names), _seconds(event, on_cpu)
        if event.name in names:
            seconds[event.name] += own_s
            if inside:
                seconds[inside] -= own_s
        elif event.name.startswith(BACKWARD_OP) and inside == "network backward":
            part = ranges.get(event.sequence_nr, "")
            if part not in ("", "network forward", inside):
                seconds[part] += own_s
                seconds[inside] -= own_s
    return {name: value for name, value in seconds.items() if value or name in BASE}


def _range(event: FunctionEvent | None, names: set[str]) -> str:
    """The name of the innermost range that an event is in, or is; empty outside of all."""
    while event is not None and event.name not in names:
        event = event.cpu_parent
    return "" if event is None else event.name


def _seconds(event: FunctionEvent, on_cpu: bool) -> float:
    return float(event.cpu_time_total if on_cpu else event.device_time_total) / 1e6


@contextmanager
def heads_named(model: RAFT) -> Iterator[None]:
    """Inside, the forward pass of each head is a range."""
    entered: dict[nn.Module, ExitStack] = {}

    def enter(module: nn.Module, inputs: Any) -> None:
        entered[module] = ExitStack()
        entered[module].enter_context(record_function("heads"))

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        entered.pop(module).close()

    heads = [head for head in (model.occlusion_head, model.decoder) if head is not None]
    hooks = [head.register_forward_pre_hook(enter) for head in heads]
    hooks += [head.register_forward_hook(leave) for head in heads]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
