"""Usable pairs of a data set from folder listings, and samples from the arrays of a pair.

Common to all data sets; the names of folders and files are in the module of each. An index opens no file:
13 000 pairs take seconds.
"""

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from semraft.data.files.formats import Encoding, read_flow
from semraft.data.files.pictures import read_first_image, read_image
from semraft.data.taxonomy import LabelTable
from semraft.sample import (
    OPTIONAL_FIELDS,
    Choose,
    FlowDataset,
    FlowSample,
    FramePart,
    Pair,
    Problem,
    Window,
    require_size,
)
from semraft.sample import WrongSize as WrongSize

Listing = Callable[[Path], dict[str, int]]
"""Folder -> name and size in bytes of each of its files; empty where there is no folder."""


@runtime_checkable
class Read(Protocol):
    """Reader of a pair: whole, or the window that `choose` takes of its first image's size."""

    def __call__(self, pair: Pair, choose: Choose | None = None) -> FlowSample: ...


def new_listing() -> Listing:
    """A Listing that reads each folder once: an index asks for the same few folders thousands of times."""
    return functools.cache(_file_sizes)


def _file_sizes(folder: Path) -> dict[str, int]:
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def subfolders(folder: Path, pattern: str = ".*") -> list[Path]:
    """The folders right inside a folder whose whole name fits the pattern, sorted by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(pattern, path.name) and path.is_dir())


def frame_numbers(listing: Listing, folder: Path, pattern: str) -> set[int]:
    """The number in the pattern's group, of each file whose whole name fits (`._00010.png` does not)."""
    matches = (re.fullmatch(pattern, name) for name in listing(folder))
    return {int(match[1]) for match in matches if match}


def find_folder(dataset: str, *candidates: Path) -> Path:
    """The first of these folders that exists.

    Raises:
        ValueError: None of them does; one line with all of them.
    """
    for folder in candidates:
        if folder.is_dir():
            return folder
    looked_for = " or ".join(str(folder) for folder in candidates)
    raise ValueError(
        f"{dataset}: no folder {looked_for}. Give the folder that the archives were unpacked into."
    )


def make_dataset(
    name: str,
    split: str,
    candidates: Iterable[Pair],
    listing: Listing,
    read: Read,
    *,
    sparse: bool = False,
    label_table: LabelTable | None = None,
) -> FlowDataset:
    """The data set of the candidates whose every file is there and not empty; a Problem for each other file.

    A candidate's files are those that the pair must have; their roles are fields of FlowSample. `label_table`
    is that of the label files.
    """
    pairs, problems = [], []
    for candidate in candidates:
        wrong = list(_file_problems(candidate, listing))
        problems.extend(wrong)
        if not wrong:
            pairs.append(candidate)
    return FlowDataset(
        name=name,
        split=split,
        pairs=tuple(pairs),
        read=read,
        provides=_provided(pairs),
        sparse=sparse,
        problems=tuple(problems),
        read_window=functools.partial(_read_window, read),
        label_table=label_table if "labels1" in _provided(pairs) else None,
    )


def _read_window(read: Read, pair: Pair, choose: Choose) -> tuple[FlowSample, tuple[int, int]]:
    frames: list[tuple[int, int]] = []

    def remember(frame: tuple[int, int]) -> Window:
        frames.append(frame)
        return choose(frame)

    return read(pair, remember), frames[0]


def _file_problems(pair: Pair, listing: Listing) -> Iterator[Problem]:
    for role, path in pair.files.items():
        size = listing(path.parent).get(path.name)
        if size is None:
            yield Problem(pair.id, path, "missing", f"no such file ({role})")
        elif size == 0:
            yield Problem(pair.id, path, "empty", f"0 bytes ({role})")


def _provided(pairs: list[Pair]) -> frozenset[str]:
    if not pairs:
        return frozenset()
    roles = frozenset.intersection(*(frozenset(pair.files) for pair in pairs))
    return roles.intersection(OPTIONAL_FIELDS) | ({"backward_valid"} if "backward_flow" in roles else set())


def read_frames(
    pair: Pair, encoding: Encoding | None = None, choose: Choose | None = None
) -> tuple[dict[str, Any], FramePart | None]:
    """The fields that every sample has: both images, flow and its validity (`encoding` is for a flow png).

    A pair without a flow file has no valid pixel. Also the part of every other file of the pair that goes
    with them, None for the whole.
    """
    if choose is None:
        image1, part = read_image(pair.files["image1"]), None
    else:
        image1, part = read_first_image(pair.files["image1"], choose)
    if "flow" in pair.files:
        flow, valid = read_flow(pair.files["flow"], encoding, part)
    else:
        height, width = image1.shape[:2]
        flow, valid = np.zeros((height, width, 2), np.float32), np.zeros((height, width), bool)
    image2 = read_image(pair.files["image2"], part)
    return {"image1": image1, "image2": image2, "flow": flow, "valid": valid}, part


def require_one_size(pair: Pair, arrays: dict[str, Any]) -> None:
    """Checks that the array of each of the pair's files has image1's height and width.

    Of a part of each, their readers have checked that already.

    Raises:
        WrongSize: One has not.
    """
    height, width = arrays["image1"].shape[:2]
    for role, path in pair.files.items():
        require_size(path, arrays[role].shape[:2], (height, width), pair.files["image1"].name)


def make_sample(pair: Pair, dataset: str, arrays: dict[str, Any], *, sparse: bool = False) -> FlowSample:
    """The sample made of these fields of FlowSample.

    Raises:
        WrongSize: One of the pair's files differs from image1 in height or width.
    """
    require_one_size(pair, arrays)
    return FlowSample(id=pair.id, scene=pair.scene, dataset=dataset, sparse=sparse, **arrays)
