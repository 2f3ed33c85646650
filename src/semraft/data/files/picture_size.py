"""Size of a picture by its header, before it is decoded: jpg, ppm, pgm and bmp. Not for png (`png`).

Other kinds that OpenCV knows are refused: nobody has said how large they are.
Sources: ITU-T T.81, B.2.2 (frame header); netpbm's ppm(5) and pgm(5); Microsoft's BITMAPINFOHEADER.
"""

import re
import struct
from pathlib import Path

from semraft.npz import MOST_PIXELS, require_size
from semraft.sample import DamagedFile

_PNM = re.compile(rb"P([1-6])(?:\s+#[^\n]*)*\s+(\d{1,9})(?:\s+#[^\n]*)*\s+(\d{1,9})\s")
_NO_FRAME = {0xC4, 0xC8, 0xCC}
"""Markers among those of frames, 0xC0 to 0xCF, that have other segments."""
_ALONE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a segment."""
MOST_JPEG_PIXELS = 512
"""Pixels that a byte of a jpg can stand for: each 8x8 block of the first component takes a bit at least."""


def require_possible_size(path: Path, data: bytes) -> None:
    """Checks the size of a picture that is no png: `npz.require_size`.

    Raises:
        DamagedFile: Too large for semraft or for its bytes; or neither jpg, ppm, pgm nor bmp.
    """
    most = 8 * len(data)
    if data.startswith(b"\xff\xd8"):
        size, most = _jpeg_size(data), MOST_JPEG_PIXELS * len(data)
    elif found := _PNM.match(data):
        size = int(found[3]), int(found[2])
    elif data.startswith(b"BM") and len(data) >= 26:
        is_old = data[14:18] == b"\x0c\0\0\0"
        width, height = struct.unpack_from("<hh" if is_old else "<ii", data, 18)
        size, most = (abs(height), width), MOST_PIXELS  # Run lengths may stand for anything.
    else:
        raise DamagedFile(path, f"starts with {data[:8]!r}, which is no png, jpg, ppm, pgm or bmp")
    if size is None:
        raise DamagedFile(path, "can't be decoded: the JPEG data has no frame header")
    require_size(path, *size, most)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width in the first frame header, which is before any pixel."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 8:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        if marker in (0x00, 0xFF) or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
