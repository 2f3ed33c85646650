"""Samples a second that the loader delivers, that steps on one batch take, and that training reaches."""

import time
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.gpu_check import steps
from benchmarks.gpu_check.setting import Row, Setting, full_float32, in_turn

from semraft.config import RunConfig
from semraft.data.loader import training_batches
from semraft.data.world.export import synthesize
from semraft.sample import FlowBatch
from semraft.training import run_data
from semraft.training.state import initial_state
from semraft.training.step import training_step

PAIRS = 2
"""1080p pairs on disk, in VIPER's layout: made in seconds, and read again and again from the disk cache."""


def measure(setting: Setting) -> Iterator[Row]:
    full_float32()
    root = setting.out / "viper"
    if not root.exists():
        size = (128, 160) if setting.small else (1080, 1920)
        synthesize(root, "viper", train=PAIRS, val=1, size=size, seed=0, progress=False)
    base = steps.configuration(setting)
    config = replace(
        base,
        data=replace(base.data, train="viper", root=str(root), workers=setting.workers),
        loss=replace(base.loss, terms=()),
    )
    loaded = samples_per_s(batches_of(config, 3 if setting.small else 150, setting), setting, config)
    yield {"what": f"loader, {config.data.workers} workers", "samples/s": loaded}
    step = steps.step_of(config, next(batches_of(config, 1, setting)), setting)
    taken = config.optim.batch / in_turn({"step": step}, setting, turns=6, at_once=2)["step"]
    yield {"what": "steps on one batch", "samples/s": taken, "loader / steps": loaded / taken}
    trained = samples_per_s(training(config, 3 if setting.small else 60, setting), setting, config)
    yield {"what": "both together", "samples/s": trained, "loader / steps": trained / taken}


def batches_of(config: RunConfig, count: int, setting: Setting) -> Iterator[FlowBatch]:
    """`count` batches on the device, and before them those that `samples_per_s` does not count."""
    datasets, weights = run_data.training_data(config.data)
    optim = replace(config.optim, steps=ahead(setting) + count)
    loader = training_batches(datasets, weights, config.data, config.seed, optim, device=setting.device)
    for batch, _ in loader:
        yield batch
    setting.wait()


def training(config: RunConfig, count: int, setting: Setting) -> Iterator[object]:
    state = initial_state(config, setting.device)
    state.model.train()
    for batch in batches_of(config, count, setting):
        yield training_step(state, batch, config)


def ahead(setting: Setting) -> int:
    """Batches that workers have ready before the first is asked for: they say nothing of the rate."""
    return max(2, 2 * setting.workers)


def samples_per_s(batches: Iterator[object], setting: Setting, config: RunConfig) -> float:
    for _ in range(ahead(setting)):
        next(batches)
    setting.wait()
    started = time.perf_counter()
    count = sum(1 for _ in batches)
    return config.optim.batch * count / (time.perf_counter() - started)
