"""Samples a second that the loader delivers, that steps on one batch take, and that training reaches."""

import time
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.gpu_check import steps
from benchmarks.gpu_check.setting import Row, Setting, full_float32, in_turn

from semraft.config import RunConfig
from semraft.data.loader import training_batches
from semraft.data.synthesize import synthesize
from semraft.training import sources
from semraft.training.state import initial_state
from semraft.training.step import take_step

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
    count = 3 if setting.small else 40
    loaded = samples_per_s(batches_of(config, count), config.optim.batch)
    yield {"what": f"loader, {config.data.workers} workers", "samples/s": loaded}
    batch = sources.to_device(next(batches_of(config, 1)), setting.device)
    step = steps.step_of(config, batch, setting)
    taken = config.optim.batch / in_turn({"step": step}, setting, turns=6, at_once=2)["step"]
    yield {"what": "steps on one batch", "samples/s": taken, "loader / steps": loaded / taken}
    trained = samples_per_s(training(config, count, setting), config.optim.batch)
    yield {"what": "both together", "samples/s": trained, "loader / steps": trained / taken}


def batches_of(config: RunConfig, count: int) -> Iterator[object]:
    datasets, weights = sources.training_data(config.data)
    optim = replace(config.optim, steps=count + config.data.workers)
    for batch, _ in training_batches(datasets, weights, config.data, config.seed, optim):
        yield batch


def training(config: RunConfig, count: int, setting: Setting) -> Iterator[object]:
    state = initial_state(config, setting.device)
    state.model.train()
    for batch in batches_of(config, count):
        yield take_step(state, sources.to_device(batch, setting.device), config)
        state.pulses.clear()
    setting.wait()


def samples_per_s(batches: Iterator[object], batch: int) -> float:
    """Without the first batch of each worker, or step, which waits for processes and kernels to be there."""
    for _ in range(2):
        next(batches)
    started = time.perf_counter()
    count = sum(1 for _ in batches)
    return batch * count / (time.perf_counter() - started)
