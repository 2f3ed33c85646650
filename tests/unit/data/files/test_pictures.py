"""Pictures to arrays and back: images, ids, colours and masks, what each kind can get wrong."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from semraft.data.files.pictures import (
    holds_ids,
    read_colors,
    read_ids,
    read_image,
    read_mask,
    write_ids,
    write_image,
    write_mask,
    write_palette,
)
from semraft.sample import DamagedFile
from tests.unit.data.fake_trees import png16

HEIGHT, WIDTH = 7, 11


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def mask(rng: np.random.Generator) -> np.ndarray:
    return rng.random((HEIGHT, WIDTH)) > 0.3


# --- images


@pytest.mark.parametrize("suffix", ["png", "ppm", "PNG"])
def test_images_round_trip_exactly(tmp_path: Path, image: np.ndarray, suffix: str) -> None:
    write_image(tmp_path / f"a.{suffix}", image)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), image)


def test_images_are_rgb(tmp_path: Path) -> None:
    """Red when: OpenCV's B, G, R is passed on (a reader and a writer wrong alike would agree)."""
    (tmp_path / "a.ppm").write_bytes(b"P6\n2 1\n255\n" + bytes([200, 100, 50, 7, 8, 9]))
    np.testing.assert_array_equal(read_image(tmp_path / "a.ppm"), [[(200, 100, 50), (7, 8, 9)]])
    write_image(tmp_path / "b.ppm", read_image(tmp_path / "a.ppm"))
    assert (tmp_path / "b.ppm").read_bytes().endswith(bytes([200, 100, 50, 7, 8, 9]))


def test_jpg_is_close(tmp_path: Path) -> None:
    ramp = np.linspace(10, 200, 64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8)
    write_image(tmp_path / "a.jpg", ramp)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - ramp).mean() < 2


def test_grey_is_repeated_and_alpha_dropped(tmp_path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), image[..., 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([image[..., ::-1], image[..., 0]]))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), image[..., [0, 0, 0]])
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), image)


def test_a_16_bit_picture_is_refused(tmp_path: Path) -> None:
    """Red when: 16 bits are cut to 8 in silence."""
    with pytest.raises(DamagedFile, match="has uint16 values"):
        read_image(png16(tmp_path / "a.png", 1000, 2000, 3000))


def test_exif_orientation_does_not_turn_the_grid(tmp_path: Path) -> None:
    """Red when: OpenCV applies the orientation, so that height and width no longer fit flow and labels."""
    write_image(tmp_path / "a.jpg", np.full((16, 24, 3), 90, np.uint8))
    plain = (tmp_path / "a.jpg").read_bytes()
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)  # 6: turned by 90 degrees.
    exif = b"Exif\0\0" + tiff
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "b.jpg").write_bytes(plain[:2] + segment + plain[2:])
    assert cv2.imread(str(tmp_path / "b.jpg")).shape == (24, 16, 3)
    assert read_image(tmp_path / "b.jpg").shape == (16, 24, 3)


# --- ids, colours, masks


def indexed_png(path: Path, ids: np.ndarray, depth: int, color_type: int, extra: bytes = b"") -> Path:
    """A png written from its definition: `depth` bits a pixel, no filter, palette of nothing but red."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = ids.shape
    bits = np.unpackbits(ids[..., None], axis=-1)[..., 8 - depth :].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    palette = chunk(b"PLTE", bytes([255, 0, 0]) * 2**depth) if color_type == 3 else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    tail = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + palette + extra + tail)
    return path


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("color_type", [0, 3])
def test_ids_are_what_is_stored(
    tmp_path: Path, rng: np.random.Generator, depth: int, color_type: int
) -> None:
    """Red when: the palette is expanded to colours, as OpenCV does; a 1-bit 1 comes back as 255."""
    ids = rng.integers(0, 2**depth, (HEIGHT, WIDTH), dtype=np.uint8)
    path = indexed_png(tmp_path / "a.png", ids, depth, color_type)
    assert holds_ids(path)
    got = read_ids(path)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, ids)
    np.testing.assert_array_equal(read_mask(path), ids != 0)


def test_a_palette_with_transparency_still_gives_ids(tmp_path: Path) -> None:
    """Red when: the palette is expanded, here to four channels."""
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    body = b"tRNS" + bytes(
        [0, 3]
    )  # Two bytes: in a grey png they would mean that the value 3 is transparent.
    transparency = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    np.testing.assert_array_equal(read_ids(indexed_png(tmp_path / "a.png", ids, 8, 3, transparency)), ids)


def test_palette_round_trip_keeps_ids_and_colours(tmp_path: Path, rng: np.random.Generator) -> None:
    ids = rng.integers(0, 32, (HEIGHT, WIDTH), dtype=np.uint8)
    palette = rng.integers(0, 256, (32, 3), dtype=np.uint8)
    write_palette(tmp_path / "a.png", ids, palette)
    np.testing.assert_array_equal(read_ids(tmp_path / "a.png"), ids)
    np.testing.assert_array_equal(read_colors(tmp_path / "a.png"), palette[ids])
    with pytest.raises(ValueError, match="the palette has 3 colours"):
        write_palette(tmp_path / "b.png", ids, palette[:3])


@pytest.mark.parametrize(
    ("dtype", "highest", "read_as"),
    [(np.uint8, 255, np.uint8), (np.uint16, 65535, np.int32), (np.int32, 65535, np.int32)],
)
def test_ids_round_trip(
    tmp_path: Path, rng: np.random.Generator, dtype: type, highest: int, read_as: type
) -> None:
    ids = rng.integers(0, highest, (HEIGHT, WIDTH), endpoint=True).astype(dtype)
    ids[0, :2] = 0, highest
    write_ids(tmp_path / "a.png", ids)
    got = read_ids(tmp_path / "a.png")
    assert got.dtype == read_as
    np.testing.assert_array_equal(got, ids)


@pytest.mark.parametrize("wrong", [-1, 65536])
def test_ids_beyond_16_bits_are_refused(tmp_path: Path, wrong: int) -> None:
    with pytest.raises(ValueError, match=r"a 16-bit png holds 0\.\.65535"):
        write_ids(tmp_path / "a.png", np.array([[3, wrong]], np.int32))


def test_colours_are_no_ids_and_ids_no_colours(tmp_path: Path, image: np.ndarray) -> None:
    """Red when: RGB labels are read as grey (traps: luma makes classes collide)."""
    write_image(tmp_path / "colors.png", image)
    write_ids(tmp_path / "ids.png", image[..., 0])
    assert not holds_ids(tmp_path / "colors.png")
    with pytest.raises(DamagedFile, match="holds colours, expected ids"):
        read_ids(tmp_path / "colors.png")
    with pytest.raises(DamagedFile, match="got an 8-bit grey png"):
        read_colors(tmp_path / "ids.png")
    np.testing.assert_array_equal(read_colors(tmp_path / "colors.png"), image)


def test_label_colours_of_16_bits_are_refused(tmp_path: Path) -> None:
    """Red when: a flow png is read as colours, cut to 8 bits."""
    with pytest.raises(DamagedFile, match="got a 16-bit RGB png"):
        read_colors(png16(tmp_path / "a.png", 1000, 2000, 3000))


def test_label_colours_are_not_read_from_lossy_files(tmp_path: Path, image: np.ndarray) -> None:
    write_image(tmp_path / "a.jpg", image)
    for reader in (read_colors, read_ids, read_mask):
        with pytest.raises(DamagedFile, match="png"):
            reader(tmp_path / "a.jpg")


def test_masks_round_trip_and_colour_masks_are_read(tmp_path: Path, mask: np.ndarray) -> None:
    """Red when: only one channel of a colour mask is looked at."""
    write_mask(tmp_path / "a.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), mask)
    assert set(np.unique(read_ids(tmp_path / "a.png"))) == {0, 255}
    for channel in range(3):
        colors = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        colors[mask, channel] = 9
        write_image(tmp_path / "b.png", colors)
        np.testing.assert_array_equal(read_mask(tmp_path / "b.png"), mask)


# --- wrong calls


def test_unknown_suffixes_are_refused(tmp_path: Path, image: np.ndarray) -> None:
    for call in (
        lambda: write_image(tmp_path / "a.tif", image),
        lambda: write_ids(tmp_path / "a.jpg", image[..., 0]),
        lambda: write_palette(tmp_path / "a.jpg", image[..., 0], image[0]),
    ):
        with pytest.raises(ValueError, match=r"a\.\w+: .* not '\."):
            call()
    assert list(tmp_path.iterdir()) == []


# --- damaged files, each kind in its own way (`test_damaged_files` has what all readers share)


def test_a_jpg_without_its_end_is_refused_whatever_opencv_does(tmp_path: Path, image: np.ndarray) -> None:
    """Red when: the end marker is not looked for (OpenCV 4.10 then makes up the missing rows)."""
    path = tmp_path / "a.jpg"
    write_image(path, image)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DamagedFile, match="the JPEG data is cut off"):
        read_image(path)


def test_an_absurd_size_is_damaged(tmp_path: Path) -> None:
    data = bytearray(indexed_png(tmp_path / "a.png", np.ones((2, 3), np.uint8), 8, 0).read_bytes())
    for side in (10**5, 2**32 - 1):  # More than there is, and more than there can be.
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(DamagedFile, match=f"says {side}x{side}"):
            read_ids(tmp_path / "a.png")
