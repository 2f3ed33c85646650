"""Upsampling against loops over its definition, and the compiled one against the plain one."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semraft.models.upsampling import upsample_bilinear, upsample_convex


def convex_in_loops(cells: Tensor, mask: Tensor) -> Tensor:
    batch, channels, height, width = cells.shape
    logits = mask.view(batch, 3, 3, 8, 8, height, width)
    result = torch.zeros(batch, channels, 8 * height, 8 * width, dtype=cells.dtype)
    for b in range(batch):
        for y in range(8 * height):
            for x in range(8 * width):
                i, j = y // 8, x // 8
                weights = logits[b, :, :, y % 8, x % 8, i, j].flatten().softmax(0).view(3, 3)
                for row in range(3):
                    for column in range(3):
                        near_i, near_j = i + row - 1, j + column - 1
                        if 0 <= near_i < height and 0 <= near_j < width:
                            result[b, :, y, x] += weights[row, column] * cells[b, :, near_i, near_j]
    return result


def test_convex_upsampling_by_loops(generator: torch.Generator) -> None:
    """Red when: neighbours column by column, pixels of a cell transposed, replicate padding."""
    cells = torch.randn(2, 3, 2, 4, generator=generator, dtype=torch.float64)
    mask = torch.randn(2, 576, 2, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(upsample_convex(cells, mask), convex_in_loops(cells, mask))


def test_convex_upsampling_gradients(generator: torch.Generator) -> None:
    cells = torch.randn(2, 2, 1, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.randn(2, 576, 1, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(upsample_convex, (cells, mask), fast_mode=True)


def test_convex_upsampling_stays_between_its_neighbours(generator: torch.Generator) -> None:
    cells = torch.randn(2, 2, 5, 6, generator=generator)
    mask = 5 * torch.randn(2, 576, 5, 6, generator=generator)
    fine = upsample_convex(cells, mask)[..., 8:-8, 8:-8]  # The outermost cells have neighbours that are zero.
    highest, lowest = (F.max_pool2d(sign * cells, 3, stride=1) for sign in (1, -1))
    for bound, sign in ((highest, 1), (lowest, -1)):
        assert (sign * fine <= bound.repeat_interleave(8, 2).repeat_interleave(8, 3) + 1e-6).all()


def test_bilinear_upsampling_pins_the_corners() -> None:
    """A ramp over the cells is a ramp over the pixels, corner to corner. Red when: align_corners is False."""
    ramp = torch.linspace(-1, 1, 5) * torch.tensor([[[3.0]], [[-2.0]]]).expand(2, 2, 3, 1)
    fine = upsample_bilinear(ramp)
    expected = torch.linspace(-1, 1, 40) * torch.tensor([[[3.0]], [[-2.0]]]).expand(2, 2, 24, 1)
    torch.testing.assert_close(fine, expected)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_upsampling_is_the_plain_one(
    channels: int, threads: int, generator: torch.Generator
) -> None:
    """float32 is compiled, float64 is not. Red when: a neighbour's gradient goes to the wrong cell, or the
    mean share is left out of the softmax's gradient.
    """
    cells = torch.randn(2, channels, 5, 7, generator=generator)
    mask = 3 * torch.randn(2, 576, 5, 7, generator=generator)
    weights = torch.randn(2, channels, 40, 56, generator=generator)
    used = torch.get_num_threads()
    results = []
    torch.set_num_threads(threads)
    try:
        for dtype in (torch.float32, torch.float64):
            leaves = tuple(value.to(dtype).requires_grad_() for value in (cells, mask))
            fine = upsample_convex(*leaves)
            results.append((fine, *torch.autograd.grad(fine, leaves, weights.to(dtype))))
    finally:
        torch.set_num_threads(used)
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-5)
