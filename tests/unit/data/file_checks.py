"""What the tests of `formats` and `pictures` share: a png by OpenCV alone, what every reader owes a file."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from semraft.sample import DamagedFile

Reader = Callable[[Path], object]


def png16(path: Path, red: int, green: int, blue: int, height: int = 5, width: int = 8) -> Path:
    """A 16-bit RGB png of one colour, by OpenCV alone."""
    cv2.imwrite(str(path), np.full((height, width, 3), (blue, green, red), np.uint16))
    return path


def check_missing_is_named(reader: Reader, path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=path.name):
        reader(path)


def check_empty_is_named(reader: Reader, path: Path) -> None:
    path.touch()
    with pytest.raises(DamagedFile, match=rf"{path.name}: is empty \(0 bytes\)"):
        reader(path)


def check_cut_is_damaged(reader: Reader, path: Path) -> None:
    data = path.read_bytes()
    for size in {1, 8, 11, 26, 40, len(data) // 2, len(data) - 12, len(data) - 2, len(data) - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(DamagedFile) as caught:
            reader(path)
        assert caught.value.path == path


def check_other_content_is_damaged(reader: Reader, path: Path) -> None:
    path.write_text("<html>404 not found</html>" * 9)
    with pytest.raises(DamagedFile):
        reader(path)


def check_changed_byte_is_noticed_or_harmless(reader: Reader, path: Path, rng: np.random.Generator) -> None:
    data = path.read_bytes()
    places = rng.choice(len(data), min(len(data), 60), replace=False)
    for place in [*places.tolist(), data.find(b"PK\x01\x02") + 8]:
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            reader(path)
        except DamagedFile:
            continue
        assert path.suffix != ".png", f"byte {place}: a png proves every byte by a checksum"
