"""Padding to the stride: right and below, by repetition, undone by a slice."""

import pytest
import torch

from semraft.ops.padding import pad_to_multiple


@pytest.mark.parametrize(("height", "width"), [(64, 72), (65, 71), (71, 66), (1, 9)])
def test_padding_law(height: int, width: int, generator: torch.Generator) -> None:
    """Multiples of 8, the input where it was, its edge beyond. Red when: padded left, or on both sides."""
    images = torch.rand(2, 3, height, width, generator=generator)
    padded = pad_to_multiple(images, 8)
    assert padded.shape == (2, 3, -(-height // 8) * 8, -(-width // 8) * 8)
    rows = torch.arange(padded.shape[2]).clamp(max=height - 1)
    columns = torch.arange(padded.shape[3]).clamp(max=width - 1)
    assert torch.equal(padded, images[:, :, rows][:, :, :, columns])


def test_a_multiple_is_left_alone(generator: torch.Generator) -> None:
    images = torch.rand(2, 3, 16, 24, generator=generator)
    assert pad_to_multiple(images, 8) is images
