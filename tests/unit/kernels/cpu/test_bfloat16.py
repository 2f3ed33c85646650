"""bfloat16 in compiled loops, against torch's own conversions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numba import njit

from semraft.kernels.cpu.bfloat16 import as_array, close, opened, room


@njit
def _copy(source, target):
    bits = np.empty(source.size, np.uint32)
    numbers, new = opened(source, bits), room(target, bits)
    for row in range(len(numbers)):
        for n in range(numbers.shape[1]):
            new[row, n] = numbers[row, n]
    close(target, bits)


@pytest.mark.parametrize("copy", [_copy, _copy.py_func], ids=["compiled", "python"])
def test_conversions_are_torchs(copy: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Every bfloat16 to float32; float32 of all sizes to the nearest bfloat16, ties, infinity and what is not
    a number among them. Red when: digits are cut off, ties go up, or the largest become something else."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).view(256, 256)
    wide = torch.empty(256, 256)
    copy(as_array(every), as_array(wide))
    assert torch.equal(wide.view(torch.int32), every.float().view(torch.int32))

    between = wide.view(torch.int32)[:, :, None] + torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    numbers = between.to(torch.int32).view(torch.float32).reshape(256, -1)
    numbers = torch.where(numbers.isnan(), torch.nan, numbers)  # Payloads differ, and mean nothing.
    small = torch.empty(numbers.shape, dtype=torch.bfloat16)
    copy(as_array(numbers), as_array(small))
    expected = numbers.bfloat16()
    assert torch.equal(small.isnan(), expected.isnan())
    there = ~expected.isnan()
    assert torch.equal(small[there].view(torch.int16), expected[there].view(torch.int16))
