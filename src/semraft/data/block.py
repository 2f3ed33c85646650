"""A batch as one block of bytes: from a loader process, through pinned memory, to the device.

Fields keep the small types of their samples on the way: as float32 and int64 they are two and a half times
the bytes, and a loader process, pinned memory and the bus are held up by every one. One block, because each
tensor that comes from another process costs its receiver a connection, and a descriptor until it is freed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from semraft.sample import OPTIONAL_FIELDS, FlowBatch, FlowSample

ALIGNED_BYTES = 64
"""Fields begin at multiples of it: a device reads no number across its own unit of memory."""


class Place(NamedTuple):
    """The place of a field in a block."""

    first_byte: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def of(self, content: UInt8[Tensor, " N"]) -> Tensor:
        """The field, not copied."""
        size = prod(self.shape) * self.dtype.itemsize
        return content[self.first_byte : self.first_byte + size].view(self.dtype).view(self.shape)


@dataclass(frozen=True, slots=True)
class Block:
    """Samples of one size, stacked field by field in their own types, channels last."""

    ids: tuple[str, ...]
    content: UInt8[Tensor, " N"]
    places: dict[str, Place]
    """Field -> where it lies; a field that any sample lacks is not there."""

    def pin_memory(self) -> "Block":
        """The same in page-locked memory. DataLoader calls it, in a thread of the training process."""
        return replace(self, content=self.content.pin_memory())

    def on(self, device: torch.device) -> FlowBatch:
        """The batch on a device: channels first and float32, or int64, or bool; converted there."""
        content, fields = self.content.to(device, non_blocking=is_pinned_for(device)), dict[str, Any]()
        for name, place in self.places.items():
            field = place.of(content)
            if field.ndim == 4:
                field = field.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
            elif field.dtype != torch.bool:
                field = field.to(torch.int64)
            fields[name] = field
        return FlowBatch(ids=self.ids, **fields)


def is_pinned_for(device: torch.device) -> bool:
    """True where batches wait in page-locked memory, which CUDA copies from while it computes."""
    return device.type == "cuda"


def block_of(samples: Sequence[FlowSample]) -> Block:
    """Stacks samples of one size."""
    found: dict[str, list[np.ndarray]] = {}
    for name in ("image1", "image2", "flow", "valid", *OPTIONAL_FIELDS):
        arrays = [getattr(sample, name) for sample in samples]
        if all(array is not None for array in arrays):
            found[name] = arrays
    places, end = {}, 0
    for name, arrays in found.items():
        dtype, first_byte = torch.from_numpy(arrays[0][:0]).dtype, -(-end // ALIGNED_BYTES) * ALIGNED_BYTES
        places[name] = Place(first_byte, (len(arrays), *arrays[0].shape), dtype)
        end = first_byte + sum(array.nbytes for array in arrays)
    content = torch.empty(end, dtype=torch.uint8)
    for name, arrays in found.items():
        stacked = places[name].of(content).numpy()
        for number, array in enumerate(arrays):
            stacked[number] = array
    return Block(tuple(sample.id for sample in samples), content, places)
