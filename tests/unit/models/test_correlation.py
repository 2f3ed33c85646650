"""The correlation volume and its windows, against loops over their definitions."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semraft.models import correlation


def make_features(generator: torch.Generator, height: int = 5, width: int = 7) -> tuple[Tensor, Tensor]:
    size = (2, 3, height, width)
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(2))


def bilinear(image: Tensor, x: float, y: float) -> float:
    """The image at a point, zero outside: the definition, pixel by pixel."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += float(image[row, column]) * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def lookup_in_loops(features1: Tensor, features2: Tensor, points: Tensor, levels: int, radius: int) -> Tensor:
    """Average pooling commutes with the product: level l is f1 . (f2 pooled l times) / sqrt(C)."""
    batch, channels, height, width = features1.shape
    side = 2 * radius + 1
    result = torch.zeros(batch, levels * side**2, height, width, dtype=features1.dtype)
    for b in range(batch):
        for level in range(levels):
            pooled = features2[b]
            for _ in range(level):
                pooled = F.avg_pool2d(pooled, 2)
            for i in range(height):
                for j in range(width):
                    row = (features1[b, :, i, j, None, None] * pooled).sum(0) / math.sqrt(channels)
                    x, y = (points[b, :, i, j] / 2**level).tolist()
                    for dx in range(-radius, radius + 1):
                        for dy in range(-radius, radius + 1):
                            channel = level * side**2 + (dx + radius) * side + (dy + radius)
                            result[b, channel, i, j] = bilinear(row, x + dx, y + dy)
    return result


def scattered_points(generator: torch.Generator, height: int = 5, width: int = 7) -> Tensor:
    """Points in and around the frame, some far outside, none on an integer."""
    spread = torch.tensor([width, height]).view(1, 2, 1, 1)
    return torch.rand(2, 2, height, width, generator=generator, dtype=torch.float64) * 2 * spread - spread / 2


def test_all_pairs_by_loops(generator: torch.Generator) -> None:
    """Red when: the two frames change places, or the scale is 1/C."""
    features1, features2 = make_features(generator)
    volume = correlation.all_pairs(features1, features2)
    assert volume.shape == (2, 5, 7, 5, 7)
    for b, i, j, row, column in [(0, 1, 2, 3, 4), (1, 4, 6, 0, 5), (1, 0, 0, 4, 1)]:
        expected = (features1[b, :, i, j] * features2[b, :, row, column]).sum() / math.sqrt(3)
        torch.testing.assert_close(volume[b, i, j, row, column], expected)


@pytest.mark.parametrize(("height", "width", "levels"), [(5, 7, 2), (8, 9, 4)])
def test_lookup_by_loops(height: int, width: int, levels: int, generator: torch.Generator) -> None:
    """Four levels of 8 x 9 end in one pixel.

    Red when: windows run over y then x, no 2^level, border padding.
    """
    features1, features2 = make_features(generator, height, width)
    points = scattered_points(generator, height, width)
    volumes = correlation.pyramid(features1, features2, levels)
    found = correlation.lookup(volumes, points, radius=2)
    expected = lookup_in_loops(features1, features2, points, levels, radius=2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_level_of_one_pixel_is_finite(generator: torch.Generator) -> None:
    """Red when: coordinates are normalised by width - 1, as in public code (NaN below 128 px)."""
    features1, features2 = make_features(generator, 8, 8)
    volumes = correlation.pyramid(features1, features2, levels=4)
    assert volumes[-1].shape == (128, 1, 1, 1)
    assert correlation.lookup(volumes, scattered_points(generator, 8, 8), radius=3).isfinite().all()


def test_gradients(generator: torch.Generator) -> None:
    features1, features2 = (features.requires_grad_() for features in make_features(generator, 2, 3))
    points = scattered_points(generator, 2, 3)

    def sampled(features1: Tensor, features2: Tensor) -> Tensor:
        return correlation.lookup(correlation.pyramid(features1, features2, levels=2), points, radius=1)

    assert torch.autograd.gradcheck(sampled, (features1, features2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_do_not_overflow(dtype: torch.dtype) -> None:
    """1200 x 1200 over 64 channels is 9e7, beyond float16 (65504). Red when: computed in float16."""
    features1 = torch.full((2, 64, 3, 5), 1200.0, dtype=dtype)
    features2 = torch.full((2, 64, 3, 5), -1200.0, dtype=dtype)
    with torch.autocast("cpu", dtype=dtype):
        volume = correlation.all_pairs(features1, features2)
    assert volume.dtype == torch.float32
    expected = -8 * float(features1[0, 0, 0, 0]) ** 2
    torch.testing.assert_close(volume, torch.full_like(volume, expected), rtol=1e-6, atol=0)
