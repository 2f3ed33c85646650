"""Files that say they are huge: refused by their headers, before memory is taken for them."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semraft.data.files import png
from semraft.data.files.formats import read_flow
from semraft.data.files.pictures import read_image
from semraft.models.weights import load_model
from semraft.records import DamagedFile


def png_of(side: int) -> bytes:
    data = zlib.compress(bytes(999))
    header = png.Header(side, side, 8, png.RGB, 0, 0, 0)
    return png.join_png([(b"IHDR", bytes(header)), (b"IDAT", data), (b"IEND", b"")])


BMP = b"BM" + bytes(12) + struct.pack("<Iii", 40, 30000, -30000)


def jpg_of(side: int) -> bytes:
    """A sound jpg of 64x64 with another size in its header."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def npz_of(shape: tuple[int, int], inflated: int, way: int) -> bytes:
    buffer = io.BytesIO()
    text = repr({"descr": "<f2", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    with zipfile.ZipFile(buffer, "w", way) as archive:
        for name in ("u.npy", "v.npy"):
            archive.writestr(
                name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(inflated)
            )
    return buffer.getvalue()


def deflated_checkpoint() -> bytes:
    buffer, packed = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return packed.getvalue()


BOMBS: dict[str, tuple[str, bytes, Callable[[Path], object], str]] = {
    "png of many pixels": (
        "a.png",
        png_of(20000),
        read_image,
        "pixels are read",
    ),
    "png with little data": (
        "a.png",
        png_of(4000),
        read_image,
        "too short for",
    ),
    "jpg of many pixels": ("a.jpg", jpg_of(30000), read_image, "pixels are read"),
    "jpg with little data": ("a.jpg", jpg_of(3000), read_image, "too short for"),
    "ppm": ("a.ppm", b"P6\n30000 30000\n255\n1234", read_image, "pixels are read"),
    "ppm with a comment": ("a.ppm", b"P6\n# c\n3000 3000\n255\n1234", read_image, "too short for"),
    "bmp": (
        "a.bmp",
        b"BM" + bytes(12) + struct.pack("<Iii", 40, 30000, -30000),
        read_image,
        "pixels are read",
    ),
    "tiff": ("a.png", b"II*\0" + bytes(99), read_image, "no png, jpg, ppm"),
    "npz": ("a.npz", npz_of((768000, 1024), 9, zipfile.ZIP_DEFLATED), read_flow, "values are read"),
    "npz of more": (
        "a.npz",
        npz_of((3, 4), 9999, zipfile.ZIP_DEFLATED),
        read_flow,
        "longer or",
    ),
    "npz by LZMA": ("a.npz", npz_of((3, 4), 24, zipfile.ZIP_LZMA), read_flow, "numpy does not use"),
    "pfm of many digits": ("a.pfm", b"PF\n" + b"9" * 5000 + b" 1\n-1.0\n", read_flow, "no header"),
    "checkpoint": ("a.pt", deflated_checkpoint(), load_model, "torch does not deflate"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_header(name: str, tmp_path: Path) -> None:
    """Red when: a file is decoded before its size is known: 3 MB took 15 GB."""
    file, content, read, reason = BOMBS[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DamagedFile, match=f"{file}: .*{reason}"):
        read(tmp_path / file)
