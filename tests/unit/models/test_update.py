"""The recurrent unit and the upsampling, against their formulas written out."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semraft.models.convolution import prepare_all
from semraft.models.update import ConvGRU, MaskHead, upsample_bilinear, upsample_convex


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (5, 1)])
def test_recurrent_unit_is_the_plain_one(kernel: tuple[int, int], generator: torch.Generator) -> None:
    """z, r from [h, c, m]; q from [r h, c, m]; h' = (1 - z) h + z q. Red when: z and r change places."""
    torch.manual_seed(1)
    unit = ConvGRU(4, 3, 5, kernel).double()
    hidden, context, motion = (
        torch.randn(2, channels, 6, 7, generator=generator, dtype=torch.float64) for channels in (4, 3, 5)
    )
    everything = torch.cat([hidden, context, motion], dim=1)
    update, reset = torch.sigmoid(unit.update_gate(everything)), torch.sigmoid(unit.reset_gate(everything))
    candidate = torch.tanh(unit.candidate(torch.cat([reset * hidden, context, motion], dim=1)))
    expected = (1 - update) * hidden + update * candidate
    torch.testing.assert_close(unit(hidden, motion, unit.prepare(context)), expected)


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


def test_mask_head_is_damped() -> None:
    """Red when: the factor 0.25 is missing, which published weights rely on."""
    torch.manual_seed(0)
    head = MaskHead(6, 7)
    hidden = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(head(hidden, prepare_all(head, hidden)), head.layers(hidden) / 4)
