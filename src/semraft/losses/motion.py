"""Each segment moves as a plane or a rigid thing would: a fitted motion model, and what it leaves over."""

from typing import Literal

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.losses.reduction import (
    Flows,
    Judged,
    at_least_float32,
    masked_mean,
    mean_over_processes,
    refinement_means,
    refinement_sum,
)
from semraft.ops.classes import PLANAR, RIGID
from semraft.ops.motion_models import RIDGE, PlaneModel, model_residuals, model_segments

MIN_PIXELS = 64
"""Smaller segments get no model: 128 equations for the eight parameters of a homography."""
MAX_SEGMENTS = 32
"""Segments with a model in one image, the largest first."""

FitGradient = Literal["through", "stopped"]


def motion_model(
    flows: Flows,
    segments1: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    plane_model: PlaneModel = "homography",
    gradient: FitGradient = "through",
    min_pixels: int = MIN_PIXELS,
    max_segments: int = MAX_SEGMENTS,
    ridge: float = RIDGE,
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """L1 norm of what the best motion of its segment leaves of a pixel's flow, in pixels.

    Planes (road, sidewalk, terrain, building, barrier) get `plane_model`, things and street objects affine
    motion, vegetation and sky none. Fitted by least squares to the prediction over the whole segment - it is
    known everywhere -, judged where `mask` holds. What the residual of a homography is: `ops.motion_models`.

    Args:
        segments1: Ids of `ops.labels.segment_ids`; only what is connected is one segment.
        gradient: Through the fit, or with the fitted motion held fixed ("stopped").
    """
    values = motion_model_values(
        flows, segments1, mask, plane_model, gradient, min_pixels, max_segments, ridge
    )
    return refinement_sum(values, gamma)


def motion_model_values(
    flows: Flows,
    segments1: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    plane_model: PlaneModel = "homography",
    gradient: FitGradient = "through",
    min_pixels: int = MIN_PIXELS,
    max_segments: int = MAX_SEGMENTS,
    ridge: float = RIDGE,
) -> Float[Tensor, " T"]:
    """The motion-model residual at each refinement, before the weights."""
    pixels = model_segments(segments1, min_pixels, max_segments)
    counted = mask.flatten()[pixels.pixel] & pixels.counts

    def judge(flows: Float[Tensor, "t B 2 H W"]) -> Judged:
        left = model_residuals(flows, pixels, plane_model, ridge, gradient == "stopped")
        return left.abs().sum(dim=2), counted

    return refinement_means(judge, flows)


def motion_model_by_class(
    flow: Float[Tensor, "B 2 H W"],
    segments1: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    plane_model: PlaneModel = "homography",
) -> dict[int, float]:
    """The mean residual of one flow in each class that has a segment with a model, in pixels.

    Over all processes, each of which must ask.
    """
    pixels = model_segments(segments1, MIN_PIXELS, MAX_SEGMENTS)
    left = model_residuals(at_least_float32(flow)[None], pixels, plane_model)[0].abs().sum(dim=1)
    label = pixels.label[pixels.segment, None]
    counted = mask.flatten()[pixels.pixel] & pixels.counts
    means = {}
    for label_id in (*PLANAR, *RIGID):
        of_class = counted & (label == label_id)
        if mean_over_processes(of_class.sum().float()) > 0:
            means[label_id] = float(mean_over_processes(masked_mean(left, of_class)))
    return means
