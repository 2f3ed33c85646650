"""Auxiliary forward passes that self-supervised terms need: backward flow, a still pair, a small crop."""

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.profiler import record_function

from semraft import runtime
from semraft.config import RunConfig
from semraft.losses.objective import needed_passes
from semraft.models.raft import RAFT
from semraft.models.recompute import FrozenRunningStats
from semraft.ops.crops import draw_view, view_image, view_labels
from semraft.sample import FlowBatch, Prediction, Viewed

UPDATES = 4
"""Most refinements of a pass: on a third of the sides a pass is then 8.5 % of a step of 12 refinements
(docs/experiments.md)."""
_VIEWS = 4  # Separates these random numbers from those of the loader.


def add_passes(
    prediction: Prediction, model: nn.Module, batch: FlowBatch, config: RunConfig, step: int
) -> None:
    """Gives a prediction the `backward_flow`, `still` and `viewed` that the terms of the configuration read.

    `still` and `viewed` are of one crop, drawn from (seed, step) alone: the same for every sample and in
    every process. Their gradients count; that of the backward flow is not taken. Call it with the model
    itself, not with DistributedDataParallel, which expects one forward pass a step. The running statistics of
    batch norm do not change.
    """
    needed = needed_passes(config.loss)
    if "backward_flow" in needed:
        assert isinstance(model, RAFT)
        with record_function("backward flow"):
            prediction.backward_flow = backward_flow(model, batch, prediction, config)
    if needed & {"still", "viewed"}:
        with record_function("auxiliary passes"):
            _add_crops(prediction, model, batch, config, step)


def _add_crops(
    prediction: Prediction, model: nn.Module, batch: FlowBatch, config: RunConfig, step: int
) -> None:
    """Gives a prediction `still` and `viewed`."""
    assert config.precision != "auto"
    needed = needed_passes(config.loss)
    height, width = batch.image1.shape[-2:]
    view = draw_view((height, width), np.random.default_rng([config.seed, step, 0, _VIEWS]))
    image1, image2 = view_image(batch.image1, view), view_image(batch.image2, view)
    labels1, labels2 = (
        None if labels is None else view_labels(labels, view) for labels in (batch.labels1, batch.labels2)
    )
    updates = min(config.num_updates, UPDATES)
    with FrozenRunningStats(model), runtime.autocast(batch.image1.device, config.precision):
        if "still" in needed:
            prediction.still = model(image1, image1, updates, labels1=labels1, labels2=labels1)
        if "viewed" in needed:
            seen: Prediction = model(image1, image2, updates, labels1=labels1, labels2=labels2)
            prediction.viewed = Viewed(view, seen.flows)


def backward_flow(
    model: RAFT, batch: FlowBatch, prediction: Prediction, config: RunConfig
) -> Float[Tensor, "B 2 H W"]:
    """The flow from frame 2 to frame 1 without gradient; batch norm uses its running statistics."""
    assert config.precision != "auto"
    model.eval()
    with runtime.autocast(batch.image1.device, config.precision):
        flow = model.backward_flow(
            batch.image2, prediction, config.num_updates, labels1=batch.labels1, labels2=batch.labels2
        )
    model.train()
    return flow
