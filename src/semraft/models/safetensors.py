"""The safetensors format: tensors by name in one file that holds nothing else, so that it is safe to read.

Eight bytes say how long the header is (little-endian); the header is JSON: name -> dtype, shape and the place
of its bytes behind the header; `__metadata__` is a dictionary of text. As huggingface/safetensors has it.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from semraft.sample import DamagedFile

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The format's name of a type -> ours."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a file that holds these tensors.

    Raises:
        ValueError: A tensor of a type that the format has no name for here.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, end = [], 0
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise ValueError(f"{name} is {tensor.dtype}: expected one of {', '.join(map(str, NAMES))}")
        parts.append(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        start, end = end, end + len(parts[-1])
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # So that tensors begin where a processor can map them.
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def unpack(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        DamagedFile: Not of this format, or cut short.
    """
    content = Path(path).read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        found = {name: _tensor(content[8 + length :], **entry) for name, entry in header.items()}
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DamagedFile(path, f"not a safetensors file, or cut short: {error}") from error
    return found


def _tensor(content: bytes, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    start, end = data_offsets
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if not 0 <= start <= end <= len(content) or end - start != size:
        raise ValueError(f"{size} bytes of {len(content)} can't be those from {start} to {end}")
    if size == 0:
        return torch.empty(shape, dtype=DTYPES[dtype])
    return torch.frombuffer(bytearray(content[start:end]), dtype=DTYPES[dtype]).reshape(shape)
