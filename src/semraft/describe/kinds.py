"""Kinds of files by their content: frames, flow and its encoding, labels, instances, masks.

Not for which file belongs to which (`names`, `pairing`).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Shaped

from semraft.data.files import png
from semraft.data.files.formats import Encoding, read_flow
from semraft.data.files.pictures import read_colors, read_ids, read_image, stored_pixels
from semraft.frames import IMAGES
from semraft.records import read_bytes
from semraft.sample import DamagedFile, Window

FLOW_SUFFIXES = (".flo", ".pfm", ".npy", ".npz")
PICTURES_OF = re.compile(r"flow|viz|vis$|depth|disp|overlay|sheet|error|colou?r", re.IGNORECASE)
"""Words in the path of a picture that shows a measurement and is no frame."""
MIN_FLAT_FRAC = 0.8
"""Label files are flat: at least this share of their pixels equals the pixel to the right."""
MOST_CLASSES, MOST_INSTANCES = 64, 1024
"""More values than these are no classes, no instances."""


class Kind(NamedTuple):
    """Kind of some files, and the evidence."""

    name: Literal["frames", "flow", "labels", "colour labels", "instances", "mask", "other"]
    why: str
    encoding: Encoding | None = None


def kind_of(paths: Sequence[Path]) -> Kind:
    """The kind of files of one series, by a few of them; those that can't be read are passed over."""
    try:
        return _kind(paths)
    except (DamagedFile, OSError) as error:
        return kind_of(paths[1:]) if len(paths) > 1 else Kind("other", f"can't be read: {error}")


def _kind(paths: Sequence[Path]) -> Kind:
    suffix = paths[0].suffix.lower()
    if suffix in FLOW_SUFFIXES:
        read_flow(paths[0])
        return Kind("flow", f"{suffix} files of two components")
    if suffix == ".png":
        return _kind_of_png(paths)
    if suffix in IMAGES:
        return _frames(paths, "colours")
    return Kind("other", "no picture and no flow")


def _kind_of_png(paths: Sequence[Path]) -> Kind:
    header = png.header_of(png.split_png(paths[0], read_bytes(paths[0])))
    if header.depth == 16 and header.color_type == png.RGB:
        return _kind_of_flow(paths)
    if header.color_type in (png.GREY, png.PALETTE):
        return _kind_of_numbers(paths, header.depth)
    if header.depth == 16:
        return Kind("other", f"{header.kind}: neither flow nor a picture")
    values, flat_frac = _statistics([_as_numbers(read_colors(path)) for path in paths])
    if flat_frac >= MIN_FLAT_FRAC and len(values) <= MOST_CLASSES:
        name = _named(paths, "inst")
        why = f"{len(values)} flat colours"
        return Kind("instances", f"{why}, inst in the name") if name else Kind("colour labels", why)
    return _frames(paths, "many colours")


def _kind_of_flow(paths: Sequence[Path]) -> Kind:
    chunks = png.split_png(paths[0], read_bytes(paths[0]))
    flags = np.unique(stored_pixels(paths[0], chunks, lambda size: Window(0, 0, *size))[..., 2]).tolist()
    if set(flags) <= {0, 1}:
        return Kind("flow", "16-bit png whose third channel is 0 or 1", "kitti")
    if set(flags) <= {0, 65535}:
        return Kind("flow", "16-bit png whose third channel is 0 or 65535", "virtual-kitti")
    return Kind("other", "16-bit colours whose third channel is no validity of flow")


def _kind_of_numbers(paths: Sequence[Path], depth: int) -> Kind:
    values, flat_frac = _statistics([read_ids(path) for path in paths])
    if flat_frac < MIN_FLAT_FRAC:
        if depth == 16:
            return Kind("other", "16-bit numbers that change from pixel to pixel, as depth does")
        return _frames(paths, "grey values that change from pixel to pixel")
    why = f"{len(values)} flat values of {depth} bits"
    if depth == 16 or _named(paths, "inst"):
        return Kind("instances" if len(values) <= MOST_INSTANCES else "other", why)
    if set(values) <= {0, 255} or set(values) <= {0, 1}:
        return Kind("mask", why)
    return Kind("labels" if len(values) <= MOST_CLASSES else "other", why)


def _frames(paths: Sequence[Path], why: str) -> Kind:
    image = read_image(paths[0])
    height, width = image.shape[:2]
    if _named(paths, PICTURES_OF):
        return Kind("other", "a picture of something measured, by its name")
    return Kind("frames", f"{why}, {width}x{height}")


def _named(paths: Sequence[Path], pattern: str | re.Pattern[str]) -> bool:
    """True where the name of the file or of its folder has the pattern."""
    return re.search(pattern, f"{paths[0].parent.name}/{paths[0].stem}") is not None


def _as_numbers(colors: Shaped[np.ndarray, "H W 3"]) -> Shaped[np.ndarray, "H W"]:
    wide: Shaped[np.ndarray, "H W"] = colors.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    return wide


def _statistics(arrays: Sequence[Shaped[np.ndarray, "H W"]]) -> tuple[list[int], float]:
    """The values that occur, and the share of pixels that equal the one to the right."""
    values = np.unique(np.concatenate([np.unique(array) for array in arrays])).tolist()
    flat = float(np.mean([np.mean(array[:, 1:] == array[:, :-1]) for array in arrays]))
    return values, flat
