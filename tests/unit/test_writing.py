"""Written files: whole or not at all, named with their disk when they can't be."""

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from semraft.data.files.formats import write_flow
from semraft.data.files.pictures import write_image
from semraft.writing import append_line, whole_file, write_bytes, write_text


@pytest.fixture
def small_disk() -> Iterator[None]:
    """A limit of 4000 bytes a file, which the system refuses on the way as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


FLOW = np.arange(40 * 60 * 2, dtype=np.float32).reshape(40, 60, 2)
WRITERS: dict[str, Callable[[Path], object]] = {
    "a.txt": lambda path: write_text(path, "x" * 9000),
    "a.flo": lambda path: write_flow(path, FLOW),
    "a.pfm": lambda path: write_flow(path, FLOW),
    "a.npz": lambda path: write_flow(path, np.random.default_rng(0).normal(size=(40, 60, 2)).astype("f4")),
    "a.png": lambda path: write_image(path, np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_stays_of_a_file_that_the_disk_has_no_room_for(
    tmp_path: Path, small_disk: None, name: str
) -> None:
    """Red when: a writer opens its file itself: a cut one stays, the error names no file and no disk."""
    (tmp_path / name).write_text("old")
    with pytest.raises(OSError, match=rf"{name} can't be written: .* \(the disk at .* has .* MB free\)"):
        WRITERS[name](tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "old"


def test_a_line_is_appended_whole_or_not_at_all(tmp_path: Path, small_disk: None) -> None:
    """Red when: the part of a line that fits stays: the next line is torn as well."""
    append_line(tmp_path / "a.jsonl", {"step": 1})
    with pytest.raises(OSError, match=r"a\.jsonl can't be written"):
        append_line(tmp_path / "a.jsonl", {"step": 2, "text": "x" * 9000})
    assert (tmp_path / "a.jsonl").read_text() == '{"step": 1}\n'


def test_a_link_in_the_place_of_the_partial_file_is_not_written_through(tmp_path: Path) -> None:
    """Red when: the partial file is opened for what its name leads to."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".a.txt.partial").symlink_to(tmp_path / "precious")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "a.txt").read_text() == "new"


def test_two_that_write_one_file_wait_for_each_other(tmp_path: Path) -> None:
    """Red when: the partial file is not locked: one renames what the other has only begun."""
    other = threading.Thread(target=write_bytes, args=(tmp_path / "a", b"other"))
    with whole_file(tmp_path / "a") as file:
        file.write(b"own")
        other.start()
        other.join(0.2)
        assert other.is_alive()
    other.join()
    assert (tmp_path / "a").read_bytes() == b"other"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_device_is_written_and_not_replaced(tmp_path: Path) -> None:
    """Red when: `--json /dev/null` makes a file of the device."""
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=(tmp_path / "pipe").read_bytes)
    reader.start()
    write_text(tmp_path / "pipe", "text")
    reader.join()
    assert (tmp_path / "pipe").is_fifo()
