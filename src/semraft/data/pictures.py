"""Picture files to arrays and back: images, label ids, label colours, masks; and a png's chunks.

Not for flow (`formats`, which reads its pngs with what is here), what the ids and colours mean (`taxonomy`)
nor where a data set keeps its files (one module each).

Every reader raises FileNotFoundError for a file that is not there and DamagedFile for one that does not hold
what it should; a wrong call is a ValueError.
"""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Int32, Integer, Shaped, UInt8

from semraft.sample import Choose, DamagedFile, FramePart, Window

PNG_RGB = 2
"""The colour type of a png of three channels, as its header has it."""
_PNG_GREY, _PNG_PALETTE, _PNG_RGBA = 0, 3, 6
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_image(path: Path | str, part: FramePart | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture (jpg, png, ppm) as RGB 0..255, whole or a part; grey is repeated, alpha dropped.

    The grid is the file's own: an EXIF orientation is not applied, as flow and labels know nothing of it.

    Raises:
        WrongSize: Not of the frame's size.
        DamagedFile: Undecodable, cut off, or not 8 bits a channel.
    """
    path = Path(path)
    image = _decode_image(path, read_bytes(path))
    return _swap_red_blue(image if part is None else part.of(path, image))


def read_first_image(path: Path | str, choose: Choose) -> tuple[UInt8[np.ndarray, "H W 3"], FramePart]:
    """The window that `choose` takes of a picture, as `read_image` reads it, and what it is for other files.

    Raises:
        DamagedFile: As `read_image`.
    """
    path = Path(path)
    image = _decode_image(path, read_bytes(path))
    height, width = image.shape[:2]
    part = FramePart(choose((height, width)), (height, width), path.name)
    return _swap_red_blue(part.window.of(image)), part


def decode_image(path: Path, data: bytes, window: Window) -> UInt8[np.ndarray, "h w 3"]:
    """The window of a picture in a file's bytes, as `read_image` reads it.

    Raises:
        DamagedFile: As `read_image`.
    """
    return _swap_red_blue(window.of(_decode_image(path, data)))


def _decode_image(path: Path, data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with its colours as OpenCV orders them."""
    # Older OpenCV fills the missing part of a cut file with grey and returns it as if it were whole.
    if data.startswith(_PNG_SIGNATURE):
        split_png(path, data)
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise DamagedFile(path, "the JPEG data is cut off: no end marker after the last scan")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    image = decode(path, data, flags)
    if image.dtype != np.uint8:
        raise DamagedFile(path, f"has {image.dtype} values, a picture must have 8 bits a channel")
    return image


def write_image(path: Path | str, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes RGB as png or ppm (exact) or jpg (lossy, OpenCV's quality of 95).

    Raises:
        ValueError: Another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".ppm", ".jpg", ".jpeg"):
        raise ValueError(f"{path}: a picture is written to .png, .ppm or .jpg, not {suffix!r}")
    Path(path).write_bytes(encode(suffix, _swap_red_blue(image)))


def holds_ids(path: Path | str) -> bool:
    """Whether a png holds one number a pixel (grey or palette) rather than colours.

    Raises:
        DamagedFile: Not a png.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(26)
    if not head.startswith(_PNG_SIGNATURE) or len(head) < 26:
        raise DamagedFile(path, "is no png file" if head else "is empty (0 bytes)")
    return head[25] in (_PNG_GREY, _PNG_PALETTE)


def read_ids(
    path: Path | str, part: FramePart | None = None
) -> UInt8[np.ndarray, "H W"] | Int32[np.ndarray, "H W"]:
    """Reads the numbers of a grey or palette png, of a palette the indices and never the colours.

    uint8 for up to 8 bits a pixel, int32 for 16. Numbers are as stored, also below 8 bits (0 and 1, not 255).

    Raises:
        DamagedFile: Not a png, cut off, or a png of colours.
    """
    path = Path(path)
    chunks = split_png(path, read_bytes(path))
    header = chunks[0][1]
    depth, color_type = header[8], header[9]
    if color_type not in (_PNG_GREY, _PNG_PALETTE):
        raise DamagedFile(path, "holds colours, expected ids (a grey or palette png)")
    # OpenCV expands palettes and can't be told not to. Called grey, the same pixel data decodes to indices.
    grey = [(b"IHDR", header[:9] + bytes([_PNG_GREY]) + header[10:])]
    grey += [chunk for chunk in chunks if chunk[0] in (b"IDAT", b"IEND")]
    ids = decode(path, _join_png(grey), cv2.IMREAD_UNCHANGED)
    if part is not None:
        ids = part.of(path, ids)
    if depth < 8:
        ids //= 255 // (2**depth - 1)  # Undoes the stretch of 1, 2 and 4 bits to 0..255.
    return ids if ids.dtype == np.uint8 else ids.astype(np.int32)


def write_ids(path: Path | str, ids: Integer[np.ndarray, "H W"]) -> None:
    """Writes numbers as a grey png: 8 bits for uint8, 16 bits for any other integer type.

    Raises:
        ValueError: Another suffix than .png, or a number outside 0..65535.
    """
    _require_png(path)
    if ids.dtype != np.uint8:
        if ids.min() < 0 or ids.max() > 65535:
            raise ValueError(f"ids: from {ids.min()} to {ids.max()}, a 16-bit png holds 0..65535")
        ids = ids.astype(np.uint16)
    Path(path).write_bytes(encode(".png", ids))


def write_palette(path: Path | str, ids: UInt8[np.ndarray, "H W"], palette: UInt8[np.ndarray, "K 3"]) -> None:
    """Writes numbers as an 8-bit palette png: viewers show row k of `palette` (RGB), `read_ids` gives k.

    Raises:
        ValueError: Another suffix than .png, or an id that the palette lacks.
    """
    _require_png(path)
    if ids.max() >= len(palette):
        raise ValueError(f"ids: {ids.max()} found, the palette has {len(palette)} colours from 0")
    header, *rest = split_png(Path(path), encode(".png", ids))
    recast = header[1][:9] + bytes([_PNG_PALETTE]) + header[1][10:]
    Path(path).write_bytes(_join_png([(b"IHDR", recast), (b"PLTE", palette.tobytes()), *rest]))


def read_colors(path: Path | str, part: FramePart | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Reads labels stored as colours from a png: RGB as stored, a palette expanded, alpha dropped.

    Raises:
        DamagedFile: Not a png (lossy colours are no labels), cut off, grey, or 16 bits a channel.
    """
    path = Path(path)
    data = read_bytes(path)
    depth, color_type = split_png(path, data)[0][1][8:10]
    if color_type not in (PNG_RGB, _PNG_PALETTE, _PNG_RGBA) or depth > 8:
        raise DamagedFile(path, f"expected colours of 8 bits, got {png_kind(depth, color_type)}")
    colors = decode(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return _swap_red_blue(colors if part is None else part.of(path, colors))


def read_mask(path: Path | str, part: FramePart | None = None) -> Bool[np.ndarray, "H W"]:
    """Reads a png as a mask: True where a pixel is not 0 (of colours: not black).

    Raises:
        DamagedFile: Not a png, or cut off.
    """
    values = read_ids(path, part)[..., None] if holds_ids(path) else read_colors(path, part)
    mask: Bool[np.ndarray, "H W"] = np.any(values != 0, axis=-1)
    return mask


def write_mask(path: Path | str, mask: Bool[np.ndarray, "H W"]) -> None:
    """Writes a mask as a grey png, 255 where True."""
    write_ids(path, mask.astype(np.uint8) * np.uint8(255))


def read_bytes(path: Path) -> bytes:
    """A file's bytes; a file that has none is damaged."""
    data = path.read_bytes()
    if not data:
        raise DamagedFile(path, "is empty (0 bytes)")
    return data


def decode(path: Path, data: bytes, flags: int) -> Shaped[np.ndarray, "H W ..."]:
    """The picture in a file's bytes as OpenCV gives it: `flags` are its, colours are B, G, R."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DamagedFile(path, f"can't be decoded: {error}") from error
    if image is None:
        raise DamagedFile(path, "can't be decoded as an image")
    return image


def encode(suffix: str, image: Shaped[np.ndarray, "H W ..."]) -> bytes:
    """The bytes of a file with this suffix that holds the picture, colours in OpenCV's B, G, R."""
    done, data = cv2.imencode(suffix, image)
    if not done:
        raise ValueError(f"image: {image.dtype}{image.shape} can't be encoded as {suffix}")
    return data.tobytes()


def split_png(path: Path, data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks (type, body) of a png, IHDR first and IEND last, each proven by its checksum."""
    if not data.startswith(_PNG_SIGNATURE):
        raise DamagedFile(path, f"starts with {data[:8]!r}, which is no png signature")
    chunks: list[tuple[bytes, bytes]] = []
    at = len(_PNG_SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        body_end = at + 8 + int.from_bytes(data[at : at + 4])
        if body_end + 4 > len(data):
            raise DamagedFile(path, f"is cut off: the png goes on after its {len(data)} bytes")
        if zlib.crc32(data[at + 4 : body_end]) != int.from_bytes(data[body_end : body_end + 4]):
            raise DamagedFile(path, f"the png's checksum fails in the chunk at byte {at}")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : body_end]))
        at = body_end + 4
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise DamagedFile(path, "the png does not begin with its header")
    return chunks


def png_kind(depth: int, color_type: int) -> str:
    """What to call a png of this header in a message, such as "an 8-bit grey png"."""
    names = {_PNG_GREY: "grey", PNG_RGB: "RGB", _PNG_PALETTE: "palette", _PNG_RGBA: "RGBA"}
    return f"{'an' if depth == 8 else 'a'} {depth}-bit {names.get(color_type, 'grey and alpha')} png"


def _join_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [_PNG_SIGNATURE]
    for kind, body in chunks:
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))]
    return b"".join(parts)


def _require_png(path: Path | str) -> None:
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: ids are written to .png, not {Path(path).suffix!r}")


def _swap_red_blue(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
