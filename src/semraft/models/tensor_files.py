"""Files of tensors: of torch, without any other object in their pickles, and .safetensors."""

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import torch

from semraft.records import DamagedFile


def read_tensors(path: Path | str) -> Any:
    """The content of a file of tensors and plain values; of .safetensors tensors alone.

    Raises:
        DamagedFile: A file that torch can't read, or that holds more than that.
        ValueError: A folder; the message lists the files of tensors in it.
    """
    if Path(path).is_dir():
        inside = sorted(str(file) for file in Path(path).rglob("*.pt"))
        raise ValueError(f"{path} is a folder, give a file of weights: {', '.join(inside) or 'it has none'}")
    if Path(path).suffix == ".safetensors":
        return _read_safetensors(Path(path))
    try:
        _refuse_deflated(Path(path))
        # Options that torchvision's training adds.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(pickle.UnpicklingError, EOFError, RuntimeError, ValueError, TypeError, AttributeError),
        *(LookupError, ArithmeticError, AssertionError, MemoryError, OSError, zipfile.BadZipFile),
    ) as error:  # All of them seen of altered files.
        if isinstance(error, DamagedFile) or (isinstance(error, OSError) and error.filename is not None):
            raise
        reason = next(iter(str(error).splitlines()), "it is empty")
        raise DamagedFile(path, f"not a file of tensors: {reason}") from error


def _refuse_deflated(path: Path) -> None:
    """Refuses an archive with deflated parts, which torch never writes: a few bytes could become gigabytes.

    Raises:
        DamagedFile: It has such a part.
        BadZipFile, OSError: Its list of parts is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise DamagedFile(path, "not a file of tensors: torch does not deflate what it writes")


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors of a file; a checkpoint of ours where its metadata say so (`products.conversion`)."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            notes, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise DamagedFile(path, f"not a file of tensors: {error}") from error
    if "semraft" not in notes:
        return tensors
    values = {name: int(text) if text.isdecimal() else text for name, text in notes.items()}
    return {**values, "model": tensors}
