"""Arrays of .npz and .npy files: kinds and sizes are checked in the headers before anything is inflated.

Never through `numpy.load`: an array of objects is refused by its header.
"""

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from semraft.records import DamagedFile, read_bytes

MOST_PIXELS = 2**26
"""Largest frame that is read from any file: 67 million pixels, twice those of 8K. Larger ones are refused by
their header, before memory is taken for them."""
MOST_TEXT_BYTES = 4096
"""Longest text that is read from an array."""
MOST_INFLATED = 1032
"""Bytes that one byte of a deflated stream can stand for (zlib's own limit)."""

Layout = tuple[str, str]
"""Type, as `numpy.dtype.name` begins, and dimensions: ("float16", "H W 2"). A letter is one number in all."""


def require_size(path: Path, height: int, width: int, most: int = MOST_PIXELS) -> None:
    """Checks that a frame has pixels, and no more than MOST_PIXELS and than its file can hold.

    Raises:
        DamagedFile: It has not.
    """
    if min(height, width) < 1 or height * width > MOST_PIXELS:
        limits = f"pictures of 1 to {MOST_PIXELS:,} pixels are read"
        raise DamagedFile(path, f"says {width}x{height} (width x height): {limits}")
    if height * width > most:
        raise DamagedFile(path, f"says {width}x{height} (width x height), which it is too short for")


def npz_keys(path: Path) -> list[str]:
    """The names of the arrays in a .npz file.

    Raises:
        DamagedFile: No archive.
    """
    with _readable(path), zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_npz(path: Path, layout: Mapping[str, Layout], may_lack: Sequence[str] = ()) -> dict[str, Any]:
    """The arrays of these names, each of its layout; others are passed over.

    Raises:
        DamagedFile: No archive, an array that is missing, damaged, too large, or of another layout.
    """
    sizes: dict[str, int] = {}
    found: dict[str, Any] = {}
    with _readable(path), zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        if absent := layout.keys() - names - set(may_lack):
            raise DamagedFile(path, f"has the arrays {sorted(names)}, it lacks {sorted(absent)}")
        for name in [name for name in layout if name in names]:
            entry = archive.getinfo(f"{name}.npy")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DamagedFile(path, f"{name} is compressed in a way that numpy does not use")
            with archive.open(entry) as member:
                found[name] = _array(path, name, member, entry.file_size, layout[name], sizes)
    return found


def read_npy(path: Path, layout: Layout) -> Any:
    """The array of a .npy file.

    Raises:
        DamagedFile: None, or one that is damaged, too large, or of another layout.
    """
    content = read_bytes(path)
    with _readable(path):
        return _array(path, "the array", io.BytesIO(content), len(content), layout, {})


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what numpy, zipfile and zlib raise of bad content into a DamagedFile."""
    try:
        yield
    except DamagedFile:
        raise
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, KeyError),
        *(TypeError, OverflowError, struct.error, tokenize.TokenError),  # Of their parsers of headers.
    ) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # The file can't be opened: nothing is known of its content.
        raise DamagedFile(path, f"its arrays can't be read: {error}") from error


def _array(
    path: Path,
    name: str,
    member: IO[bytes] | io.BufferedIOBase,
    size: int,
    layout: Layout,
    sizes: dict[str, int],
) -> np.ndarray:
    version = np.lib.format.read_magic(member)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, is_fortran, dtype = read_header(member)
    _require_layout(path, name, shape, dtype, layout, sizes)
    count = math.prod(shape)
    if size != member.tell() + count * dtype.itemsize:
        raise DamagedFile(path, f"{name} is longer or shorter than its header says")
    values = np.frombuffer(member.read(count * dtype.itemsize), dtype, count)
    return values.reshape(shape, order="F" if is_fortran else "C")


def _require_layout(
    path: Path,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    layout: Layout,
    sizes: dict[str, int],
) -> None:
    kind, dimensions = layout
    expected = dimensions.split()
    fits = dtype.name.startswith(kind) and len(shape) == len(expected) and min(shape, default=1) >= 1
    for word, size in zip(expected, shape, strict=False) if fits else ():
        fits = fits and size == (int(word) if word.isdigit() else sizes.setdefault(word, size))
    if not fits:
        found = f"{dtype}{shape}" if dtype.kind != "O" else "objects"
        known = " ".join(str(sizes.get(word, word)) for word in expected)
        raise DamagedFile(path, f"{name} is {found}, expected {kind} of shape ({known})")
    if math.prod(shape) > 3 * MOST_PIXELS:
        raise DamagedFile(path, f"{name} says {shape}: up to {3 * MOST_PIXELS:,} values are read")
    if dtype.itemsize > (MOST_TEXT_BYTES if dtype.kind == "U" else 8):
        raise DamagedFile(path, f"{name} has values of {dtype.itemsize} bytes each")
