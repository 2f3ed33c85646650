"""Hidden flow truth: a data set as if it had none in places, for studies of learning from labels alone."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from semraft.data.loader import validation_draw
from semraft.sample import Choose, FlowDataset, FlowSample, Pair

BACKWARD = ("backward_flow", "backward_valid")


def hide_truth(
    dataset: FlowDataset, truth: Literal["all", "static"], truth_frac: float, draw_seed: int
) -> FlowDataset:
    """The data set without the flow truth of moving objects (`static`), and of all but a part of its pairs.

    Pictures, labels and occlusion stay as they are. No data set marks what moves in
    frame 2: where anything is hidden, backward flow is left out.

    Raises:
        ValueError: `static`, and the data set does not mark moving objects.
    """
    if truth == "all" and truth_frac == 1:
        return dataset
    if truth == "static" and "moving1" not in dataset.provides:
        raise ValueError(
            f"--data.truth static: data set {dataset.name!r} does not mark moving objects: train on world or "
            f"virtual-kitti, which do"
        )
    pairs = round(truth_frac * len(dataset))
    drawn = validation_draw(dataset, pairs, draw_seed) if pairs else ()
    with_truth = {dataset.pairs[index].id for index in drawn}

    hidden = partial(_hidden, with_truth, truth)
    return dataclasses.replace(
        dataset,
        read=partial(_read, dataset, hidden),
        read_window=partial(_read_window, dataset, hidden),
        provides=dataset.provides - set(BACKWARD),
    )


Hidden = Callable[[FlowSample], FlowSample]


# Functions of the module, not closures: a loader process that is spawned gets them pickled.
def _read(dataset: FlowDataset, hidden: Hidden, pair: Pair) -> FlowSample:
    return hidden(dataset.read(pair))


def _read_window(
    dataset: FlowDataset, hidden: Hidden, pair: Pair, choose: Choose
) -> tuple[FlowSample, tuple[int, int]]:
    sample, frame = dataset.read_part(pair, choose)
    return hidden(sample), frame


def _hidden(with_truth: set[str], truth: Literal["all", "static"], sample: FlowSample) -> FlowSample:
    """The sample with the flow truth that it may keep: none, all, or that of what stands."""
    if sample.id not in with_truth:
        return _only_where(sample, np.zeros_like(sample.valid))
    if truth == "all":
        return _only_where(sample, np.ones_like(sample.valid))
    assert sample.moving1 is not None
    return _only_where(sample, ~sample.moving1)


def _only_where(sample: FlowSample, known: np.ndarray) -> FlowSample:
    """The sample with its flow truth where `known` holds, and no backward flow."""
    valid = sample.valid & known
    return dataclasses.replace(
        sample,
        flow=np.where(valid[..., None], sample.flow, np.float32(0)),
        valid=valid,
        valid_noc=None if sample.valid_noc is None else sample.valid_noc & known,
        backward_flow=None,
        backward_valid=None,
    )
