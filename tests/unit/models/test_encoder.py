"""The encoders: sizes, initial weights, independence of the batch."""

import pytest
import torch
from torch import nn

from semraft.models.encoder import BottleneckBlock, Encoder, Norm, ResidualBlock


@pytest.mark.parametrize("block", [ResidualBlock, BottleneckBlock])
@pytest.mark.parametrize("widths", [(8, 12, 16), (8, 8, 12, 16)])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_an_eighth_of_the_size(
    block: type[ResidualBlock], widths: tuple[int, ...], norm: Norm, generator: torch.Generator
) -> None:
    encoder = Encoder(block, widths, 7, norm)
    assert encoder(torch.rand(2, 3, 64, 88, generator=generator)).shape == (2, 7, 8, 11)


def test_initial_weights_are_kaiming_by_fan_out() -> None:
    """Red when: fan_in, or the default uniform initialisation."""
    torch.manual_seed(0)
    encoder = Encoder(ResidualBlock, (64, 64, 96, 128), 256, "batch")
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.06), name


def test_cell_covers_its_own_pixels() -> None:
    """A shift of the image by 8 pixels is a shift of the features by one cell, away from the border."""
    torch.manual_seed(0)
    encoder = Encoder(ResidualBlock, (8, 12, 16), 7, "none").double()
    image = torch.rand(2, 3, 160, 176, dtype=torch.float64)
    features, shifted = encoder(image), encoder(image.roll((8, 16), dims=(2, 3)))
    inside = (..., slice(8, -8), slice(8, -8))
    torch.testing.assert_close(shifted[inside], features.roll((1, 2), dims=(2, 3))[inside])
