"""Training samples with a planted fault, each a bug that a loader has had."""

import dataclasses

import cv2
import numpy as np

from semraft.config import AugmentConfig
from semraft.data.augment import Resize, resize
from semraft.faults.fault_config import FaultConfig
from semraft.sample import FlowSample

SWAPPED_ONE_IN = 100


def spoiled_resize(fault: FaultConfig, step: int) -> Resize:
    """The resizing of an augmentation at a step."""
    if fault.acts_at(step, "label-resize"):
        return _labels_like_pictures
    return _flow_as_it_was if fault.acts_at(step, "flow-scale") else resize


def spoiled(sample: FlowSample, fault: FaultConfig, step: int, number: int, batch: int) -> FlowSample:
    """Sample `number` of a run, of a step of `batch` samples."""
    if fault.acts_at(step, "swapped-flow") and (number - (fault.step - 1) * batch) % SWAPPED_ONE_IN == 0:
        return dataclasses.replace(sample, flow=np.ascontiguousarray(sample.flow[..., ::-1]))
    if fault.acts_at(step, "invalid-zeros"):
        return dataclasses.replace(sample, valid=np.ones_like(sample.valid))
    return sample


def _labels_like_pictures(sample: FlowSample, crop: tuple[int, int], config: AugmentConfig) -> FlowSample:
    resized = resize(sample, crop, config)
    changes = {
        name: cv2.resize(before, crop[::-1], interpolation=cv2.INTER_LINEAR)
        for name in ("labels1", "labels2")
        if (before := getattr(sample, name)) is not None
    }
    return dataclasses.replace(resized, **changes)


def _flow_as_it_was(sample: FlowSample, crop: tuple[int, int], config: AugmentConfig) -> FlowSample:
    resized = resize(sample, crop, config)
    factor = np.array([crop[1] / sample.valid.shape[1], crop[0] / sample.valid.shape[0]], np.float32)
    return dataclasses.replace(resized, flow=resized.flow / factor)
