"""Motion model: the residual of a parametric motion fitted to each segment, a plane or a rigid thing."""

from typing import Literal

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from semraft.losses.auxiliary_term import SEGMENTS, Term, TermInputs
from semraft.losses.reduction import (
    Flows,
    PixelLoss,
    PixelValues,
    at_least_float32,
    masked_mean,
    mean_over_processes,
    over_refinements,
    refinement_means,
)
from semraft.ops.classes import PLANAR, RIGID
from semraft.ops.motion_models import RIDGE, PlaneModel, model_residuals, model_segments

MIN_PIXELS = 64
"""Pixels of the smallest segment with a model: 128 equations for the eight parameters of a homography."""
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
    """L1 norm of a pixel's flow minus the best motion of its segment, in pixels.

    Planes (road, sidewalk, terrain, building, barrier) get `plane_model`, things and street objects affine
    motion, vegetation and sky none. Fitted by least squares to the prediction over the whole segment, which
    is known everywhere; a pixel counts where `mask` holds. Residual of a homography: `ops.motion_models`.

    Args:
        segments1: Ids of `ops.labels.segment_ids`; pixels of one id are one segment only if connected.
        gradient: Through the fit, or with the fitted motion held fixed ("stopped").
    """
    residual = _residual(segments1, mask, plane_model, gradient, min_pixels, max_segments, ridge)
    return over_refinements(residual, flows, gamma)


def _motion_model(
    inputs: TermInputs, *, plane_model: PlaneModel = "homography", fit_gradient: FitGradient = "through"
) -> Float[Tensor, " T"]:
    residual = _residual(inputs.segments1, inputs.acting, plane_model, fit_gradient)
    return refinement_means(residual, inputs.flows)


MOTION_MODEL = Term(
    values=_motion_model,
    scalar="motion_model_loss",
    about="residual of a motion model fitted to each segment: homographies for planes, affine for things",
    source="Sevilla-Lara et al., CVPR 2016; Longuet-Higgins and Prazdny, 1980",
    needs=("labels1",),
    place=SEGMENTS,
)


def _residual(
    segments1: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    plane_model: PlaneModel,
    gradient: FitGradient,
    min_pixels: int = MIN_PIXELS,
    max_segments: int = MAX_SEGMENTS,
    ridge: float = RIDGE,
) -> PixelLoss:
    pixels = model_segments(segments1, min_pixels, max_segments)
    counted = mask.flatten()[pixels.pixel] & pixels.counts

    def pixel_loss(flows: Float[Tensor, "t B 2 H W"]) -> PixelValues:
        left = model_residuals(flows, pixels, plane_model, ridge, gradient == "stopped")
        return left.abs().sum(dim=2), counted

    return pixel_loss


def motion_model_by_class(
    flow: Float[Tensor, "B 2 H W"],
    segments1: Int64[Tensor, "B H W"],
    mask: Bool[Tensor, "B H W"],
    plane_model: PlaneModel = "homography",
) -> dict[int, float]:
    """The mean residual of one flow in each class that has a segment with a model, in pixels.

    Over all processes, each of which must call this function.
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
