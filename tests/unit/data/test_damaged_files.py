"""Readers of flow and of pictures on files that are missing, empty, cut off or changed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semraft.data.files.formats import read_flow, write_flow
from semraft.data.files.pictures import (
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

READERS: dict[str, Callable[[Path], object]] = {
    "flow.flo": read_flow,
    "flow.pfm": read_flow,
    "flow.png": lambda path: read_flow(path, "kitti"),
    "flow.npz": read_flow,
    "image.png": read_image,
    "image.jpg": read_image,
    "image.ppm": read_image,
    "ids.png": read_ids,
    "palette.png": read_ids,
    "colors.png": read_colors,
    "mask.png": read_mask,
}
every_reader = pytest.mark.parametrize("name", READERS)


@pytest.fixture
def path(tmp_path: Path, name: str, rng: np.random.Generator) -> Path:
    """A sound file for one of READERS."""
    path = tmp_path / name
    image = rng.integers(0, 256, (7, 11, 3), dtype=np.uint8)
    match path.stem:
        case "flow":
            flow = rng.uniform(-9, 7, (7, 11, 2)).astype(np.float32)
            write_flow(path, flow, rng.random((7, 11)) > 0.3, "kitti")
        case "image" | "colors":
            write_image(path, image)
        case "ids":
            write_ids(path, image[..., 0])
        case "palette":
            write_palette(path, image[..., 0] % 5, image[0, :5])
        case "mask":
            write_mask(path, image[..., 0] > 76)
    READERS[name](path)
    return path


@every_reader
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        READERS[name](tmp_path / name)


@every_reader
def test_an_empty_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DamagedFile, match=rf"{name}: is empty \(0 bytes\)"):
        READERS[name](tmp_path / name)


@every_reader
def test_a_file_cut_anywhere_is_damaged(path: Path, name: str) -> None:
    """Red when: a size, a png's end or an archive's directory is not checked."""
    data = path.read_bytes()
    for size in {1, 8, 11, 26, 40, len(data) // 2, len(data) - 12, len(data) - 2, len(data) - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(DamagedFile) as caught:
            READERS[name](path)
        assert caught.value.path == path


@every_reader
def test_other_content_is_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<html>404 not found</html>" * 9)
    with pytest.raises(DamagedFile):
        READERS[name](tmp_path / name)


@every_reader
def test_one_changed_byte_is_noticed_or_harmless(path: Path, name: str, rng: np.random.Generator) -> None:
    """Red when: a reader lets another exception out (an npz flag said "encrypted": RuntimeError); a png's
    checksums are not checked."""
    data = path.read_bytes()
    places = rng.choice(len(data), min(len(data), 60), replace=False)
    for place in [*places.tolist(), data.find(b"PK\x01\x02") + 8]:
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            READERS[name](path)
        except DamagedFile:
            continue
        assert path.suffix != ".png", f"byte {place}: a png proves every byte by a checksum"
