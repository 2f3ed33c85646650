"""From folder listings to the usable pairs of a data set, and from a pair's arrays to its sample.

What every data set does the same way, once; what its folders and files are called is in its own module. An
index opens no file: 13 000 pairs take seconds.
"""

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from semraft.data.formats import Encoding, read_flow
from semraft.data.pictures import read_image
from semraft.sample import OPTIONAL_FIELDS, DamagedFile, FlowDataset, FlowSample, Pair, Problem

Listing = Callable[[Path], dict[str, int]]
"""Folder -> name and size in bytes of each of its files; empty where there is no folder."""


class WrongSize(DamagedFile):
    """A file that is sound by itself, but whose height and width are not those of its pair."""

    def __reduce__(self) -> tuple[Any, ...]:
        return WrongSize, (self.path, self.reason)  # Raised in loader workers: must survive pickling.


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
        ValueError: None of them does; says which were looked for.
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
    read: Callable[[Pair], FlowSample],
    *,
    sparse: bool = False,
) -> FlowDataset:
    """The data set of the candidates whose every file is there and not empty; a Problem for each other file.

    A candidate's files are those that the pair must have; their roles are fields of FlowSample.
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
    )


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


def read_frames(pair: Pair, encoding: Encoding | None = None) -> dict[str, Any]:
    """The fields that every sample has: both images, flow and its validity (`encoding` is for a flow png)."""
    flow, valid = read_flow(pair.files["flow"], encoding)
    return {
        "image1": read_image(pair.files["image1"]),
        "image2": read_image(pair.files["image2"]),
        "flow": flow,
        "valid": valid,
    }


def require_one_size(pair: Pair, arrays: dict[str, Any]) -> None:
    """Checks that the array of each of the pair's files has image1's height and width.

    Raises:
        WrongSize: One has not.
    """
    height, width = arrays["image1"].shape[:2]
    for role, path in pair.files.items():
        rows, columns = arrays[role].shape[:2]
        if (rows, columns) != (height, width):
            first = pair.files["image1"].name
            raise WrongSize(path, f"is {columns}x{rows} (width x height), but {first} is {width}x{height}")


def make_sample(pair: Pair, dataset: str, arrays: dict[str, Any], *, sparse: bool = False) -> FlowSample:
    """The sample made of these fields of FlowSample.

    Raises:
        WrongSize: One of the pair's files differs from image1 in height or width.
    """
    require_one_size(pair, arrays)
    return FlowSample(id=pair.id, scene=pair.scene, dataset=dataset, sparse=sparse, **arrays)
