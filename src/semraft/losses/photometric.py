"""Census: difference of the two images along the flow."""

from jaxtyping import Bool, Float
from torch import Tensor

from semraft.losses.auxiliary_term import PLACE, Term, TermInputs
from semraft.losses.reduction import (
    Flows,
    PixelLoss,
    PixelValues,
    at_least_float32,
    over_refinements,
    refinement_means,
)
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
    return over_refinements(_census_of_pixels(image1, image2, mask), flows, gamma)


def _census(inputs: TermInputs) -> Float[Tensor, " T"]:
    difference = _census_of_pixels(inputs.batch.image1, inputs.batch.image2, inputs.acting)
    return refinement_means(difference, inputs.flows)


CENSUS = Term(
    values=_census,
    scalar="census_loss",
    about="soft 7 x 7 census difference of the images along the flow, in regions chosen by labels",
    source="UnFlow, Meister et al., AAAI 2018",
    place=PLACE,
    mask="exact",
)


def _census_of_pixels(
    image1: Float[Tensor, "B 3 H W"], image2: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, "B H W"]
) -> PixelLoss:
    grey1, grey2 = (grey(at_least_float32(image)) for image in (image1, image2))

    def pixel_loss(flows: Float[Tensor, "t B 2 H W"]) -> PixelValues:
        warped, seen = warp(grey2[:, None], flows.to(grey2.dtype))
        return census_difference(grey1, warped.squeeze(2)), mask & whole_patches(seen)

    return pixel_loss
