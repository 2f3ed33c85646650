"""Files that are written: whole or not at all, on the disk before they have their name, named in errors."""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def whole_file(path: Path | str) -> Iterator[BinaryIO]:
    """A file to write that gets its name when it is complete and on the disk; until then the old one stays.

    After any error nothing of it is left. Two that write one file wait for each other.

    Raises:
        OSError: It can't be written; the message has the file, and the free space of its disk.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # A pipe or a device: it has its name and keeps it.
        with naming(path), open(path, "wb") as file:
            yield file
        return
    partial = path.with_name(f".{path.name}.partial")
    with naming(path), _open_alone(partial) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            with suppress(OSError):  # The bytes in the buffer: a full disk refuses them a second time.
                file.close()
            raise
        _sync_folder(path.parent)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Writes a file whole or not at all."""
    with whole_file(path) as file:
        file.write(content)


def write_text(path: Path | str, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_bytes(path, text.encode())


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Appends one object to a .jsonl file; numbers that JSON does not have become null.

    Raises:
        OSError: As `whole_file`; no part of the line is left.
    """
    clean = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    line = f"{json.dumps(clean)}\n".encode()
    with naming(path), open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            if (file.write(line) or 0) < len(line):
                file.write(line)  # The disk is full: the second call gives the error.
        except OSError:
            file.truncate(end)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an error of the system gets the name of the file that is written and the state of its disk."""
    try:
        yield
    except OSError as error:
        reason = f"{path} can't be written: {error.strerror or error}"
        with suppress(OSError):
            folder = path.resolve().parent
            disk = next(part for part in (folder, *folder.parents) if part.is_mount())
            free_mb = shutil.disk_usage(folder).free / 1e6
            reason += f" (the disk at {disk} has {free_mb:.1f} MB free)"
        raise OSError(error.errno, reason) from error


def _open_alone(path: Path) -> BinaryIO:
    """The file, emptied, once no other thread or process writes it; not through a link in its place."""
    while True:
        if path.is_symlink():
            path.unlink()
        file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "wb")  # noqa: SIM115
        with suppress(OSError):  # A file system without locks.
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False)):
                file.truncate(0)
                return file
        file.close()  # The other one is done: it has renamed this file, or removed it.


def _sync_folder(folder: Path) -> None:
    """Brings the new name of a file to the disk; some file systems can't."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
