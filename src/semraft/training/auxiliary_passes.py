"""What loss terms ask the network beside the flow of the pair: further passes, kept small."""

import numpy as np
from torch import nn

from semraft import runtime
from semraft.config import RunConfig
from semraft.losses.objective import needed_passes
from semraft.models.recompute import StatisticsAsTheyAre
from semraft.ops.crops import draw_view, view_image, view_labels
from semraft.sample import FlowBatch, Prediction, Viewed

UPDATES = 4
"""Refinements at most: on a third of the sides a pass is then 8.5 % of a step of 12 (docs/experiments.md)."""
_VIEWS = 4  # Tells these random numbers from those of the loader.


def add_passes(
    prediction: Prediction, model: nn.Module, batch: FlowBatch, config: RunConfig, step: int
) -> None:
    """Gives a prediction the `still` and `viewed` that terms read, each by a pass whose gradient counts.

    Both are of one view, drawn from (seed, step) alone: of every sample, and in every process, the same one.
    Call it with the model itself, not with what averages its gradients over processes: that awaits one
    pass a step. Batch norm goes by the batch as in training, and its running statistics learn nothing.
    """
    assert config.precision != "auto"
    needed = needed_passes(config.loss)
    if not needed & {"still", "viewed"}:
        return
    height, width = batch.image1.shape[-2:]
    view = draw_view((height, width), np.random.default_rng([config.seed, step, 0, _VIEWS]))
    image1, image2 = view_image(batch.image1, view), view_image(batch.image2, view)
    labels1, labels2 = (
        None if labels is None else view_labels(labels, view) for labels in (batch.labels1, batch.labels2)
    )
    updates = min(config.num_updates, UPDATES)
    with StatisticsAsTheyAre(model), runtime.autocast(batch.image1.device, config.precision):
        if "still" in needed:
            prediction.still = model(image1, image1, updates, labels1=labels1, labels2=labels1)
        if "viewed" in needed:
            seen: Prediction = model(image1, image2, updates, labels1=labels1, labels2=labels2)
            prediction.viewed = Viewed(view, seen.flows)
