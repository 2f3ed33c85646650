"""Upsampling of cells to pixels, by 8 in each direction."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from semraft.kernels.choice import has_cpu_kernel
from semraft.kernels.cpu import upsampling_numba
from semraft.models.encoder import STRIDE


def upsample_convex(
    cells: Float[Tensor, "B C h w"], mask: Float[Tensor, "B 576 h w"]
) -> Float[Tensor, "B C 8*h 8*w"]:
    """Each pixel of the 8 times larger result is a convex combination of its cell's 3x3 neighbours.

    The mask's channels run over the neighbour (row, column), then the pixel in its cell (row, column);
    neighbours outside are zero. Values are not scaled: multiply flow by 8 before (paper, appendix B).
    """
    if has_cpu_kernel(cells):
        return upsampling_numba.upsample_convex(cells, mask)
    batch, channels, height, width = cells.shape
    weights = mask.to(cells.dtype).reshape(batch, 1, 9, STRIDE**2, height * width).softmax(dim=2)
    neighbours = F.unfold(cells, 3, padding=1).view(batch, channels, 9, 1, height * width)
    pixels = (weights * neighbours).sum(dim=2)  # B C 64 hw
    return F.pixel_shuffle(pixels.view(batch, channels * STRIDE**2, height, width), STRIDE)


def upsample_bilinear(cells: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C 8*h 8*w"]:
    """Bilinear upsampling by 8 with the corner cells on the corner pixels, as RAFT small was trained with."""
    return F.interpolate(cells, scale_factor=STRIDE, mode="bilinear", align_corners=True)
