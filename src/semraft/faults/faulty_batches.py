"""Faulty training batches, each with a bug that a loader has had."""

import dataclasses
from collections.abc import Generator, Sequence
from functools import partial

import cv2
import numpy as np
import torch

from semraft.config import DataConfig, OptimConfig
from semraft.data.augment import Resize, resize
from semraft.data.loader import CPU, TrainingBatch, training_batches
from semraft.faults.fault_config import FaultConfig
from semraft.sample import FlowBatch, FlowDataset, FlowSample

SWAPPED_ONE_IN = 100


def faulty_batches(
    fault: FaultConfig,
    datasets: Sequence[FlowDataset],
    weights: Sequence[float],
    config: DataConfig,
    seed: int,
    optim: OptimConfig,
    first_step: int = 0,
    rank: int = 0,
    processes: int = 1,
    device: torch.device = CPU,
    resized: Resize = resize,
) -> Generator[TrainingBatch, None, None]:
    """`training_batches` with a fault from step `fault.step` on; `resized` is the resize without it."""
    begins = min(max(fault.step - 1, first_step), optim.steps)
    sound = dataclasses.replace(optim, steps=max(begins, 1))
    opened = partial(training_batches, datasets, weights, config, seed)
    if first_step < begins:
        yield from opened(sound, first_step, rank, processes, device, resized)
    first_sample = rank * optim.batch // processes  # Of a step, in this process.
    faulty = opened(optim, begins, rank, processes, device, RESIZES.get(fault.kind, resized))
    for step, (batch, skipped) in enumerate(faulty, start=begins):
        number = (step - fault.step + 1) * optim.batch + first_sample
        yield TrainingBatch(_changed(batch, fault, number), skipped)


def _changed(batch: FlowBatch, fault: FaultConfig, number: int) -> FlowBatch:
    """A batch whose first sample is the one of this number since the fault began, from 0."""
    if fault.kind == "swapped-flow":
        count = len(batch.ids)
        swapped = [(number + i) % SWAPPED_ONE_IN == 0 for i in range(count)]
        places = torch.tensor(swapped, device=batch.flow.device)[:, None, None, None]
        return dataclasses.replace(batch, flow=torch.where(places, batch.flow.flip(1), batch.flow))
    if fault.kind == "invalid-zeros":
        return dataclasses.replace(batch, valid=torch.ones_like(batch.valid))
    return batch


def labels_like_images(sample: FlowSample, crop: tuple[int, int]) -> FlowSample:
    """`resize`, with labels interpolated bilinearly."""
    resized = resize(sample, crop)
    changes = {
        name: cv2.resize(before, crop[::-1], interpolation=cv2.INTER_LINEAR)
        for name in ("labels1", "labels2")
        if (before := getattr(sample, name)) is not None
    }
    return dataclasses.replace(resized, **changes)


def flow_not_scaled(sample: FlowSample, crop: tuple[int, int]) -> FlowSample:
    """`resize`, with flow left in pixels of the old size."""
    resized = resize(sample, crop)
    factor = np.array([crop[1] / sample.valid.shape[1], crop[0] / sample.valid.shape[0]], np.float32)
    return dataclasses.replace(resized, flow=resized.flow / factor)


RESIZES: dict[str, Resize] = {
    "label-resize": labels_like_images,
    "flow-scale": flow_not_scaled,
}
"""Fault -> its resizing of a sample."""
