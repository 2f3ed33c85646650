"""Optional heads of a RAFT: occlusion of frame 1, and segmentation of both frames.

Their losses are in `losses.occlusion_head` and `losses.segmentation`, their scores in `metrics`.
"""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from semraft.config import HEADS, Head
from semraft.models import conditioning
from semraft.models.convolution import Convolution
from semraft.models.encoder import STRIDE, ResidualBlock
from semraft.ops.classes import CLASSES

MAX_WIDTH = 128
"""Most channels of a head; fewer if its input has fewer."""
FURTHER_STAGES = 2
"""Stages of `decoder-down` below 1/8."""


class OcclusionHead(nn.Module):
    """The hidden state to one logit a cell, positive where frame 1 can't be seen in frame 2."""

    def __init__(self, hidden_channels: int) -> None:
        super().__init__()
        width = min(hidden_channels, MAX_WIDTH)
        self.layers = nn.Sequential(
            Convolution(hidden_channels, width, 3), nn.ReLU(inplace=True), Convolution(width, 1, 3)
        )

    def forward(self, hidden: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 1 h w"]:
        logits: Tensor = self.layers(hidden)
        return logits


class SegmentationDecoder(nn.Module):
    """Features of a frame at 1/8 to class logits of its pixels.

    With `further_stages` a U-Net: so many stages down by 2 and up again, with skip connections. No norm: a
    frame's classes depend on no other frame of its batch.
    """

    def __init__(self, feature_channels: int, further_stages: int = 0) -> None:
        super().__init__()
        width = min(feature_channels, MAX_WIDTH)
        self.enter = nn.Sequential(
            Convolution(feature_channels, width, 3),
            nn.ReLU(inplace=True),
            ResidualBlock(width, width, 1, "none"),
        )
        self.down = nn.ModuleList(ResidualBlock(width, width, 2, "none") for _ in range(further_stages))
        self.up = nn.ModuleList(ResidualBlock(width, width, 1, "none") for _ in range(further_stages))
        self.classify = Convolution(width, len(CLASSES), 1)

    def forward(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K 8*h 8*w"]:
        levels = [self.enter(features)]
        for halve in self.down:
            levels.append(halve(levels[-1]))
        x = levels.pop()
        for merge in self.up:
            finer = levels.pop()
            x = merge(finer + F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=False))
        # A cell lies over the same pixels everywhere: aligned corners would stretch the frame by a cell.
        return F.interpolate(self.classify(x), scale_factor=STRIDE, mode="bilinear", align_corners=False)


def make_head(head: Head, hidden_channels: int, feature_channels: int, seed: int) -> nn.Module:
    """A head with weights that its name and `seed` determine, whatever else is made with that seed."""
    own = np.random.SeedSequence((seed, HEADS.index(head))).generate_state(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(own[0]))
        if head == "occlusion":
            return OcclusionHead(hidden_channels)
        return SegmentationDecoder(feature_channels, FURTHER_STAGES if head == "decoder-down" else 0)


def is_of_head(name: str) -> bool:
    """Whether a tensor of a network, by its name, belongs to a head or to the conditioning on classes."""
    return name.startswith(("occlusion_head.", "decoder.", conditioning.PREFIX))


def given_by(heads: Iterable[Head]) -> frozenset[str]:
    """The optional fields of a prediction that heads fill."""
    segmentation = {"segmentation1", "segmentation2"}
    fields = {"occlusion": {"occlusion"}, "decoder": segmentation, "decoder-down": segmentation}
    return frozenset(field for head in heads for field in fields[head])
