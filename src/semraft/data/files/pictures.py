"""Picture files to arrays and back: images, label ids, label colours, masks.

Not for the bytes of a png (`png`), flow (`formats`), what the ids and colours mean (`taxonomy`)
nor where a data set keeps its files (one module each).

Every reader raises FileNotFoundError for a file that is not there and DamagedFile for one that does not hold
what it should; a wrong call is a ValueError.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Int32, Integer, Shaped, UInt8, UInt16

from semraft.data.files import png
from semraft.data.files.picture_size import require_possible_size
from semraft.records import read_bytes
from semraft.sample import Choose, DamagedFile, FramePart, Window
from semraft.writing import write_bytes


def read_image(path: Path | str, part: FramePart | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture (jpg, png, ppm, bmp) as RGB 0..255, whole or a part; grey is repeated, alpha dropped.

    The grid is the file's own: an EXIF orientation is not applied, as flow and labels have none.

    Raises:
        WrongSize: Not of the frame's size.
        DamagedFile: Undecodable, cut off, not 8 bits a channel, of another kind, or larger than MOST_PIXELS.
    """
    path = Path(path)
    return _decode_image(path, read_bytes(path), chosen(path, part))


def read_first_image(path: Path | str, choose: Choose) -> tuple[UInt8[np.ndarray, "H W 3"], FramePart]:
    """The window that `choose` takes of a picture, as `read_image` reads it, and what it is for other files.

    Raises:
        DamagedFile: As `read_image`.
    """
    path, parts = Path(path), []

    def remember(size: tuple[int, int]) -> Window:
        parts.append(FramePart(choose(size), size, path.name))
        return parts[0].window

    return _decode_image(path, read_bytes(path), remember), parts[0]


def decode_image(path: Path, data: bytes, window: Window) -> UInt8[np.ndarray, "h w 3"]:
    """The window of a picture in a file's bytes, as `read_image` reads it.

    Raises:
        DamagedFile: As `read_image`.
    """
    return _decode_image(path, data, lambda size: window)


def chosen(path: Path, part: FramePart | None) -> Choose:
    """The window of a file that is read once its height and width are known: the part, or the whole."""
    return (lambda size: Window(0, 0, *size)) if part is None else partial(part.within, path)


def _decode_image(path: Path, data: bytes, choose: Choose) -> UInt8[np.ndarray, "h w 3"]:
    if data.startswith(png.SIGNATURE):
        chunks = png.split_png(path, data)
        header = png.header_of(chunks)
        if (header.depth, header.color_type) == (8, png.RGB):
            return stored_pixels(path, chunks, choose)
    else:
        require_possible_size(path, data)
    # Older OpenCV fills the missing part of a cut file with grey and returns it as if it were whole.
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise DamagedFile(path, "the JPEG data is cut off: no end marker after the last scan")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    image = decode(path, data, flags)
    if image.dtype != np.uint8:
        raise DamagedFile(path, f"has {image.dtype} values, a picture must have 8 bits a channel")
    return _swap_red_blue(choose(image.shape[:2]).of(image))


def write_image(path: Path | str, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes RGB as png or ppm (exact) or jpg (lossy, OpenCV's quality of 95).

    Raises:
        ValueError: Another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".ppm", ".jpg", ".jpeg"):
        raise ValueError(f"{path}: a picture is written to .png, .ppm or .jpg, not {suffix!r}")
    write_bytes(path, encode(suffix, _swap_red_blue(image)))


def holds_ids(path: Path | str) -> bool:
    """True where a png holds one number a pixel (grey or palette) rather than colours.

    Raises:
        DamagedFile: Not a png.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(26)
    if not head.startswith(png.SIGNATURE) or len(head) < 26:
        raise DamagedFile(path, "is no png file" if head else "is empty (0 bytes)")
    return head[25] in (png.GREY, png.PALETTE)


def read_ids(
    path: Path | str, part: FramePart | None = None
) -> UInt8[np.ndarray, "H W"] | Int32[np.ndarray, "H W"]:
    """Reads the numbers of a grey or palette png, of a palette the indices and never the colours.

    uint8 for up to 8 bits a pixel, int32 for 16. Numbers are as stored, also below 8 bits (0 and 1, not 255).

    Raises:
        DamagedFile: Not a png, cut off, or a png of colours.
    """
    path = Path(path)
    chunks, choose = png.split_png(path, read_bytes(path)), chosen(path, part)
    header = png.header_of(chunks)
    if header.color_type not in (png.GREY, png.PALETTE):
        raise DamagedFile(path, "holds colours, expected ids (a grey or palette png)")
    ids = stored_pixels(path, chunks, choose)[..., 0]
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
    write_bytes(path, encode(".png", ids))


def write_palette(path: Path | str, ids: UInt8[np.ndarray, "H W"], palette: UInt8[np.ndarray, "K 3"]) -> None:
    """Writes numbers as an 8-bit palette png: viewers show row k of `palette` (RGB), `read_ids` gives k.

    Raises:
        ValueError: Another suffix than .png, or an id that the palette lacks.
    """
    _require_png(path)
    if ids.max() >= len(palette):
        raise ValueError(f"ids: {ids.max()} found, the palette has {len(palette)} colours from 0")
    chunks = png.split_png(Path(path), encode(".png", ids))
    recast = png.header_of(chunks)._replace(color_type=png.PALETTE)
    parts = [(b"IHDR", bytes(recast)), (b"PLTE", palette.tobytes()), *chunks[1:]]
    write_bytes(path, png.join_png(parts))


def read_colors(path: Path | str, part: FramePart | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Reads labels stored as colours from a png: RGB as stored, a palette expanded, alpha dropped.

    Raises:
        DamagedFile: Not a png (lossy colours are no labels), cut off, grey, or 16 bits a channel.
    """
    path = Path(path)
    data, choose = read_bytes(path), chosen(path, part)
    chunks = png.split_png(path, data)
    header = png.header_of(chunks)
    if header.color_type not in (png.RGB, png.PALETTE, png.RGBA) or header.depth > 8:
        raise DamagedFile(path, f"expected colours of 8 bits, got {header.kind}")
    if header.color_type == png.RGB:
        return stored_pixels(path, chunks, choose)
    colors = decode(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return _swap_red_blue(choose(colors.shape[:2]).of(colors))


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


def stored_pixels(
    path: Path, chunks: png.Chunks, choose: Choose
) -> UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"]:
    """The window of a grey, palette or RGB png's samples as stored: of a palette the indices; R, G, B.

    Raises:
        DamagedFile: Its data is not what its header says.
    """
    header = png.header_of(chunks)
    if png.is_plain(header):
        return png.stored_pixels(path, chunks, choose(header.size))
    # OpenCV expands palettes and can't be told not to. Called grey, the same data decodes to indices.
    color_type = png.RGB if header.color_type == png.RGB else png.GREY
    bare = [(b"IHDR", bytes(header._replace(color_type=color_type)))]
    bare += [chunk for chunk in chunks if chunk[0] in (b"IDAT", b"IEND")]
    pixels = decode(path, png.join_png(bare), cv2.IMREAD_UNCHANGED)
    pixels = choose(pixels.shape[:2]).of(pixels)
    if header.depth < 8:
        pixels //= 255 // (2**header.depth - 1)  # Undoes the stretch of 1, 2 and 4 bits to 0..255.
    return _swap_red_blue(pixels) if pixels.ndim == 3 else pixels[..., None]


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


def _require_png(path: Path | str) -> None:
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: ids are written to .png, not {Path(path).suffix!r}")


def _swap_red_blue(image: Shaped[np.ndarray, "H W 3"]) -> Shaped[np.ndarray, "H W 3"]:
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
