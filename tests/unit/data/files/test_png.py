"""A png's pixels as stored, against files written by the specification and against OpenCV."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semraft.data.files import pictures, png
from semraft.sample import DamagedFile, Window
from tests.helpers import REAL_DATA, needs_real_data

HERE = Path("a.png")
CHANNELS = {png.GREY: 1, png.RGB: 3, png.PALETTE: 1, png.RGBA: 4}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, step of rows and of columns of each pass of an interlaced file."""


def filtered(pixels: np.ndarray, filters: list[int]) -> bytes:
    """Rows as a file has them, one byte after another as section 9 of the specification defines it."""
    ahead = pixels[0, 0].nbytes
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(len(pixels), -1)
    done = bytearray()
    for y, kind in enumerate(filters):
        done.append(kind)
        for x in range(rows.shape[1]):
            a = int(rows[y, x - ahead]) if x >= ahead else 0
            b = int(rows[y - 1, x]) if y else 0
            c = int(rows[y - 1, x - ahead]) if y and x >= ahead else 0
            nearest = min((a, b, c), key=lambda value, p=a + b - c: abs(value - p))
            guess = (0, a, b, (a + b) // 2, nearest)[kind]
            done.append((int(rows[y, x]) - guess) % 256)
    return bytes(done)


def chunks_of(pixels: np.ndarray, color_type: int, data: bytes, interlace: int = 0) -> png.Chunks:
    height, width = pixels.shape[:2]
    header = png.Header(width, height, 8 * pixels.itemsize, color_type, 0, 0, interlace)
    half = len(data) // 2  # Two chunks: data is one stream over all of them.
    return [(b"IHDR", bytes(header)), (b"IDAT", data[:half]), (b"IDAT", data[half:]), (b"IEND", b"")]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_filter_and_any_window(data: st.DataObject) -> None:
    """Red when: a filter is undone wrongly, by a row that was left out, or with another pixel's bytes."""
    height, width = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 6))
    color_type, dtype = data.draw(st.sampled_from(list(CHANNELS))), data.draw(st.sampled_from(["u1", "u2"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    filters = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    steps = data.draw(st.sampled_from([3, 256]))  # Few values: neighbours tie.
    pixels = rng.integers(0, steps, (height, width, CHANNELS[color_type])).astype(dtype)
    chunks = chunks_of(pixels, color_type, zlib.compress(filtered(pixels, filters)))
    window = Window(top, left, rows, columns)
    read = png.stored_pixels(HERE, chunks, window)
    assert read.dtype == np.dtype(dtype)
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, window.of(pixels))


@pytest.mark.parametrize(("color_type", "dtype"), [(png.RGB, "u2"), (png.RGB, "u1"), (png.PALETTE, "u1")])
def test_interlaced_files_are_read_too(rng: np.random.Generator, color_type: int, dtype: str) -> None:
    """By OpenCV, and as stored. Red when: it gives B, G, R, or colours of a palette."""
    pixels = rng.integers(0, 256, (9, 11, CHANNELS[color_type])).astype(dtype)
    passes = [pixels[top::down, left::right] for top, left, down, right in ADAM7]
    data = b"".join(filtered(part, [0] * len(part)) for part in passes if part.size)
    chunks = chunks_of(pixels, color_type, zlib.compress(data), interlace=1)
    assert not png.is_plain(png.header_of(chunks))
    window = Window(2, 3, 4, 5)
    read = pictures.stored_pixels(HERE, chunks, lambda size: window)
    np.testing.assert_array_equal(read, window.of(pixels))


@pytest.mark.parametrize("filters", [cv2.IMWRITE_PNG_FAST_FILTERS, cv2.IMWRITE_PNG_ALL_FILTERS])
def test_large_files_are_as_opencv_reads_them(rng: np.random.Generator, filters: int) -> None:
    """Its own rows of all filters. Red when: only small numbers and sizes come out right."""
    rough = rng.normal(128, 60, (40, 60, 3)).clip(0, 255).astype(np.uint8)
    image = cv2.resize(rough, (611, 403)) + rng.integers(0, 9, (403, 611, 3), dtype=np.uint8)
    data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_FILTER, filters])[1].tobytes()
    chunks = png.split_png(HERE, data)
    assert png.join_png(chunks) == data
    window = Window(101, 57, 200, 303)
    read = png.stored_pixels(HERE, chunks, window)
    np.testing.assert_array_equal(read[..., ::-1], window.of(image))


def test_what_is_wrong_with_the_data_is_damage(rng: np.random.Generator) -> None:
    """Checksums of chunks are right in all of them. Red when: what is missing becomes pixels."""
    pixels = rng.integers(0, 256, (6, 5, 3)).astype("u1")
    sound = zlib.compress(filtered(pixels, [1] * 6), 0)
    whole, upper = Window(0, 0, 6, 5), Window(1, 0, 2, 5)

    def read(data: bytes, window: Window) -> np.ndarray:
        return png.stored_pixels(HERE, chunks_of(pixels, png.RGB, data), window)

    missing = zlib.compress(filtered(pixels[:4], [1] * 4))
    with pytest.raises(DamagedFile, match="the png's data ends in row 4 of 6"):
        read(missing, whole)
    np.testing.assert_array_equal(read(missing, upper), upper.of(pixels))
    with pytest.raises(DamagedFile, match="can't be decoded"):
        read(b"nothing" + sound, upper)
    with pytest.raises(DamagedFile, match="can't be decoded"):
        read(sound[:-1] + bytes([sound[-1] ^ 1]), whole)
    unknown = filtered(pixels, [1] * 6)
    with pytest.raises(DamagedFile, match="a row has the filter 5"):
        read(zlib.compress(b"\5" + unknown[1:]), whole)


@pytest.mark.parametrize("window", [Window(0, 3, 2, 3), Window(5, 0, 2, 2)])
def test_a_window_beyond_the_picture_is_refused(window: Window) -> None:
    """Red when: compiled loops, which check no index, read the memory behind it."""
    pixels = np.zeros((6, 5, 3), np.uint8)
    chunks = chunks_of(pixels, png.RGB, zlib.compress(filtered(pixels, [0] * 6)))
    with pytest.raises(ValueError, match="goes beyond a picture of 5x6"):
        png.stored_pixels(HERE, chunks, window)


def test_a_chunk_below_the_window_is_proven_too() -> None:
    """Red when: reading less of a file means checking less of it."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    chunks = chunks_of(pixels, png.RGB, zlib.compress(filtered(pixels, [0] * 64), 0))
    data = bytearray(png.join_png(chunks))
    data[-100] ^= 1
    with pytest.raises(DamagedFile, match="checksum fails"):
        pictures.decode_image(HERE, bytes(data), Window(0, 0, 2, 2))


def test_a_header_without_pixels_is_damage() -> None:
    header = png.Header(0, 3, 8, png.RGB, 0, 0, 0)
    data = png.join_png([(b"IHDR", bytes(header)), (b"IDAT", zlib.compress(b"\0\0\0")), (b"IEND", b"")])
    assert struct.unpack(">II", data[16:24]) == (0, 3)
    with pytest.raises(DamagedFile, match="says 0x3"):
        pictures.decode_image(HERE, data, Window(0, 0, 3, 0))


def real_files_as_stored() -> list[Path]:
    """Those that OpenCV gives as they are stored too: it replaces a palette's numbers by colours."""
    headers = {
        path: png.header_of(png.split_png(path, path.read_bytes())) for path in REAL_DATA.rglob("*.png")
    }
    plain = [path for path, header in headers.items() if png.is_plain(header)]
    return sorted(path for path in plain if headers[path].color_type != png.PALETTE)


@needs_real_data
@pytest.mark.parametrize("path", real_files_as_stored(), ids=lambda path: path.name)
def test_real_files_are_as_opencv_reads_them(path: Path) -> None:
    """Frames, flow and labels of the public data sets. Red when: their filters or depths come out wrong."""
    data = path.read_bytes()
    chunks = png.split_png(path, data)
    height, width = png.header_of(chunks).size
    window = Window(height // 3, width // 4, height // 2, width // 2)
    read = png.stored_pixels(path, chunks, window)
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).reshape(height, width, -1)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[whole.shape[2]]
    np.testing.assert_array_equal(read, window.of(whole)[..., order])
