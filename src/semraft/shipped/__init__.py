"""Weights that come with semraft, and the public weight files that semraft reads.

A shipped network is NAME.safetensors in this folder, in half precision, with NAME.json beside it: the recipe,
data, hours and scores of its training.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from semraft.records import read_json

HERE = Path(__file__).parent
DEFAULT = "small"
"""The network that is used where no weights are named."""


class PublicFile(NamedTuple):
    """A public file of RAFT weights that semraft reads."""

    arch: str
    about: str
    source: str
    sha256: str
    """The whole digest, or its first eight digits where the file's publisher gives no more."""


_PRINCETON = "github.com/princeton-vl/RAFT, download_models.sh"
_TORCHVISION = "torchvision.models.optical_flow"

PUBLIC_FILES = {
    "raft-small.pth": PublicFile(
        "small",
        "FlyingChairs, FlyingThings3D",
        _PRINCETON,
        "c7d41b9cc88442bb8aa911dbb33086dac55a226394b142937ff22d5578717332",
    ),
    "raft-chairs.pth": PublicFile(
        "large",
        "FlyingChairs",
        _PRINCETON,
        "c6c75465cf995d137f89ca2e2d08594ed390befbb8859f7f65c48bcc8feb0fd7",
    ),
    "raft-things.pth": PublicFile(
        "large",
        "FlyingChairs, FlyingThings3D",
        _PRINCETON,
        "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",
    ),
    "raft-sintel.pth": PublicFile(
        "large",
        "raft-things, then Sintel, KITTI, HD1K",
        _PRINCETON,
        "90630d2e7d488a0d3ccb5e8194524850c4c05c732ea4ff99799822c7fa5c5cbf",
    ),
    "raft-kitti.pth": PublicFile(
        "large",
        "raft-sintel, then KITTI",
        _PRINCETON,
        "b9d170362415e1a27bd8402ee966a3ddf0d60df9b2df2c0b4949f5ced490a9e6",
    ),
    "raft_large_C_T_V2-1bb1363a.pth": PublicFile(
        "large", "FlyingChairs, FlyingThings3D", _TORCHVISION, "1bb1363a"
    ),
    "raft_large_C_T_SKHT_V2-ff5fadd5.pth": PublicFile(
        "large", "then Sintel, KITTI, HD1K", _TORCHVISION, "ff5fadd5"
    ),
    "raft_large_C_T_SKHT_K_V2-b5c70766.pth": PublicFile("large", "then KITTI", _TORCHVISION, "b5c70766"),
    "raft_small_C_T_V2-01064c6d.pth": PublicFile(
        "small", "FlyingChairs, FlyingThings3D", _TORCHVISION, "01064c6d"
    ),
}
"""File name -> its contents. raft-small.pth was read and compared, the others by names and shapes alone."""


def shipped_names() -> list[str]:
    """The names of the weights that come with this semraft."""
    return sorted(path.stem for path in HERE.glob("*.safetensors"))


def card(name: str) -> dict[str, Any]:
    """The description of shipped weights."""
    return read_json(HERE / f"{name}.json", dict)


def warning(named: str) -> str:
    """A sentence on shipped weights that are not good yet; "" for good ones and for files."""
    name = named or DEFAULT
    return str(card(name).get("warning", "")) if name in shipped_names() else ""


def weights_file(named: str) -> Path:
    """The file of the weights called `named`: shipped ones by name, any other by its path; the default of "".

    Raises:
        ValueError: Neither a shipped name nor a file.
    """
    name = named or DEFAULT
    if name in shipped_names():
        return HERE / f"{name}.safetensors"
    if named and Path(named).exists():
        return Path(named)
    known = ", ".join(shipped_names()) or "none with this version"
    asked = f"no weights are called {named!r} and no such file is there" if named else "no weights were named"
    raise ValueError(f"{asked}: give a file or a shipped name ({known}); `semraft weights` lists them")


def weights_table() -> dict[str, dict[str, Any]]:
    """Name -> where it is, what it was trained on and its sha256: shipped weights, then public files."""
    rows: dict[str, dict[str, Any]] = {
        name: {
            "shipped": True,
            "sha256": hashlib.sha256((HERE / f"{name}.safetensors").read_bytes()).hexdigest(),
            **card(name),
        }
        for name in shipped_names()
    }
    return rows | {name: {"shipped": False, **file._asdict()} for name, file in PUBLIC_FILES.items()}
