"""Masks of the pixels that a term acts on: a region by class or truth, without occluded pixels."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from semraft.ops import occlusion
from semraft.ops.classes import THINGS, class_ids
from semraft.sample import IGNORE_LABEL, FlowBatch, Prediction


def region(
    where: str, labels1: Int64[Tensor, "B H W"] | None, trusted: Bool[Tensor, "B H W"]
) -> Bool[Tensor, "B H W"]:
    """The mask of all pixels, of those without trusted flow truth, or of some classes of frame 1.

    Raises:
        ValueError: A class that does not exist.
    """
    if where == "all":
        return torch.ones_like(trusted)
    if where == "unsupervised":
        return ~trusted
    assert labels1 is not None
    things = torch.tensor(THINGS, device=labels1.device)
    if where == "things":
        return torch.isin(labels1, things)
    if where == "static":
        return ~torch.isin(labels1, things) & (labels1 != IGNORE_LABEL)
    return torch.isin(labels1, torch.tensor(class_ids(where.split("+")), device=labels1.device))


def occluded_pixels(mask: str, prediction: Prediction, batch: FlowBatch) -> Bool[Tensor, "B H W"] | None:
    """The pixels not visible in frame 2, covered or out of frame, by a method that TermConfig.mask names."""
    if mask == "exact":
        assert batch.occluded1 is not None
        return batch.occluded1
    if mask == "forward-backward":
        assert prediction.backward_flow is not None
        forward = prediction.flow.detach().float()
        covered = occlusion.forward_backward(forward, prediction.backward_flow.float())
        return covered | occlusion.out_of_frame(forward)
    if mask == "predicted":
        assert prediction.occlusion is not None
        return occlusion.predicted(prediction.occlusion)
    if mask == "same-label":
        assert batch.labels1 is not None
        assert batch.labels2 is not None
        return occlusion.same_label(batch.labels1, batch.labels2)
    return None
