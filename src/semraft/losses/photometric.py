"""Losses that compare the two pictures along the flow."""

from jaxtyping import Bool, Float
from torch import Tensor

from semraft.losses.reduction import Flows, Judged, at_least_float32, refinement_means, refinement_sum
from semraft.ops.census import census_difference, grey, whole_patches
from semraft.ops.warp import warp


def census(
    flows: Flows,
    image1: Float[Tensor, "B 3 H W"],
    image2: Float[Tensor, "B 3 H W"],
    mask: Bool[Tensor, "B H W"],
    gamma: float = 0.8,
) -> Float[Tensor, ""]:
    """Soft census difference (7 x 7) of frame 1 and frame 2 warped by the flow; 0 to 1.

    A pixel counts where `mask` holds and its whole patch lies in frame 1 and, along the flow, in frame 2.
    Images are RGB, 0..255.
    """
    return refinement_sum(census_values(flows, image1, image2, mask), gamma)


def census_values(
    flows: Flows,
    image1: Float[Tensor, "B 3 H W"],
    image2: Float[Tensor, "B 3 H W"],
    mask: Bool[Tensor, "B H W"],
) -> Float[Tensor, " T"]:
    """Census at each refinement, before the weights."""
    grey1, grey2 = (grey(at_least_float32(image)) for image in (image1, image2))

    def judge(flows: Float[Tensor, "t B 2 H W"]) -> Judged:
        warped, seen = warp(grey2[:, None], flows.to(grey2.dtype))
        return census_difference(grey1, warped.squeeze(2)), mask & whole_patches(seen)

    return refinement_means(judge, flows)
