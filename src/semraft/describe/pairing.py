"""Pairs of frames, by the numbers in their names and, where there is flow, by which frames it fits.

Flow may belong to frame i and the next, or to the frames of one number in two folders; to the left camera or
the right; lead forwards or backwards. Whichever explains the frames best is taken.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import permutations
from operator import and_
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from semraft.data.files.formats import read_flow
from semraft.data.files.pictures import read_image
from semraft.describe.kinds import Kind
from semraft.describe.names import FrameNames, in_order, numbers, series_name, words
from semraft.frames import consecutive
from semraft.ops.warp import in_frame, match_positions
from semraft.sample import DamagedFile

TRIED = 4
"""Flow files, spread evenly, whose fit is measured."""
MAX_ERROR_RATIO = 0.9
"""Flow that fits leaves at most this part of the difference between the frames."""
ALIKE_RATIO = 1.05
"""Readings whose errors differ by less fit alike."""
NEXT = "each frame with the next one"


@dataclass
class Family:
    """Files of one kind and one role: their names differ from those of their frames in the same words."""

    kind: Kind
    files: dict[Path, list[Path]] = field(default_factory=dict)
    """File -> the frames that it may belong to."""

    @property
    def name(self) -> str:
        """The names of its series, the first ones."""
        series = sorted({series_name(path) for path in self.files})
        return ", ".join(series[:2]) + (f" and {len(series) - 2} more" if len(series) > 2 else "")

    def of_frame(self) -> dict[Path, Path]:
        """Frame -> its file."""
        return {frame: path for path, frames in self.files.items() for frame in frames}


class Candidate(NamedTuple):
    """Two frames that may be a pair."""

    image1: Path
    image2: Path
    scene: str
    how: str


class Fit(NamedTuple):
    """Flow read as that of certain pairs, and how well it explains the second frames."""

    family: Family
    how: str
    camera: tuple[str, ...]
    """Words in the path of the first frame that the other frames of the same number lack."""
    error: float
    """Mean difference of the frames along the flow, 0..255."""
    zero_error: float
    """The same without flow."""
    valid_frac: float
    files: int


class Pairing(NamedTuple):
    """The pairs of a folder, each with its flow file if it has one, and the evidence."""

    pairs: list[tuple[Candidate, Path | None]]
    fit: Fit | None


def families_of(kinds: dict[Path, Kind], frames: Sequence[Path]) -> tuple[list[Family], list[Path]]:
    """The families of files with truth, and the files that belong to no frame."""
    names, found, alone = FrameNames(frames), dict[object, Family](), []
    for path, kind in kinds.items():
        owners = names.of(path)
        if not owners:
            alone.append(path)
            continue
        own_words = words(path) - words(owners[0])
        role = tuple(sorted(word for word in own_words if not word.isdigit()))
        key = kind.name, kind.encoding, path.suffix.lower(), role
        found.setdefault(key, Family(kind)).files[path] = owners
    return list(found.values()), alone


def pair_up(folder: Path, frames: Sequence[Path], flows: Sequence[Family]) -> Pairing:
    """The pairs that the flow fits best; without flow, consecutive frames of the same camera."""
    candidates = [*_next(frames), *(_across(frames) if flows else ())]
    by_first: dict[Path, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_first[candidate.image1].append(candidate)
    fits = [fit for family in flows for fit in _fits(folder, family, by_first)]
    if not fits:
        right = _right_eyes(frames)
        return Pairing([(pair, None) for pair in candidates if pair.image1 not in right], None)
    most = max(fit.files for fit in fits)
    enough = [fit for fit in fits if 2 * fit.files >= most]
    least = min(fit.error for fit in enough)
    alike = [fit for fit in enough if fit.error <= ALIKE_RATIO * least]
    best = max(alike, key=lambda fit: (fit.valid_frac, fit.how == NEXT, -len(fit.camera)))
    pairs = [
        (candidate, path)
        for path, owners in best.family.files.items()
        for owner in owners
        if len(owners) == 1 or _camera(owner, owners) == best.camera
        for candidate in by_first[owner]
        if candidate.how == best.how
    ]
    return Pairing(sorted(pairs, key=lambda pair: in_order(pair[0].image1)), best)


def _next(frames: Sequence[Path]) -> Iterator[Candidate]:
    for sequence in consecutive(frames):
        for one, other in sequence:
            yield Candidate(one, other, sequence[0][0].with_suffix("").as_posix(), NEXT)


def _across(frames: Sequence[Path]) -> Iterator[Candidate]:
    """Frames of one number in two groups whose names differ in one word, in either order."""
    groups: dict[tuple[str, ...], dict[tuple[int, ...], Path]] = defaultdict(dict)
    for frame in frames:
        name = f"{frame.parent.as_posix()}/{series_name(Path(frame.name))}".lower()
        groups[tuple(re.findall(r"\d+|#|[^\W\d_]+", name))][numbers(frame.stem)] = frame
    alike: dict[tuple[int, tuple[str, ...]], list[tuple[str, ...]]] = defaultdict(list)
    for group in groups:
        for place in range(len(group)):
            alike[place, (*group[:place], *group[place + 1 :])].append(group)
    for (place, _), couple in alike.items():
        if len(couple) == 2:
            for one, other in permutations(couple):
                for number in groups[one].keys() & groups[other].keys():
                    frame = groups[one][number]
                    how = f"frames of one number, first {one[place]}, then {other[place]}"
                    yield Candidate(frame, groups[other][number], frame.with_suffix("").as_posix(), how)


def _camera(frame: Path, frames: Sequence[Path]) -> tuple[str, ...]:
    """The words and numbers of a frame's path that other frames of the same number lack."""
    shared = reduce(and_, map(words, frames))
    return tuple(sorted((words(frame) - shared).elements()))


def _right_eyes(frames: Sequence[Path]) -> set[Path]:
    """The frames of a right camera of which the left camera's is there."""
    lefts = {frame.as_posix().lower() for frame in frames}
    names = {frame: frame.as_posix().lower() for frame in frames}
    return {
        frame for frame, name in names.items() if "right" in name and name.replace("right", "left") in lefts
    }


def _fits(folder: Path, family: Family, by_first: dict[Path, list[Candidate]]) -> Iterator[Fit]:
    usable = [(path, owners) for path, owners in family.files.items() if any(by_first[p] for p in owners)]
    step = max(1, len(usable) // TRIED)
    measured: dict[tuple[str, tuple[str, ...]], list[tuple[float, float, float]]] = defaultdict(list)
    for path, owners in usable[::step][:TRIED]:
        try:
            flow, valid = read_flow(folder / path, family.kind.encoding)
        except (DamagedFile, OSError):
            continue
        for owner in owners:
            camera = _camera(owner, owners)
            for candidate in by_first[owner]:
                image1, image2 = (read_image(folder / name) for name in (candidate.image1, candidate.image2))
                if image1.shape[:2] == image2.shape[:2] == valid.shape and valid.any():
                    errors = _errors(image1, image2, flow, valid)
                    measured[candidate.how, camera].append((*errors, float(valid.mean())))
    for (how, camera), found in measured.items():
        error, zero_error, valid_frac = np.mean(found, axis=0).tolist()
        yield Fit(family, how, camera, error, zero_error, valid_frac, len(found))


def _errors(
    image1: UInt8[np.ndarray, "H W 3"],
    image2: UInt8[np.ndarray, "H W 3"],
    flow: Float32[np.ndarray, "H W 2"],
    valid: Bool[np.ndarray, "H W"],
) -> tuple[float, float]:
    """Mean difference of the frames along the flow, and without it, as where the flow leaves the frame."""
    x, y = match_positions(flow)
    fetched = np.where(in_frame(x, y)[..., None], cv2.remap(image2, x, y, cv2.INTER_LINEAR), image2)
    error, zero_error = (float(cv2.absdiff(image1, other)[valid].mean()) for other in (fetched, image2))
    return error, zero_error
