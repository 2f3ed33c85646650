"""Png files: their chunks, each proven by its checksum, and a window of their pixels as they are stored.

OpenCV decodes whole. Here rows below the window are not inflated, those above it not unfiltered where no
later one needs them, and columns right of it never. Not for what pixels mean (`pictures`, `formats`).

Source: W3C, Portable Network Graphics (PNG) Specification, third edition, 5 (chunks) and 9 (filters).
"""

import struct
import sys
from pathlib import Path
from typing import NamedTuple, cast, no_type_check

import numpy as np
from isal import isal_zlib
from jaxtyping import UInt8, UInt16

from semraft.kernels.compiled import njit
from semraft.npz import MOST_INFLATED, require_size
from semraft.sample import DamagedFile, Window

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6
"""Colour types, as a header has them."""
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, RGBA: 4}
_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)
"""Filters, as the first byte of each row has them."""
InflateError = cast("type[Exception]", isal_zlib.IsalError)
"""Error of isal for data that does not inflate; isal's own annotation calls it an instance."""
_HEADER = struct.Struct(">IIBBBBB")

Chunks = list[tuple[bytes, bytes]]
"""Type and body of each, IHDR first and IEND last."""


class Header(NamedTuple):
    """Values of an IHDR chunk, in its order."""

    width: int
    height: int
    depth: int
    """Bits of a sample."""
    color_type: int
    compression: int
    filter_method: int
    interlace: int

    def __bytes__(self) -> bytes:
        return _HEADER.pack(*self)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def kind(self) -> str:
        """Name of such a file for messages, as "an 8-bit grey png"."""
        names = {GREY: "grey", RGB: "RGB", PALETTE: "palette", RGBA: "RGBA"}
        return (
            f"{'an' if self.depth == 8 else 'a'} {self.depth}-bit {names.get(self.color_type, 'other')} png"
        )


def split_png(path: Path, data: bytes) -> Chunks:
    """The chunks of a file's bytes.

    Raises:
        DamagedFile: No png, cut off, a checksum that fails, no header, or a size that semraft does not
            read or the file's data can't have.
    """
    if not data.startswith(SIGNATURE):
        raise DamagedFile(path, f"starts with {data[:8]!r}, which is no png signature")
    chunks: Chunks = []
    at = len(SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        body_end = at + 8 + int.from_bytes(data[at : at + 4])
        if body_end + 4 > len(data):
            raise DamagedFile(path, f"is cut off: the png goes on after its {len(data)} bytes")
        if isal_zlib.crc32(data[at + 4 : body_end]) != int.from_bytes(data[body_end : body_end + 4]):
            raise DamagedFile(path, f"the png's checksum fails in the chunk at byte {at}")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : body_end]))
        at = body_end + 4
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != _HEADER.size:
        raise DamagedFile(path, "the png does not begin with its header")
    header = header_of(chunks)
    inflated_bits = 8 * MOST_INFLATED * (64 + sum(len(body) for kind, body in chunks if kind == b"IDAT"))
    bits_per_pixel = header.depth * _CHANNELS.get(header.color_type, 1)
    require_size(path, *header.size, inflated_bits // max(1, bits_per_pixel))
    return chunks


def join_png(chunks: Chunks) -> bytes:
    """The bytes of a file of these chunks."""
    parts = [SIGNATURE]
    for kind, body in chunks:
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", isal_zlib.crc32(kind + body))]
    return b"".join(parts)


def header_of(chunks: Chunks) -> Header:
    """Header of a png, from its first chunk."""
    return Header(*_HEADER.unpack(chunks[0][1]))


def is_plain(header: Header) -> bool:
    """True where `stored_pixels` can read it: some pixels, whole bytes a sample, rows one after another."""
    ways = (header.compression, header.filter_method, header.interlace)
    known = header.depth in (8, 16) and header.color_type in _CHANNELS and ways == (0, 0, 0)
    return known and min(header.size) > 0


def stored_pixels(
    path: Path, chunks: Chunks, window: Window
) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"]:
    """The window of a plain png's samples: of a palette the indices, of colours R, G, B in this order.

    Raises:
        DamagedFile: Its data does not inflate, ends before the window does, or is filtered in no known way.
        ValueError: The window goes beyond the picture.
    """
    header = header_of(chunks)
    pixel_bytes = _CHANNELS[header.color_type] * header.depth // 8
    bottom, right = window.top + window.height, window.left + window.width
    if bottom > header.height or right > header.width:
        raise ValueError(f"{path}: {window} goes beyond a picture of {header.width}x{header.height}")
    row_bytes = 1 + header.width * pixel_bytes
    needed = bottom * row_bytes
    deflated = b"".join(body for kind, body in chunks if kind == b"IDAT")
    try:
        inflated = isal_zlib.decompressobj().decompress(deflated, min(needed, sys.maxsize))
    except InflateError as error:
        raise DamagedFile(path, f"can't be decoded: {error}") from error
    if len(inflated) < needed:
        raise DamagedFile(path, f"the png's data ends in row {len(inflated) // row_bytes} of {header.height}")
    rows = np.frombuffer(inflated, np.uint8, needed).reshape(bottom, row_bytes)
    first = window.top
    while first > 0 and rows[first, 0] > _SUB:  # It is filtered by the row above it.
        first -= 1
    if rows[first:, 0].max() > _PAETH:
        raise DamagedFile(path, f"can't be decoded: a row has the filter {rows[first:, 0].max()}")
    # A row and a column of zeros before the first: where a filter finds no neighbour, it is 0.
    samples = np.zeros((1 + bottom - first, (1 + right) * pixel_bytes), np.uint8)
    _unfilter(rows[first:], pixel_bytes, samples)
    pixels = samples.reshape(len(samples), 1 + right, pixel_bytes)
    pixels = np.ascontiguousarray(pixels[1 + window.top - first :, 1 + window.left :])
    return pixels if header.depth == 8 else pixels.view(">u2").astype(np.uint16)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _unfilter(rows, pixel_bytes, samples):
    """Samples, with zeros for a row above and a pixel before them, from rows of a filter and what it left."""
    ahead, end = np.uint64(pixel_bytes), np.uint64(samples.shape[1])  # Unsigned: none counts from the end.
    for number in range(len(rows)):
        kind, stored, above, row = rows[number, 0], rows[number, 1:], samples[number], samples[number + 1]
        if kind == _NONE:
            row[ahead:] = stored[: end - ahead]
        elif kind == _SUB:
            for x in range(ahead, end):
                row[x] = stored[x - ahead] + row[x - ahead]
        elif kind == _UP:
            for x in range(ahead, end):
                row[x] = stored[x - ahead] + above[x]
        elif kind == _AVERAGE:
            for x in range(ahead, end):
                row[x] = stored[x - ahead] + ((np.uint16(row[x - ahead]) + above[x]) >> 1)
        else:
            for x in range(ahead, end):
                row[x] = stored[x - ahead] + _paeth(row[x - ahead], above[x], above[x - ahead])


@njit(cache=True, nogil=True)
@no_type_check
def _paeth(left, above, corner):
    """Paeth predictor: the neighbour that is nearest to left + above - corner, the first of equal ones."""
    # In 16 bits and without branches, half of the time: which of them it is can't be foreseen.
    a, b, c = np.int16(left), np.int16(above), np.int16(corner)
    to_a, to_b = np.int16(b - c), np.int16(a - c)
    to_c = abs(np.int16(to_a + to_b))
    to_a, to_b = abs(to_a), abs(to_b)
    nearest = b if to_b <= to_c else c
    return np.uint8(a if (to_a <= to_b) & (to_a <= to_c) else nearest)
