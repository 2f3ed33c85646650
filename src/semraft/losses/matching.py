"""Matching: cross-entropy of the correlation against the true match of each 1/8 cell."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from semraft.losses.auxiliary_term import Term, TermInputs
from semraft.losses.reduction import at_least_float32, masked_mean
from semraft.ops.warp import in_frame, target


def matching(
    features1: Float[Tensor, "B C h w"],
    features2: Float[Tensor, "B C h w"],
    flow_gt: Float[Tensor, "B 2 H W"],
    mask: Bool[Tensor, "B H W"],
) -> Float[Tensor, ""]:
    """Cross-entropy of the softmax over a cell's row of the all-pairs correlation against its true target.

    The correlation is the network's own, f1 . f2 / sqrt(C). A cell's truth is the flow at its centre pixel,
    its target the bilinear weights of the four cells around the match. `mask` selects valid and visible
    pixels; cells with a match outside the grid do not count. Once, not per refinement.

    Raises:
        ValueError: H W are not eight times h w (training crops are multiples of 8, so nothing is padded).
    """
    batch, channels, rows, columns = features1.shape
    if flow_gt.shape[-2:] != (8 * rows, 8 * columns):
        raise ValueError(
            f"matching needs images of 8 x the features' size {rows} x {columns}, got "
            f"{tuple(flow_gt.shape[-2:])}: choose a crop that is a multiple of 8"
        )
    mask = mask[:, 4::8, 4::8]
    flow = at_least_float32(torch.where(mask[:, None], flow_gt[:, :, 4::8, 4::8], 0)) / 8
    x, y = target(flow)
    mask = mask & in_frame(x, y)

    with torch.autocast(features1.device.type, enabled=False):
        rows1 = (at_least_float32(features1) / channels**0.5).flatten(2).transpose(1, 2)
        columns2 = at_least_float32(features2).flatten(2)
        log_probability = torch.log_softmax(rows1 @ columns2, dim=-1)  # B hw hw

    left, top = x.clamp(0, columns - 1).floor(), y.clamp(0, rows - 1).floor()
    right, bottom = (left + 1).clamp(max=columns - 1), (top + 1).clamp(max=rows - 1)
    weight_right, weight_bottom = x - left, y - top
    entropy = torch.zeros_like(x)
    for row, row_weight in ((top, 1 - weight_bottom), (bottom, weight_bottom)):
        for column, column_weight in ((left, 1 - weight_right), (right, weight_right)):
            cell = (row * columns + column).long().flatten(1)[..., None]
            found = log_probability.gather(2, cell)[..., 0].view(batch, rows, columns)
            entropy = entropy - row_weight * column_weight * found
    return masked_mean(entropy, mask)


def _matching(inputs: TermInputs) -> Float[Tensor, " 1"]:
    prediction, batch = inputs.prediction, inputs.batch
    visible = inputs.trusted if batch.occluded1 is None else inputs.trusted & ~batch.occluded1
    return matching(prediction.features1, prediction.features2, batch.flow, visible)[None]


MATCHING = Term(
    values=_matching,
    scalar="matching_loss",
    about="cross-entropy of the correlation against the true target cell: features learn sooner",
    source="GMFlow, Xu et al., CVPR 2022, as an auxiliary loss",
    acts_on="features",
)
