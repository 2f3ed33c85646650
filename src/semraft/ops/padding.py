"""Making images a multiple of the network's stride. Undoing it is a slice: the padding is right and below."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(images: Float[Tensor, "B C H W"], multiple: int) -> Float[Tensor, "B C P Q"]:
    """Repeats the last row and column until height and width are multiples of `multiple`.

    Only right and below, so that pixel (y, x) stays pixel (y, x), cell (i, j) of the stride-8 features covers
    pixels 8i..8i+7 and 8j..8j+7, and `padded[..., :H, :W]` is the input again. Differs from RAFT's own
    padder, which splits the padding between the two sides and so moves the cells: its flow is another one, by
    whole pixels in places. Whoever wants published figures pads in its way (`inference.estimate`).
    """
    height, width = images.shape[-2:]
    below, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images
