"""Label consistency: the flow should lead a pixel to its own label in frame 2."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.losses.auxiliary_term import SEGMENTS, Term, TermInputs
from semraft.losses.reduction import Flows, PixelLoss, PixelValues, over_refinements, refinement_means
from semraft.ops.distance import distances_by_class, distances_to_others, signed_distances_by_class
from semraft.ops.labels import present
from semraft.ops.warp import warp, warp_channel
from semraft.sample import IGNORE_LABEL

RADIUS_PX = 16
"""R: truncation of distances to a class or its border."""


def label_warp(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """1 - the probability of S1(p) at p + F_t(p), in one-hot labels of frame 2 sampled bilinearly; 0 to 1.

    Labels may be classes or segment ids (`ops.labels`). A pixel counts if `mask` holds (it is visible), it is
    not ignored, and its match is in frame and touches no ignored pixel.
    """
    return over_refinements(_other_label(labels1, labels2, mask), flows, gamma)


def label_distance(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    radius_px: int = RADIUS_PX,
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """Distance of p + F_t(p) from the nearest pixel of S1(p) in frame 2, cut at R and divided by R; 0 to 1.

    `label_warp` with a slope that reaches R pixels far; the same pixels count.
    """
    return over_refinements(_distance(labels1, labels2, mask, radius_px), flows, gamma)


def signed_distance(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    radius_px: int = RADIUS_PX,
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """Change of the signed distance to the class border: |phi2_c(p + F_t(p)) - phi1_c(p)| / R, c = S1(p).

    phi_c is the signed distance to the border of class c, positive inside, cut at R; the loss is 0 to 2. It
    acts inside an object as well as at its border. The same pixels count as in `label_warp`.
    """
    return over_refinements(_signed_distance_change(labels1, labels2, mask, radius_px), flows, gamma)


def _label_warp(inputs: TermInputs) -> Float[Tensor, " T"]:
    loss = _other_label(inputs.segments1, inputs.segments2, inputs.acting)
    return refinement_means(loss, inputs.flows)


def _label_distance(inputs: TermInputs, *, radius_px: int = RADIUS_PX) -> Float[Tensor, " T"]:
    loss = _distance(inputs.segments1, inputs.segments2, inputs.acting, radius_px)
    return refinement_means(loss, inputs.flows)


def _signed_distance(inputs: TermInputs, *, radius_px: int = RADIUS_PX) -> Float[Tensor, " T"]:
    loss = _signed_distance_change(inputs.segments1, inputs.segments2, inputs.acting, radius_px)
    return refinement_means(loss, inputs.flows)


LABEL_WARP = Term(
    values=_label_warp,
    scalar="label_warp_loss",
    about="1 - probability of a pixel's own class at its match",
    source="the study's notes",
    needs=("labels1", "labels2"),
    place=SEGMENTS,
    mask="exact",
)
LABEL_DISTANCE = Term(
    values=_label_distance,
    scalar="label_distance_loss",
    about="distance of the flow's target from the nearest pixel of the own class",
    source="label-warp with a slope that reaches further",
    needs=("labels1", "labels2"),
    place=SEGMENTS,
    mask="exact",
)
SIGNED_DISTANCE = Term(
    values=_signed_distance,
    scalar="signed_distance_loss",
    about="change along the flow of a pixel's signed distance to the border of its class",
    source="label-distance that acts inside a class too",
    needs=("labels1", "labels2"),
    place=SEGMENTS,
    mask="exact",
)


def _other_label(
    labels1: Int64[Tensor, "B H W"], labels2: Int64[Tensor, "B H W"], mask: Bool[Tensor, "B H W"]
) -> PixelLoss:
    classes, own = present(labels1)
    others = (labels2[:, None] != classes[:, None, None]).float()
    return _own_class_loss(others, own, None, labels1, labels2, mask)


def _distance(
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    radius_px: int,
) -> PixelLoss:
    classes, own = present(labels1)
    distances = distances_by_class(labels2, classes, radius_px) / radius_px
    return _own_class_loss(distances, own, None, labels1, labels2, mask)


def _signed_distance_change(
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    radius_px: int,
) -> PixelLoss:
    classes, own = present(labels1)
    # A pixel lies inside its own class: the distance to other classes is all that is read in frame 1.
    depth1 = distances_to_others(labels1, classes, radius_px) / radius_px
    depth2 = signed_distances_by_class(labels2, classes, radius_px) / radius_px
    if len(classes):
        depth1 = depth1.gather(1, own[:, None])
    return _own_class_loss(depth2, own, depth1.sum(dim=1), labels1, labels2, mask)


def _own_class_loss(
    maps2: Float[Tensor, "B K H W"],
    own: Int64[Tensor, "B H W"],
    wanted: Float[Tensor, "B H W"] | None,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
) -> PixelLoss:
    """|map of a pixel's own class at its match - the wanted value|; without one, the map itself."""
    if not maps2.shape[1]:  # Every pixel is ignored: nothing counts, and the gradient is zero.
        maps2 = maps2.new_zeros(len(maps2), 1, *maps2.shape[2:])
    counted = mask & (labels1 != IGNORE_LABEL)
    ignored2 = (labels2 == IGNORE_LABEL)[:, None]

    def pixel_loss(flows: Float[Tensor, "t B 2 H W"]) -> PixelValues:
        found, seen = warp_channel(maps2.to(flows.dtype), own, flows)
        with torch.no_grad():
            touches_ignored = warp(ignored2.to(flows.dtype), flows)[0].squeeze(2) > 0
        distance = found if wanted is None else (found - wanted).abs()
        return distance, counted & seen & ~touches_ignored

    return pixel_loss
