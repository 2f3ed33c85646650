"""Names of files: series, and the frame that a file belongs to by the numbers and words of both paths."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from semraft.data.datasets.own_files import CLASSES_FILE, TABLES


def files_in(folder: Path) -> list[Path]:
    """Paths of the files of a folder, relative to it and sorted; none that is hidden, no table of ours."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place, name).relative_to(folder)
            for name in sorted(names)
            if not name.startswith(".") and name not in (*TABLES, CLASSES_FILE)
        ]
    return found


def series_name(path: Path) -> str:
    """A path with # for its numbers."""
    return re.sub(r"\d+", "#", path.as_posix())


def series_of(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Files whose paths differ in numbers alone, by the name of their series."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        found[series_name(path)].append(path)
    return dict(found)


@lru_cache(maxsize=1 << 16)
def words(path: Path) -> Counter[str]:
    """Numbers and words of a path, in lower case, without its ending."""
    return Counter(re.findall(r"\d+|[^\W\d_]+", path.with_suffix("").as_posix().lower()))


def numbers(text: str) -> tuple[int, ...]:
    """The numbers in a text, in order."""
    return tuple(int(digits) for digits in re.findall(r"\d+", text))


def in_order(path: Path) -> list[str | int]:
    """A path as texts and numbers in turn: sorted by them, frame 10 comes after frame 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.as_posix())]


class FrameNames:
    """Frames found by the names of files that belong to them.

    A file belongs to the frame whose file name has the same numbers, else to one whose numbers begin or end
    with them or have them in a row, or the reverse; a file without a number in its name goes by the numbers
    of its folders. Of several frames those that share most words and numbers of the whole path.
    """

    def __init__(self, frames: Sequence[Path]) -> None:
        self.whole: dict[tuple[int, ...], list[Path]] = defaultdict(list)
        self.parts: dict[tuple[int, ...], list[Path]] = defaultdict(list)
        self.by_folder: dict[tuple[int, ...], list[Path]] = defaultdict(list)
        for frame in frames:
            own = numbers(frame.stem)
            self.whole[own].append(frame)
            for part in _parts(own):
                self.parts[part].append(frame)
            for part in _parts(numbers(frame.as_posix())):
                self.by_folder[part].append(frame)

    def of(self, path: Path) -> list[Path]:
        """The frames that a file may belong to: several where their names fit alike, the first of a series.

        Frames of one series differ in numbers: of those that fit alike the file belongs to the first.
        """
        own = numbers(path.stem)
        if own:
            found = self.whole.get(own) or self.parts.get(own)
            found = found or [frame for part in _parts(own) for frame in self.whole.get(part, ())]
        else:
            found = self.by_folder.get(numbers(path.parent.as_posix()))
        mine = words(path)
        shared = {frame: (mine & words(frame)).total() for frame in found or ()}
        best = [frame for frame, count in shared.items() if count == max(shared.values())]
        first: dict[tuple[Path, str], Path] = {}
        for frame in sorted(best):
            first.setdefault((frame.parent, series_name(Path(frame.name))), frame)
        return list(first.values())


def _parts(values: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The numbers in a row that are not all of them, longest first."""
    for length in range(len(values) - 1, 0, -1):
        yield from {values[start : start + length] for start in range(len(values) - length + 1)}
