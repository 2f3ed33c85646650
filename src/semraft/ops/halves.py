"""bfloat16 in loops compiled by Numba, which has no such type: the upper half of a float32, seen as uint16.

A loop over blocks of rows works on float32 whatever is stored: `opened` gives a block's numbers, `room` the
place for new ones and `close` puts them where they belong. Of float32 they are the block itself.
"""

from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Shaped
from numba import types
from numba.extending import overload
from torch import Tensor


def as_array(x: Shaped[Tensor, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """The same memory for a loop: bfloat16 as uint16."""
    array: np.ndarray = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).detach().numpy()
    return array


def opened(block: Any, bits: Any) -> Any:
    """A block's numbers as float32; `bits`, as many uint32 or more, holds them where they are not."""
    raise NotImplementedError("only in compiled loops")


def room(block: Any, bits: Any) -> Any:
    """Where to write a block's new numbers in float32, before `close`."""
    raise NotImplementedError("only in compiled loops")


def close(block: Any, bits: Any) -> None:
    """What `room` was filled with becomes the block, rounded to the nearest, of two to the even one."""
    raise NotImplementedError("only in compiled loops")


@overload(opened)
@no_type_check
def _opened(block, bits):
    if block.dtype != types.uint16:
        return lambda block, bits: block

    def widen(block, bits):
        stored = block.reshape(block.size)
        for n in range(stored.size):
            bits[n] = np.uint32(stored[n]) << np.uint32(16)
        return bits[: block.size].view(np.float32).reshape(block.shape)

    return widen


@overload(room)
@no_type_check
def _room(block, bits):
    if block.dtype != types.uint16:
        return lambda block, bits: block
    return lambda block, bits: bits[: block.size].view(np.float32).reshape(block.shape)


@overload(close)
@no_type_check
def _close(block, bits):
    if block.dtype != types.uint16:
        return lambda block, bits: None

    def narrow(block, bits):
        stored = block.reshape(block.size)
        for n in range(stored.size):
            # Half of the lower half's range less one, and one for an odd upper half.
            rounding = np.uint32(0x7FFF) + ((bits[n] >> np.uint32(16)) & np.uint32(1))
            stored[n] = np.uint16((bits[n] + rounding) >> np.uint32(16))

    return narrow
