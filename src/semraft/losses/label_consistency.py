"""Losses that ask the flow to lead a pixel to where frame 2 has its label."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.losses.reduction import Flows, Judged, refinement_means, refinement_sum
from semraft.ops.distance import distances_by_class, distances_to_others, signed_distances_by_class
from semraft.ops.labels import present
from semraft.ops.warp import warp, warp_channel
from semraft.sample import IGNORE_LABEL

RADIUS_PX = 16
"""Where distances to a class or its border are cut."""


def label_warp(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """1 - the probability of S1(p) at p + F_t(p), in one-hot labels of frame 2 sampled bilinearly; 0 to 1.

    Labels may be classes or segment ids (`ops.labels`). A pixel counts where `mask` holds - where it is
    visible -, where it is not ignored, and where its target is in frame and touches no ignored pixel.
    """
    return refinement_sum(label_warp_values(flows, labels1, labels2, mask), gamma)


def label_warp_values(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
) -> Float[Tensor, " T"]:
    """Label warp at each refinement, before the weights."""
    classes, own = present(labels1)
    elsewhere = (labels2[:, None] != classes[:, None, None]).float()
    return _own_class_values(flows, elsewhere, own, None, labels1, labels2, mask)


def label_distance(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    radius_px: int = RADIUS_PX,
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """How far p + F_t(p) is from the nearest pixel of S1(p) in frame 2, cut at R and divided by it; 0 to 1.

    `label_warp` with a slope that reaches R pixels far; what counts is the same.
    """
    return refinement_sum(label_distance_values(flows, labels1, labels2, mask, radius_px), gamma)


def label_distance_values(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    radius_px: int = RADIUS_PX,
) -> Float[Tensor, " T"]:
    """Label distance at each refinement, before the weights."""
    classes, own = present(labels1)
    distances = distances_by_class(labels2, classes, radius_px) / radius_px
    return _own_class_values(flows, distances, own, None, labels1, labels2, mask)


def signed_distance(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    radius_px: int = RADIUS_PX,
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """Whether p lies as deep in its class as its target: |phi2_c(p + F_t(p)) - phi1_c(p)| / R, c = S1(p).

    phi_c is the signed distance to the border of class c, positive inside, cut at R; 0 to 2. It uses the
    inside of an object as well as its border. What counts is as in `label_warp`.
    """
    return refinement_sum(signed_distance_values(flows, labels1, labels2, mask, radius_px), gamma)


def signed_distance_values(
    flows: Flows,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    radius_px: int = RADIUS_PX,
) -> Float[Tensor, " T"]:
    """Signed distance at each refinement, before the weights."""
    classes, own = present(labels1)
    depth1 = (
        distances_to_others(labels1, classes, radius_px) / radius_px
    )  # Inside, which is all that is read.
    depth2 = signed_distances_by_class(labels2, classes, radius_px) / radius_px
    if len(classes):
        depth1 = depth1.gather(1, own[:, None])
    return _own_class_values(flows, depth2, own, depth1.sum(dim=1), labels1, labels2, mask)


def _own_class_values(
    flows: Flows,
    maps2: Float[Tensor, "B K H W"],
    own: Int64[Tensor, "B H W"],
    wanted: Float[Tensor, "B H W"] | None,
    labels1: Int64[Tensor, "B H W"],
    labels2: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
) -> Float[Tensor, " T"]:
    """|map of a pixel's own class at its target - what is wanted there| (0 without), at each refinement."""
    if not maps2.shape[1]:  # Everything is ignored: nothing counts, and the gradient is zero.
        maps2 = maps2.new_zeros(len(maps2), 1, *maps2.shape[2:])
    counted = mask & (labels1 != IGNORE_LABEL)
    ignored2 = (labels2 == IGNORE_LABEL)[:, None]

    def judge(flows: Float[Tensor, "t B 2 H W"]) -> Judged:
        found, seen = warp_channel(maps2.to(flows.dtype), own, flows)
        with torch.no_grad():
            touches_ignored = warp(ignored2.to(flows.dtype), flows)[0].squeeze(2) > 0
        distance = found if wanted is None else (found - wanted).abs()
        return distance, counted & seen & ~touches_ignored

    return refinement_means(judge, flows)
