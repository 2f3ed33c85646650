"""Conditioning of a RAFT's context on the classes of both frames.

After SemARFlow (Yuan et al., "SemARFlow: Injecting Semantics into Unsupervised Optical Flow Estimation for
Autonomous Driving", ICCV 2023). Differs from it: the classes join the context encoder's output at 1/8, not
its input, so that public weights can be conditioned later and at first give the same flow.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from semraft.config import Conditioning
from semraft.models.convolution import Convolution
from semraft.models.encoder import STRIDE
from semraft.ops.classes import CLASSES
from semraft.ops.padding import pad_to_multiple

PREFIX = "label_conditioning."
"""Start of the names of its tensors in a network."""


class LabelConditioning(nn.Module):
    """Classes of both frames to an addition to the context, zero with the first weights.

    The layer is named by the source of the classes, `truth` or `decoder`, which weights thereby record.
    """

    def __init__(self, conditioning: Conditioning, out_channels: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # A convolution draws weights, replaced below.
            layer = Convolution(2 * len(CLASSES), out_channels, 3)
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        self.conditioning = conditioning
        self.layers = nn.ModuleDict({conditioning: layer})

    def forward(
        self, classes1: Float[Tensor, "B K h w"], classes2: Float[Tensor, "B K h w"]
    ) -> Float[Tensor, "B C h w"]:
        added: Tensor = self.layers[self.conditioning](torch.cat([classes1, classes2], dim=1))
        return added


def conditioning_of(names: Iterable[str]) -> Conditioning:
    """The source of a network's classes, by the names of its tensors."""
    kinds = {name.removeprefix(f"{PREFIX}layers.").split(".")[0] for name in names if name.startswith(PREFIX)}
    if not kinds:
        return "none"
    return "truth" if "truth" in kinds else "decoder"


def classes_of_labels(labels: Int64[Tensor, "B H W"]) -> Float[Tensor, "B K h w"]:
    """The fraction of each cell's pixels in each class; ignored pixels are in none."""
    return torch.cat([_cells((labels == entry.id)[:, None].float()) for entry in CLASSES], dim=1)


def classes_of_logits(logits: Float[Tensor, "B K H W"]) -> Float[Tensor, "B K h w"]:
    """Each cell's mean probability of a class; no gradient reaches the logits."""
    return _cells(logits.detach().float().softmax(dim=1))


def _cells(pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    return F.avg_pool2d(pad_to_multiple(pixels, STRIDE), STRIDE)
