"""Frame pairs from what a user names: two pictures, a folder of pictures, or a video.

Pairs are formed inside one sequence and never across two. Pictures that form no pair are named.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from semraft.data.files.pictures import read_image
from semraft.npz import require_size
from semraft.sample import DamagedFile

IMAGES = (".png", ".jpg", ".jpeg", ".ppm", ".bmp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
OUTPUT_ENDINGS = ("_flow", "_kitti", "_labels", "_occlusion", "_sheet", "_untrusted")
"""Endings of the pictures that `semraft predict` writes, after the name of the pair."""
TRUTH_FOLDERS = {
    *("flow_occ", "flow_noc", "disp_occ", "disp_noc", "disp_occ_0", "disp_noc_0", "disp_occ_1", "disp_noc_1"),
    *("obj_map", "semantic", "semantic_rgb", "instance", "cls", "inst", "occlusions", "invalid", "flow_viz"),
    *("forwardFlow", "backwardFlow", "depth", "classSegmentation", "instanceSegmentation"),
}
"""Folders of KITTI, VIPER, Virtual KITTI and Sintel whose pictures are truth and no frames."""
TWO_FRAME_SCENES = re.compile(r"\d+_\d\d|.*_img[12]")
"""File names of KITTI and FlyingChairs: the last number is the frame, also where it is the same in all."""
CAMERA = re.compile(r"(cam|camera|view|eye)[_-]?$", re.IGNORECASE)
"""Text before a number that names a camera, not a frame."""


@dataclass(frozen=True, slots=True)
class FramePair:
    """Two frames to get flow for, and the name its files get; `name2` is that of files of frame 2 alone."""

    name: str
    image1: UInt8[np.ndarray, "H W 3"]
    image2: UInt8[np.ndarray, "H W 3"]
    name2: str = ""


@dataclass(slots=True)
class FramePairs:
    """The pairs of one input, read one after the other, and what of the input forms no pair."""

    frames: int
    """Number of frames found; of a video, the number that its header announces."""
    count: int
    """Number of pairs expected; a damaged frame can make them fewer."""
    pairs: Iterator[FramePair] = field(default_factory=lambda: iter(()))
    left_out: list[str] = field(default_factory=list)
    """One line for each frame that forms no pair and should; grows while `pairs` is read."""
    damaged: int = 0
    """Number of frames that could not be decoded; grows while `pairs` is read."""
    frames_per_s: float | None = None
    """Frame rate of a video, of the frames that are used."""


class Cut(NamedTuple):
    """Which frames of a video are used, by their numbers from 0 on."""

    first: int = 0
    last: int | None = None
    every: int = 1


WHOLE = Cut()


class Picture(NamedTuple):
    """A picture file of a sequence, and its place there."""

    number: int
    path: Path


def frame_pairs(inputs: Sequence[Path], cut: Cut = WHOLE) -> FramePairs:
    """The pairs of two pictures, of a folder, or of the frames in `cut` of a video.

    In a folder, the numbers in the file names give the sequences and the order of their pictures
    (`sequences_of`); a folder that holds folders of pictures is taken as one sequence or more for
    each of them. A video's pairs are its consecutive frames.

    Raises:
        ValueError: Another kind of input, a folder without pictures, a video without frames, or a cut of
            anything but a video.
    """
    is_video = len(inputs) == 1 and inputs[0].suffix.lower() in VIDEOS
    if cut != WHOLE and not is_video:
        raise ValueError("--frames and --every are for a video")
    for path in inputs:
        if not path.exists():
            raise ValueError(f"{path} is not there")
    if len(inputs) == 2 and all(path.is_file() for path in inputs):
        found = FramePairs(frames=2, count=1)
        found.pairs = _read([(inputs[0].stem, inputs[0], inputs[1])], found)
        return found
    if len(inputs) == 1 and inputs[0].is_dir():
        return _pairs_of_folder(inputs[0])
    if is_video:
        return _pairs_of_video(inputs[0], cut)
    raise ValueError(
        "give two images, one folder of images, or one video "
        f"({', '.join(VIDEOS)}); got {', '.join(map(str, inputs)) or 'nothing'}"
    )


def _pairs_of_folder(folder: Path) -> FramePairs:
    pictures = pictures_of(folder)
    if not pictures:
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGES)}): two at least are needed")
    pairs, left_out = _pair_up(pictures, folder)
    found = FramePairs(frames=len(pictures), count=len(pairs), left_out=left_out)
    found.pairs = _read(
        [(name, a, b) for name, (a, b) in zip(_names(pairs, folder), pairs, strict=True)], found
    )
    return found


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder, or of the folders in it: no hidden files, no truth, none of our outputs."""
    pictures = [path for path in sorted(folder.iterdir()) if _is_picture(path)]
    if not pictures:
        pictures = [
            path
            for path in sorted(folder.rglob("*"))
            if _is_picture(path) and not TRUTH_FOLDERS & set(path.relative_to(folder).parts)
        ]
    stems = {path.with_suffix("") for path in pictures}
    return [path for path in pictures if not _is_output(path, stems)]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGES and not path.name.startswith(".") and path.is_file()


def _is_output(path: Path, stems: set[Path]) -> bool:
    """True where `semraft predict` wrote this picture: it is named after a picture or a .flo file here."""
    for ending in OUTPUT_ENDINGS:
        if path.stem.endswith(ending):
            source = path.with_name(path.stem.removesuffix(ending))
            return source in stems or source.with_name(f"{source.name}.flo").exists()
    return False


def _pair_up(pictures: Sequence[Path], folder: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Consecutive pictures of each sequence, and a line for every picture that is in no pair."""
    pairs = [pair for sequence in consecutive(pictures) for pair in sequence]
    unnumbered = [path for path in pictures if not re.search(r"\d", path.stem)]
    stereo = any(re.search("left|right", path.stem, re.IGNORECASE) for path in pictures)
    if not pairs and len(pictures) == 2 and unnumbered and not stereo:
        return [(pictures[0], pictures[1])], []
    paired = {path for pair in pairs for path in pair}
    alone = [path for path in pictures if path not in paired]
    return pairs, [f"{path.relative_to(folder)}: no partner, {_reason(path)}" for path in alone]


def consecutive(pictures: Sequence[Path]) -> list[list[tuple[Path, Path]]]:
    """The pairs of consecutive pictures of each sequence; no pair where a frame between is missing."""
    found = []
    for group in _groups(pictures):
        sequences = sequences_of(group)
        step = usual_step(sequences)
        for sequence in sequences:
            steps = [(one.path, other.path, other.number - one.number) for one, other in pairwise(sequence)]
            found.append([(one, other) for one, other, made in steps if step is None or made == step])
    return found


def _reason(path: Path) -> str:
    if re.search(r"\d", path.stem):
        return "no frame of its scene follows or precedes it"
    return "its name has no frame number"


def _groups(pictures: Sequence[Path]) -> list[list[Path]]:
    """Pictures whose paths differ in the numbers of their file names alone."""
    groups: dict[tuple[Path, str, str], list[Path]] = defaultdict(list)
    for path in pictures:
        if re.search(r"\d", path.stem):
            groups[path.parent, re.sub(r"\d+", "0", path.stem), path.suffix.lower()].append(path)
    return list(groups.values())


def sequences_of(group: Sequence[Path]) -> list[list[Picture]]:
    """The sequences of pictures whose names differ in numbers alone, each in order.

    The frame is the last number that differs between the names, a camera's number excepted; all other
    numbers are those of sequences: `aachen_000000_000019`, `cam0_0007`, `000000_10`.
    """
    numbers = [[int(digits) for digits in re.findall(r"\d+", path.stem)] for path in group]
    texts = re.split(r"\d+", group[0].stem)
    differing = [place for place, column in enumerate(zip(*numbers, strict=True)) if len(set(column)) > 1]
    frames = [place for place in differing if not CAMERA.search(texts[place])]
    last = len(numbers[0]) - 1
    is_known = all(TWO_FRAME_SCENES.fullmatch(path.stem) for path in group)
    place = last if is_known or not frames else frames[-1]
    if not is_known and differing and not frames:  # Cameras alone differ: each has a single frame.
        return [[Picture(0, path)] for path in group]
    sequences: dict[tuple[int, ...], list[Picture]] = defaultdict(list)
    for path, values in zip(group, numbers, strict=True):
        key = tuple(value for at, value in enumerate(values) if at != place)
        sequences[key].append(Picture(values[place], path))
    return [sorted(sequence) for sequence in sequences.values()]


def usual_step(sequences: Sequence[Sequence[Picture]]) -> int | None:
    """The difference between the numbers of consecutive frames; None where most differ, as of time stamps.

    A larger difference means that frames between two are missing: those two are no pair.
    """
    steps = Counter(b.number - a.number for sequence in sequences for a, b in pairwise(sequence))
    if not steps:
        return None
    step, times = min(steps.items(), key=lambda item: (-item[1], item[0]))
    return step if 2 * times >= steps.total() and step > 0 else None


def _names(pairs: Sequence[tuple[Path, Path]], folder: Path) -> list[str]:
    """A name for each pair, no two the same: the first frame's, below its folder."""
    stems = [path.relative_to(folder).with_suffix("") for path, _ in pairs]
    times = Counter(stems)
    return [
        str(stem) if times[stem] == 1 else f"{stem}_{path.suffix[1:]}"
        for stem, (path, _) in zip(stems, pairs, strict=True)
    ]


def _read(pairs: Sequence[tuple[str, Path, Path]], found: FramePairs) -> Iterator[FramePair]:
    """Reads each pair's pictures, a picture of two pairs once; a damaged one is named and costs its pairs."""
    kept: tuple[Path, UInt8[np.ndarray, "H W 3"] | None] | None = None

    def image_of(path: Path) -> UInt8[np.ndarray, "H W 3"] | None:
        if kept is not None and kept[0] == path:
            return kept[1]
        try:
            return read_image(path)
        except DamagedFile as error:
            found.left_out.append(str(error))
            found.damaged += 1
            return None

    for name, path1, path2 in pairs:
        image1, image2 = image_of(path1), image_of(path2)
        kept = path2, image2
        if image1 is None or image2 is None:
            continue
        if image1.shape != image2.shape:
            sizes = [
                f"{path.name} {height} x {width}"
                for path, (height, width, _) in ((path1, image1.shape), (path2, image2.shape))
            ]
            found.left_out.append(f"{path1}: no partner of its size, {' and '.join(sizes)} px")
            continue
        yield FramePair(name, image1, image2, str(Path(name).with_name(path2.stem)))


def _pairs_of_video(path: Path, cut: Cut) -> FramePairs:
    video = cv2.VideoCapture(str(path))
    announced = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    if not video.isOpened():
        raise ValueError(f"{path} can't be decoded as a video")
    require_size(path, int(video.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(video.get(cv2.CAP_PROP_FRAME_WIDTH)))
    end = announced if cut.last is None else min(announced, cut.last + 1)
    used = len(range(cut.first, end, cut.every))
    if cut != WHOLE and used < 2:
        raise ValueError(f"{path} has {announced} frames: --frames and --every leave {used}, two are needed")
    found = FramePairs(frames=used, count=max(used - 1, 0))
    found.frames_per_s = (video.get(cv2.CAP_PROP_FPS) or 25.0) / cut.every
    found.pairs = _decode(video, path, cut, found)
    return found


def _decode(video: cv2.VideoCapture, path: Path, cut: Cut, found: FramePairs) -> Iterator[FramePair]:
    """Consecutive used frames up to the end that the header announces, past frames that can't be decoded."""
    before: UInt8[np.ndarray, "H W 3"] | None = None
    announced = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    if cut.first:
        video.set(cv2.CAP_PROP_POS_FRAMES, cut.first)
    number, missing, read = cut.first, [], 0
    while cut.last is None or number <= cut.last:
        is_used = (number - cut.first) % cut.every == 0
        there = video.grab()
        if not there and number >= announced:
            break
        if is_used:
            after = cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB) if there else None
            if after is None:
                missing.append(number)
            elif before is not None:
                names = (f"{path.stem}_{at:06d}" for at in (number - cut.every, number))
                yield FramePair(next(names), before, after, next(names))
            before, read = after, read + 1
        number += 1
    video.release()
    found.frames, found.damaged = read, len(missing)
    if missing:
        found.left_out.append(
            f"{path}: {len(missing)} of {read} frames can't be decoded, from number {missing[0]} on"
        )


def spread_pairs(path: Path, cut: Cut, count: int) -> Iterator[FramePair]:
    """At most `count` pairs of used frames, spread evenly over a video."""
    whole = _pairs_of_video(path, cut)
    for place in np.linspace(0, whole.count - 1, min(count, whole.count)).astype(int).tolist():
        first = cut.first + place * cut.every
        yield from _pairs_of_video(path, Cut(first, first + cut.every, cut.every)).pairs
