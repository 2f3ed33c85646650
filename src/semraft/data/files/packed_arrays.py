"""One file of a pack: the arrays of a frame or of a pair, in bands of rows that are read one by one.

A header (JSON) lists the arrays and their places. Each band is deflated by itself and carries a checksum.
Numbers of several bytes, and the two components of flow, are stored as one plane for each byte, which
deflates to a third. Not for the list of arrays (`packed`).
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import cv2
import numpy as np
from isal import isal_zlib
from jaxtyping import Shaped

from semraft.data.files.pictures import decode_image
from semraft.data.files.png import InflateError
from semraft.npz import require_size
from semraft.records import Count, DamagedFile, parsed, shaped
from semraft.sample import Window

LARGEST_FILE = 2**30
"""Bytes of the largest image file that is read from a pack."""
_KINDS: dict[str, tuple[str | int, ...]] = {
    **dict.fromkeys(("image",), ("uint8", 3)),
    **dict.fromkeys(("labels", "labels1", "labels2"), ("uint8",)),
    **dict.fromkeys(("instances", "instances1", "instances2"), ("int32",)),
    **dict.fromkeys(("flow", "backward_flow"), ("float32", 2)),
    **dict.fromkeys(("valid", "valid_noc", "backward_valid", "occluded1", "occluded2", "moving1"), ("bool",)),
}
"""Array of a pack -> its type and channels."""


class StoredArray(TypedDict):
    """An array in the header of a file of a pack."""

    stored: Literal["file", "bool", "uint8", "uint16", "int32", "float16", "float32"]
    dtype: NotRequired[str]
    channels: NotRequired[list[int]]
    bodies: list[Count]


class Header(TypedDict):
    """The header of a file of a pack."""

    frame: tuple[int, int]
    arrays: dict[str, StoredArray]


Array = Shaped[np.ndarray, "H W *channels"]
Stored = Array | bytes
"""An array, or the bytes of an image file in its place."""

_MAGIC = b"semraft pack 1\n"
_BAND_ROWS = 32
_LEVEL = 3
_IMAGE_LEVEL = 0
"""Images are not deflated: it takes a fifth to two fifths off, and twenty times as long to read."""


def to_bytes(frame: tuple[int, int], arrays: Mapping[str, Stored]) -> bytes:
    """The bytes of a file of a pack, for arrays of one height and width."""
    entries: dict[str, Any] = {}
    bodies: list[bytes] = []
    for name, array in arrays.items():
        level = _IMAGE_LEVEL if name == "image" else _LEVEL
        if isinstance(array, bytes):
            bands = [zlib.compress(array, level)]
            entries[name] = {"stored": "file"}
        else:
            small = _smallest(array)
            bands = [
                zlib.compress(_planes(small[row : row + _BAND_ROWS]), level)
                for row in range(0, frame[0], _BAND_ROWS)
            ]
            kinds = {"stored": small.dtype.name, "dtype": array.dtype.name}
            entries[name] = {**kinds, "channels": array.shape[2:]}
        entries[name]["bodies"] = [len(band) for band in bands]
        bodies.extend(bands)
    text = json.dumps({"frame": frame, "arrays": entries}).encode()
    lengths = len(text).to_bytes(4) + zlib.crc32(text).to_bytes(4)
    return b"".join([_MAGIC, lengths, text, *bodies])


class PackedFile:
    """A file of a pack: height and width of its arrays, and any window of them."""

    def __init__(self, path: Path) -> None:
        """Reads the header.

        Raises:
            DamagedFile: No file of a pack, or its header is not as it was written.
        """
        self.path = path
        with path.open("rb") as file:
            start = file.read(len(_MAGIC) + 8)
            text = file.read(int.from_bytes(start[-8:-4]))
        if not start.startswith(_MAGIC) or zlib.crc32(text) != int.from_bytes(start[-4:]):
            raise DamagedFile(path, "is no file of a pack, or its header is damaged")
        header = shaped(path, parsed(path, text), Header)
        self._first_body = len(start) + len(text)
        self.frame: tuple[int, int] = (header["frame"][0], header["frame"][1])
        require_size(path, *self.frame)
        self._arrays = header["arrays"]
        for name, entry in self._arrays.items():
            _require_layout(path, name, entry, self.frame)

    def read(self, window: Window) -> dict[str, Array]:
        """The window of every array, as it was before packing.

        Raises:
            DamagedFile: What is read is not as it was written.
        """
        arrays: dict[str, Array] = {}
        offset = self._first_body
        with self.path.open("rb") as file:
            for name, entry in self._arrays.items():
                as_file, lengths = entry["stored"] == "file", entry["bodies"]
                first, last = window.top // _BAND_ROWS, -(-(window.top + window.height) // _BAND_ROWS)
                bands = slice(0, 1) if as_file else slice(first, last)
                file.seek(offset + sum(lengths[: bands.start]))
                bodies = [file.read(length) for length in lengths[bands]]
                try:
                    if as_file:
                        arrays[name] = decode_image(self.path, _inflated(bodies[0], LARGEST_FILE), window)
                    else:
                        arrays[name] = _join(bodies, first * _BAND_ROWS, entry, self.frame, window)
                except (InflateError, ValueError) as error:
                    raise DamagedFile(self.path, f"the packed {name} is damaged: {error}") from error
                offset += sum(lengths)
        return arrays


def _join(bands: list[bytes], top: int, entry: StoredArray, frame: tuple[int, int], window: Window) -> Array:
    stored = np.dtype(entry["stored"])
    row_bytes = frame[1] * stored.itemsize * int(np.prod(entry["channels"], initial=1))
    count = int(np.prod(entry["channels"], initial=1)) if stored.itemsize == 1 else 0
    result = np.empty((window.height, window.width, *entry["channels"]), stored)
    planes = result.view(np.uint8).reshape(window.height, window.width, -1)
    for row, band in enumerate(bands):
        rows = slice(top + row * _BAND_ROWS, min(top + (row + 1) * _BAND_ROWS, frame[0]))
        raw = np.frombuffer(_inflated(band, (rows.stop - rows.start) * row_bytes), np.uint8)
        start, end = max(rows.start, window.top), min(rows.stop, window.top + window.height)
        inside = slice(start - rows.start, end - rows.start), slice(window.left, window.left + window.width)
        target = planes[start - window.top : end - window.top]
        if count:
            target[...] = raw.reshape(rows.stop - rows.start, frame[1], count)[inside]
        else:
            split = raw.reshape(planes.shape[2], rows.stop - rows.start, frame[1])
            cv2.merge([plane[inside] for plane in split], target)
    return result.astype(entry["dtype"], copy=False)


def _inflated(deflated: bytes, most: int) -> bytes:
    """The content of a band; more than it should hold is not inflated.

    Raises:
        ValueError: It holds more.
    """
    stream = isal_zlib.decompressobj()
    content: bytes = stream.decompress(deflated, most + 1)
    if len(content) > most or not stream.eof:
        raise ValueError(f"it is cut off, or inflates to more than {most} bytes")
    return content


def _require_layout(path: Path, name: str, entry: StoredArray, frame: tuple[int, int]) -> None:
    """Checks a header's entry: the type and channels of its field, and the number of its bands."""
    kind = _KINDS.get(name)
    is_file = entry["stored"] == "file" and name == "image"
    bands = 1 if is_file else -(-frame[0] // _BAND_ROWS)
    if kind is None or len(entry["bodies"]) != bands:
        raise DamagedFile(path, f"its header has no sound entry of {name}")
    if not is_file and (entry.get("dtype"), *entry.get("channels", ["?"])) != kind:
        raise DamagedFile(path, f"{name} is {entry.get('dtype')} {entry.get('channels')}, expected {kind}")


def _planes(band: Array) -> bytes:
    """A band's bytes; of numbers of several bytes, first the first byte of all, then the second, ..."""
    if band.itemsize == 1:
        return np.ascontiguousarray(band).tobytes()
    height, width = band.shape[:2]
    split = np.ascontiguousarray(band).view(np.uint8).reshape(height, width, -1)
    return np.ascontiguousarray(split.transpose(2, 0, 1)).tobytes()


def _smallest(array: Array) -> Array:
    """The array in the smallest type that holds its values exactly."""
    if array.dtype == np.float32:
        half = array.astype(np.float16)
        return half if np.array_equal(half.astype(np.float32).view(np.int32), array.view(np.int32)) else array
    if array.dtype == np.int32 and array.min() >= 0:
        for kind in (np.uint8, np.uint16):
            if array.max() <= np.iinfo(kind).max:
                return array.astype(kind)
    return array
