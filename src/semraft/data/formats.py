"""Files to arrays and back: flow, images, label ids, label colours, masks.

Not for what the ids and colours mean (`taxonomy`) nor for where a data set keeps its files (one module each).

Every reader raises FileNotFoundError for a file that is not there and DamagedFile for one that does not hold
what it should; a wrong call is a ValueError.
"""

import io
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Integer, Shaped, UInt8, UInt16

from semraft.sample import DamagedFile

Encoding = Literal["kitti", "virtual-kitti"]

UNKNOWN_FLOW_PX = 1e9
"""Middlebury's rule for .flo and .pfm: a larger component, and NaN, means that the flow is unknown."""
VIPER_LIMIT_PX = 512.0
"""A VIPER component this large or larger is invalid, as is NaN or Inf (the rule of its benchmark)."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_GREY, _PNG_RGB, _PNG_PALETTE, _PNG_RGBA = 0, 2, 3, 6
_PFM_HEADER = re.compile(rb"(PF|Pf)\s+(\d+)\s+(\d+)\s+(-?)[\d.]\S*\s")


def read_flow(
    path: Path | str, encoding: Encoding | None = None
) -> tuple[Float32[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    """Reads flow and its validity from a .flo, .pfm, .png or .npz file.

    Pixels, u right and v down; invalid flow is 0, never NaN. Invalid is: in .flo and .pfm a component beyond
    1e9 or not finite; in .png a third channel of 0; in .npz (VIPER: float16 `u`, `v`) a component not finite
    or of 512 px and more. `encoding` is needed for .png alone, which can't say whether it is KITTI's,
    u = (R - 32768) / 64, or Virtual KITTI's, u = (2 R / 65535 - 1) (W - 1), with v from G and H.

    Raises:
        ValueError: A .png without encoding, or a suffix that is none of the four.
        DamagedFile: Truncated, wrong magic or size, 8-bit png, missing npz key.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".flo":
            flow = _read_flo(path)
            valid = _largest_component(flow) <= UNKNOWN_FLOW_PX
        case ".pfm":
            values = read_pfm(path)
            if values.ndim != 3:
                raise DamagedFile(path, "has one channel (Pf), flow needs three (PF)")
            flow = values[..., :2].copy()
            valid = _largest_component(flow) <= UNKNOWN_FLOW_PX
        case ".png":
            flow, valid = _read_flow_png(path, _require_encoding(path, encoding))
        case ".npz":
            flow = _read_flow_npz(path)
            valid = _largest_component(flow) < VIPER_LIMIT_PX
        case _:
            raise ValueError(f"{path}: flow is read from .flo, .pfm, .png or .npz, not {path.suffix!r}")
    for component in (0, 1):  # Each by itself: indexing both by a mask takes ten times as long.
        np.copyto(flow[..., component], 0, where=~valid)
    return flow, valid


def write_flow(
    path: Path | str,
    flow: Float[np.ndarray, "H W C"],
    valid: Bool[np.ndarray, "H W"] | None = None,
    encoding: Encoding | None = None,
) -> int:
    """Writes flow `H W 2` as `read_flow` reads it, and returns the number of pixels written as valid.

    Reading gives back .flo and .pfm exactly, in float32; KITTI png within 1/128 px; Virtual KITTI png within
    (W - 1) / 65535 px in u and (H - 1) / 65535 px in v; VIPER npz within half a float16 step, 1/8 px at most.
    A valid pixel that the encoding can't hold (KITTI beyond -512..511.984 px, Virtual KITTI beyond W - 1 or
    H - 1, VIPER from 512 px) is written as invalid, since clipping would falsify it: the returned number says
    so. Without `valid`, whatever is finite is valid. Invalid pixels get the format's own sign: 1e10 in .flo,
    NaN in .pfm and .npz, third channel 0 in .png.

    Raises:
        ValueError: Wrong shape, a .png without encoding, an unknown suffix, NaN or Inf called valid.
    """
    path = Path(path)
    flow, valid = _check_flow(flow, valid)
    match path.suffix.lower():
        case ".flo":
            valid &= _largest_component(flow) <= UNKNOWN_FLOW_PX
            height, width = valid.shape
            known = np.where(valid[..., None], flow, np.float32(1e10))
            path.write_bytes(b"PIEH" + struct.pack("<ii", width, height) + known.astype("<f4").tobytes())
        case ".pfm":
            valid &= _largest_component(flow) <= UNKNOWN_FLOW_PX
            known = np.where(valid[..., None], flow, np.float32(np.nan))
            write_pfm(path, np.dstack([known, np.zeros(valid.shape, np.float32)]))
        case ".png":
            raw, valid = _encode_flow_png(flow, valid, _require_encoding(path, encoding))
            path.write_bytes(_encode(".png", raw))
        case ".npz":
            valid &= _largest_component(flow) < VIPER_LIMIT_PX
            half = np.where(valid[..., None], flow, np.float32(np.nan)).astype(np.float16)
            valid &= _largest_component(half) < VIPER_LIMIT_PX  # 511.9 rounds to 512.
            half[~valid] = np.nan
            with path.open("wb") as file:
                np.savez_compressed(file, u=half[..., 0], v=half[..., 1])
        case _:
            raise ValueError(f"{path}: flow is written to .flo, .pfm, .png or .npz, not {path.suffix!r}")
    return int(valid.sum())


def read_pfm(path: Path | str) -> Float32[np.ndarray, "H W ..."]:
    """Reads a portable float map, `H W` (Pf) or `H W 3` (PF), top row first although the file has it last.

    Values as stored: of the scale only the sign is used (negative is little endian), as all writers do.

    Raises:
        DamagedFile: Wrong magic, or more or fewer bytes than the header says.
    """
    path = Path(path)
    data = _read_bytes(path)
    header = _PFM_HEADER.match(data)
    if header is None:
        raise DamagedFile(path, f"starts with {data[:16]!r}, which is no header of a .pfm file")
    channels = 3 if header[1] == b"PF" else 1
    width, height = int(header[2]), int(header[3])
    _check_size(path, width, height, len(data), header.end() + 4 * channels * width * height)
    values = np.frombuffer(data, "<f4" if header[4] else ">f4", offset=header.end())
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.flipud(values.reshape(shape)).astype(np.float32)


def write_pfm(path: Path | str, values: Float[np.ndarray, "H W ..."]) -> None:
    """Writes `H W` or `H W 3` as a portable float map, little endian, exact in float32."""
    if values.shape[2:] not in ((), (3,)) or values.size == 0:
        raise ValueError(f"values: shape {values.shape}, expected (H, W) or (H, W, 3)")
    height, width = values.shape[:2]
    header = f"{'PF' if values.ndim == 3 else 'Pf'}\n{width} {height}\n-1.0\n".encode()
    Path(path).write_bytes(header + np.flipud(values).astype("<f4").tobytes())


def read_image(path: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture (jpg, png, ppm) as RGB 0..255; grey is repeated, alpha dropped.

    The grid is the file's own: an EXIF orientation is not applied, as flow and labels know nothing of it.

    Raises:
        DamagedFile: Undecodable, cut off, or not 8 bits a channel.
    """
    path = Path(path)
    data = _read_bytes(path)
    # Older OpenCV fills the missing part of a cut file with grey and returns it as if it were whole.
    if data.startswith(_PNG_SIGNATURE):
        _split_png(path, data)
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise DamagedFile(path, "the JPEG data is cut off: no end marker after the last scan")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    image = _decode(path, data, flags)
    if image.dtype != np.uint8:
        raise DamagedFile(path, f"has {image.dtype} values, a picture must have 8 bits a channel")
    return _swap_red_blue(image)


def write_image(path: Path | str, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes RGB as png or ppm (exact) or jpg (lossy, OpenCV's quality of 95).

    Raises:
        ValueError: Another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".ppm", ".jpg", ".jpeg"):
        raise ValueError(f"{path}: a picture is written to .png, .ppm or .jpg, not {suffix!r}")
    Path(path).write_bytes(_encode(suffix, _swap_red_blue(image)))


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


def read_ids(path: Path | str) -> UInt8[np.ndarray, "H W"] | Int32[np.ndarray, "H W"]:
    """Reads the numbers of a grey or palette png, of a palette the indices and never the colours.

    uint8 for up to 8 bits a pixel, int32 for 16. Numbers are as stored, also below 8 bits (0 and 1, not 255).

    Raises:
        DamagedFile: Not a png, cut off, or a png of colours.
    """
    path = Path(path)
    chunks = _split_png(path, _read_bytes(path))
    header = chunks[0][1]
    depth, color_type = header[8], header[9]
    if color_type not in (_PNG_GREY, _PNG_PALETTE):
        raise DamagedFile(path, "holds colours, expected ids (a grey or palette png)")
    # OpenCV expands palettes and can't be told not to. Called grey, the same pixel data decodes to indices.
    grey = [(b"IHDR", header[:9] + bytes([_PNG_GREY]) + header[10:])]
    grey += [chunk for chunk in chunks if chunk[0] in (b"IDAT", b"IEND")]
    ids = _decode(path, _join_png(grey), cv2.IMREAD_UNCHANGED)
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
    Path(path).write_bytes(_encode(".png", ids))


def write_palette(path: Path | str, ids: UInt8[np.ndarray, "H W"], palette: UInt8[np.ndarray, "K 3"]) -> None:
    """Writes numbers as an 8-bit palette png: viewers show row k of `palette` (RGB), `read_ids` gives k.

    Raises:
        ValueError: Another suffix than .png, or an id that the palette lacks.
    """
    _require_png(path)
    if ids.max() >= len(palette):
        raise ValueError(f"ids: {ids.max()} found, the palette has {len(palette)} colours from 0")
    header, *rest = _split_png(Path(path), _encode(".png", ids))
    recast = header[1][:9] + bytes([_PNG_PALETTE]) + header[1][10:]
    Path(path).write_bytes(_join_png([(b"IHDR", recast), (b"PLTE", palette.tobytes()), *rest]))


def read_colors(path: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """Reads labels stored as colours from a png: RGB as stored, a palette expanded, alpha dropped.

    Raises:
        DamagedFile: Not a png (lossy colours are no labels), cut off, grey, or 16 bits a channel.
    """
    path = Path(path)
    data = _read_bytes(path)
    depth, color_type = _split_png(path, data)[0][1][8:10]
    if color_type not in (_PNG_RGB, _PNG_PALETTE, _PNG_RGBA) or depth > 8:
        raise DamagedFile(path, f"expected colours of 8 bits, got {_png_kind(depth, color_type)}")
    return _swap_red_blue(_decode(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION))


def read_mask(path: Path | str) -> Bool[np.ndarray, "H W"]:
    """Reads a png as a mask: True where a pixel is not 0 (of colours: not black).

    Raises:
        DamagedFile: Not a png, or cut off.
    """
    values = read_ids(path)[..., None] if holds_ids(path) else read_colors(path)
    mask: Bool[np.ndarray, "H W"] = np.any(values != 0, axis=-1)
    return mask


def write_mask(path: Path | str, mask: Bool[np.ndarray, "H W"]) -> None:
    """Writes a mask as a grey png, 255 where True."""
    write_ids(path, mask.astype(np.uint8) * np.uint8(255))


def _read_flo(path: Path) -> Float32[np.ndarray, "H W 2"]:
    data = _read_bytes(path)
    if data[:4] != b"PIEH" or len(data) < 12:
        raise DamagedFile(path, f"starts with {data[:12]!r}, expected b'PIEH', width and height")
    width, height = struct.unpack("<ii", data[4:12])
    _check_size(path, width, height, len(data), 12 + 8 * width * height)
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)


def _read_flow_npz(path: Path) -> Float32[np.ndarray, "H W 2"]:
    data = _read_bytes(path)
    if not data.startswith(b"PK"):
        raise DamagedFile(path, "is no npz archive")
    try:
        with np.load(io.BytesIO(data)) as archive:
            keys = sorted(archive.files)
            arrays = [archive[key] for key in ("u", "v") if key in keys]
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedFile(path, f"the npz archive can't be read: {error}") from error
    if len(arrays) != 2:
        raise DamagedFile(path, f"has the keys {keys}, expected u and v")
    u, v = arrays
    if u.ndim != 2 or u.size == 0 or u.shape != v.shape or u.dtype.kind != "f" or v.dtype.kind != "f":
        found = f"u {u.dtype}{u.shape} and v {v.dtype}{v.shape}"
        raise DamagedFile(path, f"has {found}, expected two float arrays of one height and width")
    return np.stack([u, v], axis=-1).astype(np.float32)


def _read_flow_png(
    path: Path, encoding: Encoding
) -> tuple[Float32[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    data = _read_bytes(path)
    depth, color_type = _split_png(path, data)[0][1][8:10]
    if (depth, color_type) != (16, _PNG_RGB):
        raise DamagedFile(path, f"expected flow in 16-bit RGB, got {_png_kind(depth, color_type)}")
    raw = _decode(path, data, cv2.IMREAD_UNCHANGED)
    scale, offset = _png_scale(encoding, *raw.shape[:2])
    flow = np.empty((*raw.shape[:2], 2), np.float32)
    for component, channel in enumerate((2, 1)):  # OpenCV orders B, G, R.
        flow[..., component] = raw[..., channel] * scale[component] + offset[component]
    return flow, raw[..., 0] != 0


def _encode_flow_png(
    flow: Float32[np.ndarray, "H W 2"], valid: Bool[np.ndarray, "H W"], encoding: Encoding
) -> tuple[UInt16[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    height, width = valid.shape
    if encoding == "virtual-kitti" and min(height, width) < 2:
        raise ValueError(f"flow: {width}x{height}, Virtual KITTI's encoding needs 2x2 pixels at least")
    scale, offset = _png_scale(encoding, height, width)
    raw = np.rint((flow - offset) / scale)
    valid = valid & ((raw >= 0) & (raw <= 65535)).all(-1)
    raw = np.where(valid[..., None], raw, 32768)  # What real KITTI files hold where nothing is known.
    flag = np.where(valid, 1 if encoding == "kitti" else 65535, 0)
    return np.dstack([flag, raw[..., 1], raw[..., 0]]).astype(np.uint16), valid


def _png_scale(
    encoding: Encoding, height: int, width: int
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """Scale and offset of (u, v) = raw * scale + offset."""
    if encoding == "kitti":
        return np.full(2, 1 / 64), np.full(2, -512.0)
    extent_px = np.array([width - 1.0, height - 1.0])
    return 2 * extent_px / 65535, -extent_px


def _largest_component(flow: Float[np.ndarray, "H W 2"]) -> Float[np.ndarray, "H W"]:
    """max(|u|, |v|), and NaN where either is: below any limit only if both are."""
    largest: Float[np.ndarray, "H W"] = np.maximum(np.abs(flow[..., 0]), np.abs(flow[..., 1]))
    return largest


def _check_flow(
    flow: Float[np.ndarray, "H W C"], valid: Bool[np.ndarray, "H W"] | None
) -> tuple[Float32[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    if flow.ndim != 3 or flow.shape[2] != 2 or flow.size == 0:
        raise ValueError(f"flow: shape {flow.shape}, expected (H, W, 2)")
    finite = np.isfinite(flow).all(-1)
    if valid is None:
        return flow.astype(np.float32), finite
    if valid.shape != finite.shape or valid.dtype != np.bool_:
        raise ValueError(f"valid: {valid.dtype}{valid.shape}, expected bool{finite.shape} as flow")
    if (valid & ~finite).any():
        raise ValueError(f"flow: NaN or Inf in {(valid & ~finite).sum()} pixels that `valid` calls valid")
    return flow.astype(np.float32), valid.copy()


def _require_encoding(path: Path, encoding: Encoding | None) -> Encoding:
    if encoding not in ("kitti", "virtual-kitti"):
        raise ValueError(f'{path}: encoding {encoding!r}, a png needs encoding="kitti" or "virtual-kitti"')
    return encoding


def _require_png(path: Path | str) -> None:
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: ids are written to .png, not {Path(path).suffix!r}")


def _read_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if not data:
        raise DamagedFile(path, "is empty (0 bytes)")
    return data


def _check_size(path: Path, width: int, height: int, size: int, expected: int) -> None:
    if width <= 0 or height <= 0 or size != expected:
        raise DamagedFile(path, f"says {width}x{height}, which takes {expected} bytes; the file has {size}")


def _decode(path: Path, data: bytes, flags: int) -> Shaped[np.ndarray, "H W ..."]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DamagedFile(path, f"can't be decoded: {error}") from error
    if image is None:
        raise DamagedFile(path, "can't be decoded as an image")
    return image


def _encode(suffix: str, image: Shaped[np.ndarray, "H W ..."]) -> bytes:
    done, data = cv2.imencode(suffix, image)
    if not done:
        raise ValueError(f"image: {image.dtype}{image.shape} can't be encoded as {suffix}")
    return data.tobytes()


def _swap_red_blue(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _split_png(path: Path, data: bytes) -> list[tuple[bytes, bytes]]:
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


def _join_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [_PNG_SIGNATURE]
    for kind, body in chunks:
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))]
    return b"".join(parts)


def _png_kind(depth: int, color_type: int) -> str:
    names = {_PNG_GREY: "grey", _PNG_RGB: "RGB", _PNG_PALETTE: "palette", _PNG_RGBA: "RGBA"}
    return f"{'an' if depth == 8 else 'a'} {depth}-bit {names.get(color_type, 'grey and alpha')} png"
