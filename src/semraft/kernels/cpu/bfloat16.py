"""bfloat16 in loops compiled by Numba, which has no such type: the upper half of a float32, seen as uint16.

A loop over blocks of rows computes in float32 for both storage types: `opened` widens a block, `room` is a
buffer for new values and `close` rounds and stores them. For float32 all three are the block itself.
"""

from collections.abc import Callable
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Shaped
from numba import types
from numba.extending import overload, register_jitable
from torch import Tensor


def as_array(x: Shaped[Tensor, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """The same memory for a loop: bfloat16 as uint16."""
    array: np.ndarray = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).detach().numpy()
    return array


@no_type_check
def _same(block, bits):
    return block


@no_type_check
def _nothing(block, bits):
    pass


@register_jitable
@no_type_check
def _room(block, bits):
    return bits[: block.size].view(np.float32).reshape(block.shape)


@no_type_check
def _widen(block, bits):
    stored = block.reshape(block.size)
    for n in range(stored.size):
        bits[n] = np.uint32(stored[n]) << np.uint32(16)
    return _room(block, bits)


@no_type_check
def _narrow(block, bits):
    stored = block.reshape(block.size)
    for n in range(stored.size):
        # Half of the lower half's range less one, and one for an odd upper half.
        rounding = np.uint32(0x7FFF) + ((bits[n] >> np.uint32(16)) & np.uint32(1))
        stored[n] = np.uint16((bits[n] + rounding) >> np.uint32(16))


def _by_storage(of_float32: Callable[..., Any], of_bfloat16: Callable[..., Any]) -> Callable[..., Any]:
    """One of two functions of (block, bits): Numba takes it by the block's type, Python by its dtype."""

    def either(block: np.ndarray, bits: np.ndarray) -> Any:
        return (of_bfloat16 if block.dtype == np.uint16 else of_float32)(block, bits)

    overload(either)(lambda block, bits: of_bfloat16 if block.dtype == types.uint16 else of_float32)
    return either


opened = _by_storage(_same, _widen)
"""A block's values as float32; `bits`, as many uint32 or more, is the buffer for bfloat16."""
room = _by_storage(_same, _room)
"""The float32 buffer for a block's new values, before `close`."""
close = _by_storage(_nothing, _narrow)
"""Stores the values of `room` in the block, rounded to nearest, ties to even."""
