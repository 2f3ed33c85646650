"""The safetensors format, against bytes written by hand."""

import json
import struct
from pathlib import Path

import pytest
import torch

from semraft.models.safetensors import NAMES, pack, unpack
from semraft.sample import DamagedFile


def by_hand(header: dict[str, object], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_file_written_by_hand(tmp_path: Path) -> None:
    """Red when: offsets are counted from the start of the file, bytes are swapped, or a shape is turned."""
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "I64", "shape": [], "data_offsets": [12, 20]},
        "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
    }
    data = struct.pack("<6e", 0.5, -1, 2, 3, 4, 65504) + struct.pack("<q", -7)
    path = tmp_path / "hand.safetensors"
    path.write_bytes(by_hand(header, data))
    found = unpack(path)
    assert found["a"].tolist() == [[0.5, -1, 2], [3, 4, 65504]]
    assert found["a"].dtype == torch.float16
    assert (found["b"].item(), found["b"].shape) == (-7, ())


def test_there_and_back(tmp_path: Path) -> None:
    """Every type, a view with gaps, no elements, one. Red when: a type's name is another's."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        str(dtype): (3 * torch.randn(3, 5, generator=generator))[:, ::2].to(dtype) for dtype in NAMES
    } | {"none": torch.zeros(0, 4), "scalar": torch.tensor(2.5), "learnt": torch.ones(2, requires_grad=True)}
    path = tmp_path / "all.safetensors"
    path.write_bytes(pack(tensors, {"step": "7"}))
    found = unpack(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    (length,) = struct.unpack_from("<Q", path.read_bytes())
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert header["__metadata__"] == {"step": "7"}
    assert header["torch.bfloat16"]["dtype"] == "BF16"
    assert length % 8 == 0
    with pytest.raises(ValueError, match="odd is torch"):
        pack({"odd": torch.zeros(2, dtype=torch.complex64)})


def test_damaged_files_are_called_so(tmp_path: Path) -> None:
    """Red when: a tensor is made of bytes that are not there, or of another's."""
    path = tmp_path / "damaged.safetensors"
    whole = pack({"a": torch.arange(4.0), "b": torch.ones(2)})
    outside = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}
    for content in (
        *(whole[:length] for length in (0, 5, 30, len(whole) - 1)),
        b"PK\x03\x04 a zip file of some length",
        by_hand(outside, b"12345678"),
        by_hand({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"12345678"),
        by_hand({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, b"12345678"),
        by_hand({"a": [1, 2]}, b""),
    ):
        path.write_bytes(content)
        with pytest.raises(DamagedFile, match="not a safetensors file, or cut short"):
            unpack(path)
