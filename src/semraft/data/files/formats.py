"""Flow files to arrays and back: .flo, .pfm, the 16-bit pngs of KITTI and Virtual KITTI, .npz and .npy.

Not for images, labels and masks (`pictures`) nor for where a data set keeps its files (one module each).

Every reader raises FileNotFoundError for a file that is not there and DamagedFile for one that does not hold
what it should; a wrong call is a ValueError.
"""

import re
import struct
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt16

from semraft.data.files import png
from semraft.data.files.pictures import chosen, encode, stored_pixels
from semraft.npz import npz_keys, read_npy, read_npz, require_size
from semraft.records import read_bytes
from semraft.sample import DamagedFile, FramePart
from semraft.writing import whole_file, write_bytes

Encoding = Literal["kitti", "virtual-kitti"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
"""Encodings of flow in a 16-bit png."""

UNKNOWN_FLOW_PX = 1e9
"""Middlebury's rule for .flo and .pfm: a larger component, and NaN, means that the flow is unknown."""
VIPER_LIMIT_PX = 512.0
"""A VIPER component this large or larger is invalid, as is NaN or Inf (the rule of its benchmark)."""

_VIPER = {"u": ("float", "H W"), "v": ("float", "H W")}
_ALONE = ("float", "A B C")
_PFM_HEADER = re.compile(rb"(PF|Pf)\s+(\d{1,9})\s+(\d{1,9})\s+(-?)[\d.]\S*\s")


def read_flow(
    path: Path | str, encoding: Encoding | None = None, part: FramePart | None = None
) -> tuple[Float32[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    """Reads flow and its validity from a .flo, .pfm, .png, .npz or .npy file.

    Pixels, u right and v down; invalid flow is 0, never NaN. Invalid is: in .flo and .pfm a component beyond
    1e9 or not finite; in .png a third channel of 0; in .npz (VIPER: float16 `u`, `v`) a component not finite
    or of 512 px and more. A .npy file, or a .npz file with a single array, holds `H W 2` or `2 H W` and
    follows the rule of .flo.

    `encoding` is needed for .png alone, whose two encodings look alike: KITTI's, u = (R - 32768) / 64, and
    Virtual KITTI's, u = (2 R / 65535 - 1) (W - 1), with v from G and H. With `part` its window only.

    Raises:
        ValueError: A .png without encoding, or a suffix that is none of the five.
        DamagedFile: Truncated, wrong magic or size, 8-bit png, npz keys or shapes that are no flow.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".flo":
            flow = _part(path, _read_flo(path), part)
            valid = _largest_component(flow) <= UNKNOWN_FLOW_PX
        case ".pfm":
            values = read_pfm(path)
            if values.ndim != 3:
                raise DamagedFile(path, "has one channel (Pf), flow needs three (PF)")
            flow = _part(path, values[..., :2], part)
            valid = _largest_component(flow) <= UNKNOWN_FLOW_PX
        case ".png":
            flow, valid = _read_flow_png(path, _require_encoding(path, encoding), part)
        case ".npz" | ".npy":
            arrays = _read_arrays(path)
            if len(arrays) == 1 and not {"u", "v"} & arrays.keys():
                flow = _part(path, _channels_last(path, next(iter(arrays.values()))), part)
                valid = _largest_component(flow) <= UNKNOWN_FLOW_PX
            else:
                flow = _viper_flow(path, arrays, part)
                valid = _largest_component(flow) < VIPER_LIMIT_PX
        case _:
            raise ValueError(f"{path}: flow is read from .flo, .pfm, .png, .npz or .npy, not {path.suffix!r}")
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
    H - 1, VIPER from 512 px) is written as invalid, since clipping would falsify it, and is not counted.
    Without `valid`, whatever is finite is valid. Invalid pixels get the sign of the format: 1e10 in .flo,
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
            write_bytes(path, b"PIEH" + struct.pack("<ii", width, height) + known.astype("<f4").tobytes())
        case ".pfm":
            valid &= _largest_component(flow) <= UNKNOWN_FLOW_PX
            known = np.where(valid[..., None], flow, np.float32(np.nan))
            write_pfm(path, np.dstack([known, np.zeros(valid.shape, np.float32)]))
        case ".png":
            raw, valid = _encode_flow_png(flow, valid, _require_encoding(path, encoding))
            write_bytes(path, encode(".png", raw))
        case ".npz":
            valid &= _largest_component(flow) < VIPER_LIMIT_PX
            half = np.where(valid[..., None], flow, np.float32(np.nan)).astype(np.float16)
            valid &= _largest_component(half) < VIPER_LIMIT_PX  # 511.9 rounds to 512.
            half[~valid] = np.nan
            with whole_file(path) as file:
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
    data = read_bytes(path)
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
    write_bytes(path, header + np.flipud(values).astype("<f4").tobytes())


def _read_flo(path: Path) -> Float32[np.ndarray, "H W 2"]:
    data = read_bytes(path)
    if data[:4] != b"PIEH" or len(data) < 12:
        raise DamagedFile(path, f"starts with {data[:12]!r}, expected b'PIEH', width and height")
    width, height = struct.unpack("<ii", data[4:12])
    _check_size(path, width, height, len(data), 12 + 8 * width * height)
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of flow in a .npz file by key, or that of a .npy file."""
    if path.suffix.lower() == ".npy":
        return {"": read_npy(path, _ALONE)}
    keys = npz_keys(path)
    is_alone = len(keys) == 1 and not {"u", "v"} & set(keys)
    return read_npz(path, {keys[0]: _ALONE} if is_alone else _VIPER)


def _channels_last(path: Path, array: np.ndarray) -> Float[np.ndarray, "H W 2"]:
    """Flow stored as `H W 2` or `2 H W`, the latter turned round."""
    if 2 not in (array.shape[0], array.shape[2]):
        raise DamagedFile(path, f"has shape {array.shape}, expected floats of shape (H, W, 2) or (2, H, W)")
    return array if array.shape[2] == 2 else np.moveaxis(array, 0, 2)


def _viper_flow(
    path: Path, arrays: dict[str, np.ndarray], part: FramePart | None
) -> Float32[np.ndarray, "H W 2"]:
    u, v = (array if part is None else part.of(path, array) for array in (arrays["u"], arrays["v"]))
    with np.errstate(over="ignore"):  # Of float64 beyond float32: infinite, which is no flow.
        return np.stack([u, v], axis=-1).astype(np.float32)


def _read_flow_png(
    path: Path, encoding: Encoding, part: FramePart | None
) -> tuple[Float32[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    data = read_bytes(path)
    chunks = png.split_png(path, data)
    header = png.header_of(chunks)
    if (header.depth, header.color_type) != (16, png.RGB):
        raise DamagedFile(path, f"expected flow in 16-bit RGB, got {header.kind}")
    raw = stored_pixels(path, chunks, chosen(path, part))
    if encoding == "kitti" and (largest := int(raw[..., 2].max())) > 1:
        reason = f"its third channel holds {largest}, KITTI's is 0 (invalid) or 1 (valid)"
        raise DamagedFile(path, f"{reason}: another encoding, or channels in another order")
    scale, offset = _png_scale(encoding, *header.size)
    flow = np.empty((*raw.shape[:2], 2), np.float32)
    for component in range(2):
        flow[..., component] = raw[..., component] * scale[component] + offset[component]
    return flow, raw[..., 2] != 0


def _part(
    path: Path, flow: Float[np.ndarray, "H W 2"], part: FramePart | None
) -> Float32[np.ndarray, "h w 2"]:
    return (flow if part is None else part.of(path, flow)).astype(np.float32)


def _encode_flow_png(
    flow: Float32[np.ndarray, "H W 2"], valid: Bool[np.ndarray, "H W"], encoding: Encoding
) -> tuple[UInt16[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    height, width = valid.shape
    if encoding == "virtual-kitti" and min(height, width) < 2:
        raise ValueError(f"flow: {width}x{height}, Virtual KITTI's encoding needs 2x2 pixels at least")
    scale, offset = _png_scale(encoding, height, width)
    raw = np.rint((flow - offset) / scale)
    valid = valid & ((raw >= 0) & (raw <= 65535)).all(-1)
    raw = np.where(valid[..., None], raw, 32768)  # As in real KITTI files where nothing is known.
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


def _check_size(path: Path, width: int, height: int, size: int, expected: int) -> None:
    require_size(path, height, width)
    if size != expected:
        raise DamagedFile(path, f"says {width}x{height}, which takes {expected} bytes; the file has {size}")
