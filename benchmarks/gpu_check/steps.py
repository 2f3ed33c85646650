"""Whole training steps: without and with each loss term, and torchvision's; operations and waits of each."""

import importlib.util
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_check.setting import (
    Row,
    Setting,
    Work,
    full_float32,
    guarded,
    in_turn,
    peak_mb,
    precisions,
)
from torch.utils._python_dispatch import TorchDispatchMode

from semraft import runtime
from semraft.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    WorldConfig,
    parse_term,
)
from semraft.data.loader import training_batches
from semraft.losses import sequence_loss
from semraft.sample import FlowBatch
from semraft.training import run_data
from semraft.training.state import initial_state, resolve_config
from semraft.training.step import training_step

TERMS = (
    *("motion-model:0.1", "census:0.1", "signed-distance:0.1", "label-warp:0.1", "gradient-matching:0.1"),
    *("boundary-weight:0.1", "semantic-v1:0.5", "smoothness:0.1", "label-distance:0.1", "matching:0.5"),
    *("segmentation:1", "temporal-consistency:0.1", "occlusion:1", "zero-forcing:0.2"),
    "transform-consistency:0.2",
)
HEADS = {"segmentation": ("decoder",), "temporal-consistency": ("decoder",), "occlusion": ("occlusion",)}
"""Term -> the heads that it needs."""


def measure(setting: Setting) -> Iterator[Row]:
    full_float32()
    base = configuration(setting)
    batch = one_batch(base, setting)
    for precision in precisions(setting):
        config = replace(base, precision=precision)
        yield from guarded(
            {"step": precision}, lambda config=config: rows(networks(config, batch, setting), setting)
        )
    plain = step_of(base, batch, setting)
    for text in TERMS[:2] if setting.small else TERMS:
        if setting.seconds_left < 5:
            yield {"step": f"+ {text}", "skipped": "time is up"}
            continue
        yield from guarded(
            {"step": f"+ {text}"}, lambda text=text: with_term(text, base, batch, plain, setting)
        )


def configuration(setting: Setting) -> RunConfig:
    """The study's: large, 6 x 288x960, 12 refinements; on the procedural world, which has every label."""
    size, batch = ((64, 64), 1) if setting.small else ((288, 960), 6)
    return resolve_config(
        RunConfig(
            data=DataConfig(
                train="world", crop=size, workers=setting.workers, world=WorldConfig(size=size, scenes=32)
            ),
            model=ModelConfig(arch="tiny" if setting.small else "large"),
            loss=LossConfig(gamma=0.85),
            optim=OptimConfig(steps=1000, batch=batch),
            num_updates=1 if setting.small else 12,
            health_every=1000,  # Steps that are watched are not these.
            precision=precisions(setting)[0],
            device=str(setting.device),
        ),
        setting.device,
    )


def one_batch(config: RunConfig, setting: Setting) -> FlowBatch:
    datasets, weights = run_data.training_data(config.data)
    optim = replace(config.optim, steps=1)  # No worker makes a batch that nobody reads.
    loader = training_batches(datasets, weights, config.data, config.seed, optim, device=setting.device)
    return next(loader).batch


def step_of(config: RunConfig, batch: FlowBatch, setting: Setting) -> Work:
    """One step of the configuration, as often as it is called: the schedule is longer than any part lasts."""
    state = initial_state(config, setting.device)
    state.model.train()

    def step() -> None:
        training_step(state, batch, config)

    return step


def with_term(text: str, base: RunConfig, batch: FlowBatch, plain: Work, setting: Setting) -> Iterator[Row]:
    heads = HEADS.get(text.split(":")[0], ())
    loss = replace(base.loss, terms=(parse_term(text),))
    config = replace(base, loss=loss, model=replace(base.model, heads=heads))
    works = {"base": plain, f"+ {text}": step_of(config, batch, setting)}
    seconds = in_turn(works, setting, turns=3)
    yield line(f"+ {text}", works[f"+ {text}"], seconds[f"+ {text}"], setting) | {
        "of the base step": seconds[f"+ {text}"] / seconds["base"]
    }


def networks(config: RunConfig, batch: FlowBatch, setting: Setting) -> dict[str, Work]:
    """semraft's step, and one with torchvision's network, AdamW and clipping as public code has them."""
    works = {f"semraft, {config.precision}": step_of(config, batch, setting)}
    if importlib.util.find_spec("torchvision") is None or config.model.arch == "tiny":
        return works
    from benchmarks.torchvision_here import torchvision

    network = getattr(torchvision.models.optical_flow, f"raft_{config.model.arch}")(weights=None)
    network = network.to(batch.flow.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, weight_decay=1e-5)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with runtime.autocast(batch.flow.device, config.precision):
            frames = batch.image1 / 127.5 - 1, batch.image2 / 127.5 - 1
            flows = network(*frames, num_flow_updates=config.num_updates)
        sequence_loss(flows, batch.flow, batch.valid, config.loss.gamma).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip_norm)
        optimizer.step()

    return works | {f"torchvision, {config.precision}": step}


def rows(works: dict[str, Work], setting: Setting) -> Iterator[Row]:
    seconds = in_turn(works, setting, turns=6, at_once=2)
    for name, work in works.items():
        yield line(name, work, seconds[name], setting)


def line(name: str, work: Work, seconds: float, setting: Setting) -> Row:
    waits, kernels, busy_s = waits_of(work, setting), None, None
    if setting.is_cuda:
        kernels, busy_s = kernels_of(work, setting)
    return {
        "step": name,
        "ms": 1e3 * seconds,
        "peak MB": peak_mb(work, setting),
        "operations": operations_of(work),
        "kernels": kernels,
        "device busy, ms": busy_s and 1e3 * busy_s,
        "waits": waits if waits is None else sum(waits.values()),
        "where it waits": waits and ", ".join(f"{place} ({count})" for place, count in waits.items()),
    }


class Operations(TorchDispatchMode):
    """Counts operations that compute or copy; views and allocations are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        is_view = any(
            found.alias_info is not None and not found.alias_info.is_write
            for found in operation._schema.returns
        )
        self.count += not (is_view or name.startswith(("empty", "new_empty", "detach")))
        return operation(*args, **(kwargs or {}))


def operations_of(work: Work) -> int:
    with Operations() as counted:
        work()
    return counted.count


def kernels_of(work: Work, setting: Setting) -> tuple[int, float]:
    """Kernels, copies and fills that the device ran, and the seconds that they took together."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiled:
        work()
        setting.wait()
    on_device = [
        event
        for event in profiled.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    return len(on_device), sum(event.time_range.elapsed_us() for event in on_device) / 1e6


def waits_of(work: Work, setting: Setting) -> Counter[str] | None:
    """File and line -> how often the work waited there for the device; None where torch can't tell."""
    if not setting.is_cuda:
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{Path(warning.filename).name}:{warning.lineno}"
        for warning in caught
        if "synchroniz" in str(warning.message)
    )
