"""The procedural world written in the folders, names and encodings of a public data set.

The data set's own loader reads the files. Every pair is a scene of its own, made for two frames:
there are no longer sequences, and no two pairs share a street. Training pairs come from the training world,
validation pairs from the held-out one, whose textures are others.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8
from tqdm import tqdm

from semraft.data.files.formats import write_flow
from semraft.data.files.pictures import write_ids, write_image, write_palette
from semraft.data.taxonomy import (
    CITYSCAPES_CLASSES,
    VIPER_CLASSES,
    VIPER_PALETTE,
    VIRTUAL_KITTI_CLASSES,
    common_ids,
)
from semraft.data.world.bodies import CAR, LARGE_VEHICLE
from semraft.data.world.driving_scene import scene, stage
from semraft.data.world.textures import Split
from semraft.sample import FlowSample
from semraft.writing import whole_file, write_text

Mask = Bool[np.ndarray, "H W"]
Labels = UInt8[np.ndarray, "H W"]
Layout = Literal["viper", "virtual-kitti", "kitti"]

ANSWERS = "known_answers.json"
"""File beside the data with the values that a reader must find."""

LOST_AND_FOUND = "lost+found"
"""Folder that an empty disk of ext4 has."""

_VIPER_IDS = (3, 4, 6, 9, 11, 10, 8, 2, 20, 23, 24, 27)
_VIRTUAL_KITTI_IDS = (5, 0, 0, 4, 6, 9, 2, 1, 14, 14, 12, 11)
_CITYSCAPES_IDS = (7, 8, 22, 11, 14, 17, 21, 23, 24, 32, 26, 27)
"""Common id -> id of the data set. Virtual KITTI has no pavement and paints it as terrain; it has no people
either, who become Undefined."""
_VARIED_VIPER_IDS = {CAR: (24, 24, 25), LARGE_VEHICLE: (27, 26, 29)}
_VARIED_VIRTUAL_KITTI_IDS = {CAR: (12, 12, 13)}
"""By instance number: cars that are vans, lorries that are buses and, in VIPER, trains."""

_VIRTUAL_KITTI_SCENES: dict[Split, tuple[int, ...]] = {"train": (1, 6, 18, 20), "val": (2,)}
_KITTI_SIZES = ((0, 0), (1, 4), (0, 2), (5, 16), (6, 17))
"""Added to height and width: KITTI's images come in five sizes that differ about as much."""


def synthesize(
    root: Path,
    layout: Layout,
    *,
    train: int,
    val: int,
    size: tuple[int, int],
    seed: int,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes a data set of the procedural world and what a reader must find in it; returns the latter.

    Pair k of a split is `world.scene(seed, k, size, split)`. The data is made beside a new `root` and moved
    there when it is whole: `root` holds all of it or does not exist. In a folder that is there, which may be
    a mount point and then can't be replaced, it is made inside and moved up.

    `known_answers.json` has, for each split, the number of pairs, of valid pixels, the mean flow (u, v) in px
    and the number of pixels of each common class in frame 1, as the files hold them. KITTI's loader has no
    split: pairs 0 to train - 1 are the training world's, the others the held-out world's, and the answers are
    for all of them.

    Raises:
        ValueError: `root` exists and is not empty, no pair asked for, frames below 64 px.
    """
    if train < 0 or val < 0 or train + val == 0:
        raise ValueError(f"train, val: expected numbers from 0 up and a pair at least, got {train} and {val}")
    is_there = root.exists()
    if is_there and (not root.is_dir() or any(path.name != LOST_AND_FOUND for path in root.iterdir())):
        raise ValueError(f"{root} is not empty: give a new folder, nothing is overwritten")
    name = f"{root.name}.partial-{os.getpid()}"
    partial = root / name if is_there else root.with_name(name)
    partial.mkdir(parents=True)
    try:
        answers = _write_all(partial, layout, train, val, size, seed, progress)
        if is_there:
            for path in partial.iterdir():
                path.rename(root / path.name)
        else:
            partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return answers


def _write_all(
    folder: Path, layout: Layout, train: int, val: int, size: tuple[int, int], seed: int, progress: bool
) -> dict[str, Any]:
    tallies: dict[str, _Tally] = {}
    numbers: list[tuple[Split, int]] = [("train", number) for number in range(train)]
    numbers += [("val", number) for number in range(val)]
    for count, (split, number) in enumerate(tqdm(numbers, desc=layout, unit="pair", disable=not progress)):
        place = count if layout == "kitti" else number
        taller, wider = _KITTI_SIZES[place % len(_KITTI_SIZES)] if layout == "kitti" else (0, 0)
        sample = scene(seed, number, (size[0] + taller, size[1] + wider), split)
        patches = stage(seed, number, split).patches
        moving = set(patches["instance"][patches["moving"] & (patches["instance"] > 0)].tolist())
        valid, labels = _WRITERS[layout](folder, split, place, sample, moving)
        tallies.setdefault("all" if layout == "kitti" else split, _Tally()).add(sample.flow, valid, labels)
    answers = {
        "layout": layout,
        "seed": seed,
        "pairs_are": "independent two-frame scenes",
        "splits": {split: tally.answers() for split, tally in tallies.items()},
    }
    write_text(folder / ANSWERS, json.dumps(answers, indent=2) + "\n")
    return answers


@dataclass(slots=True)
class _Tally:
    """Sums over the pairs of a split."""

    pairs: int = 0
    valid_pixels: int = 0
    flow_sum: Float64[np.ndarray, "2"] = field(default_factory=lambda: np.zeros(2))
    labelled: Int64[np.ndarray, "256"] = field(default_factory=lambda: np.zeros(256, np.int64))

    def add(self, flow: Float32[np.ndarray, "H W 2"], valid: Mask, labels: Labels) -> None:
        self.pairs += 1
        self.valid_pixels += int(valid.sum())
        self.flow_sum += flow[valid].sum(axis=0, dtype=np.float64)
        self.labelled += np.bincount(labels.ravel(), minlength=256)

    def answers(self) -> dict[str, Any]:
        mean_px = self.flow_sum / max(self.valid_pixels, 1)
        return {
            "pairs": self.pairs,
            "valid_pixels": self.valid_pixels,
            "mean_u_px": float(mean_px[0]),
            "mean_v_px": float(mean_px[1]),
            "class_pixels": {str(k): int(self.labelled[k]) for k in np.flatnonzero(self.labelled)},
        }


_Array = TypeVar("_Array", bound=np.ndarray)


class _Frame(NamedTuple):
    image: UInt8[np.ndarray, "H W 3"]
    labels: Labels
    instances: Int32[np.ndarray, "H W"]


def _frames(sample: FlowSample) -> tuple[_Frame, _Frame]:
    first = sample.image1, _given(sample.labels1), _given(sample.instances1)
    second = sample.image2, _given(sample.labels2), _given(sample.instances2)
    return _Frame(*first), _Frame(*second)


def _given(array: _Array | None) -> _Array:
    """A field of a sample of the world, which has them all."""
    assert array is not None
    return array


def _source_ids(frame: _Frame, ids: tuple[int, ...], varied: Mapping[int, tuple[int, ...]]) -> Labels:
    """The data set's own class ids; instances of a `varied` class take turns between its ids."""
    source: Labels = np.array(ids, np.uint8)[frame.labels]
    for label, choices in varied.items():
        which = frame.labels == label
        source[which] = np.array(choices, np.uint8)[frame.instances[which] % len(choices)]
    return source


def _folder(*parts: str | Path) -> Path:
    path = Path(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write_viper(
    root: Path, split: Split, place: int, sample: FlowSample, moving: set[int]
) -> tuple[Mask, Labels]:
    """Each pair is a sequence of two frames; after 999 sequences come later frames of the first ones."""
    sequence, number = f"{place % 999 + 1:03d}", 10 * (place // 999 + 1)
    labels = []
    for step, frame in enumerate(_frames(sample)):
        stem = f"{sequence}_{number + step:05d}"
        ids = _source_ids(frame, _VIPER_IDS, _VARIED_VIPER_IDS)
        write_image(_folder(root, split, "img", sequence) / f"{stem}.jpg", frame.image)
        write_palette(_folder(root, split, "cls", sequence) / f"{stem}.png", ids, VIPER_PALETTE)
        colors = np.dstack([ids, frame.instances >> 8, frame.instances & 255]).astype(np.uint8)
        write_image(_folder(root, split, "inst", sequence) / f"{stem}.png", colors)
        labels.append(common_ids(VIPER_CLASSES)[ids])
    valid = sample.valid & (np.abs(sample.flow) < 511).all(axis=2)
    half = np.where(valid[..., None], sample.flow, np.nan).astype(np.float16)
    half.reshape(-1, 2)[np.flatnonzero(~valid)[:3]] = (np.inf, -np.inf)  # Real files have some among the NaN.
    path = _folder(root, split, "flow", sequence) / f"{sequence}_{number:05d}.npz"
    with whole_file(path) as file:
        np.savez_compressed(file, u=half[..., 0], v=half[..., 1])
    return valid, labels[0]


def _write_virtual_kitti(
    root: Path, split: Split, place: int, sample: FlowSample, moving: set[int]
) -> tuple[Mask, Labels]:
    """Each pair is a drive of two frames: the variant `clone` of a scene, then `clone-0001` and so on."""
    scenes = _VIRTUAL_KITTI_SCENES[split]
    variant = f"clone-{place // len(scenes):04d}" if place >= len(scenes) else "clone"
    drive = _folder(root, f"Scene{scenes[place % len(scenes)]:02d}", variant)

    def modality(name: str) -> Path:
        return _folder(drive, "frames", name, "Camera_0")

    labels, boxes = [], [_BOX_COLUMNS]
    for number, frame in enumerate(_frames(sample)):
        ids = _source_ids(frame, _VIRTUAL_KITTI_IDS, _VARIED_VIRTUAL_KITTI_IDS)
        write_image(modality("rgb") / f"rgb_{number:05d}.jpg", frame.image)
        palette = np.array([entry.color for entry in VIRTUAL_KITTI_CLASSES], np.uint8)
        write_image(modality("classSegmentation") / f"classgt_{number:05d}.png", palette[ids])
        path = modality("instanceSegmentation") / f"instancegt_{number:05d}.png"
        write_ids(path, frame.instances.astype(np.uint8))
        boxes += [_box_row(number, frame.instances == k, k, k in moving) for k in _present(frame.instances)]
        labels.append(common_ids(VIRTUAL_KITTI_CLASSES)[ids])
    height, width = sample.valid.shape
    valid = sample.valid & (np.abs(sample.flow) <= (width - 1, height - 1)).all(axis=2)
    write_flow(modality("forwardFlow") / "flow_00000.png", sample.flow, valid, "virtual-kitti")
    backward = modality("backwardFlow") / "backwardFlow_00001.png"
    write_flow(backward, _given(sample.backward_flow), sample.backward_valid, "virtual-kitti")
    write_text(drive / "bbox.txt", "\n".join(boxes) + "\n")
    colors = [" ".join([entry.name, *map(str, entry.color)]) for entry in VIRTUAL_KITTI_CLASSES]
    write_text(drive / "colors.txt", "\n".join(["Category r g b", *colors]) + "\n")
    return valid, labels[0]


_BOX_COLUMNS = (
    "frame cameraID trackID left right top bottom number_pixels truncation_ratio occupancy_ratio isMoving"
)


def _present(instances: Int32[np.ndarray, "H W"]) -> list[int]:
    return [int(number) for number in np.unique(instances) if number]


def _box_row(frame: int, mask: Mask, instance: int, moves: bool) -> str:
    """A row of bbox.txt; the instance map holds trackID + 1. Truncation is not known and written as 0."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, right, top, bottom = columns[0], columns[-1], rows[0], rows[-1]
    occupied = mask.sum() / ((right - left + 1) * (bottom - top + 1))
    return f"{frame} 0 {instance - 1} {left} {right} {top} {bottom} {mask.sum()} 0.0 {occupied:.6f} {moves}"


def _write_kitti(
    root: Path, split: Split, place: int, sample: FlowSample, moving: set[int]
) -> tuple[Mask, Labels]:
    """Truth as a laser scanner and fitted car models leave it: sparse, nothing high up, no moving people."""
    first, second = _frames(sample)
    name = f"{place:06d}_10.png"
    write_image(_folder(root, "training", "image_2") / name, first.image)
    write_image(_folder(root, "training", "image_2") / f"{place:06d}_11.png", second.image)
    vehicles = _given(sample.moving1) & np.isin(first.labels, (CAR, LARGE_VEHICLE))
    rng = np.random.default_rng((place, split == "val"))
    measured = rng.random(vehicles.shape) < np.where(vehicles, 0.85, 0.45)
    lines = np.arange(len(vehicles)) % 3 > 0  # The scanner's rings leave gaps between rows.
    measured &= lines[:, None] | vehicles
    measured[: len(vehicles) // 3] = False
    valid = sample.valid & measured & (vehicles | ~_given(sample.moving1))
    valid &= ((sample.flow >= -512) & (sample.flow <= 511.98)).all(axis=2)
    write_flow(_folder(root, "training", "flow_occ") / name, sample.flow, valid, "kitti")
    write_flow(
        _folder(root, "training", "flow_noc") / name, sample.flow, valid & _given(sample.valid_noc), "kitti"
    )
    write_ids(
        _folder(root, "training", "obj_map") / name, np.where(vehicles, first.instances, 0).astype(np.uint8)
    )
    ids = _source_ids(first, _CITYSCAPES_IDS, {})
    write_ids(_folder(root, "training", "semantic") / name, ids)
    write_ids(_folder(root, "training", "instance") / name, ids.astype(np.int32) * 256 + first.instances)
    return valid, common_ids(CITYSCAPES_CLASSES)[ids]


_WRITERS: dict[str, Callable[[Path, Split, int, FlowSample, set[int]], tuple[Mask, Labels]]] = {
    "viper": _write_viper,
    "virtual-kitti": _write_virtual_kitti,
    "kitti": _write_kitti,
}
