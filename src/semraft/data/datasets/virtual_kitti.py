"""Virtual KITTI 2.0.3: five rendered scenes in ten variants; 1242x375; everything known for both frames.

Not for Virtual KITTI 1.3.1, whose files look alike and mean something else.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from semraft.data.datasets.pairs import (
    Listing,
    frame_numbers,
    make_dataset,
    make_sample,
    new_listing,
    read_frames,
    subfolders,
)
from semraft.data.files.formats import read_flow
from semraft.data.taxonomy import LabelTable, read_labels, virtual_kitti_instances
from semraft.records import read_text
from semraft.sample import Choose, DamagedFile, FlowDataset, FlowSample, Pair

VALIDATION_SCENES = ("Scene02",)
"""There is no official split. Scenes are held out whole: the ten variants drive the same way past the same
houses, so a split by frame or variant would validate on what was trained on. Scene02, 233 of 2126 frames, is
the smallest; it shows a town, a crossing and other traffic from a moving car."""

LABEL_TABLE: LabelTable = "virtual-kitti-colours"
FILES = {
    "image1": ("rgb", "rgb_{:05d}.jpg", 0),
    "image2": ("rgb", "rgb_{:05d}.jpg", 1),
    "flow": ("forwardFlow", "flow_{:05d}.png", 0),
    "backward_flow": ("backwardFlow", "backwardFlow_{:05d}.png", 1),
    "labels1": ("classSegmentation", "classgt_{:05d}.png", 0),
    "labels2": ("classSegmentation", "classgt_{:05d}.png", 1),
    "instances1": ("instanceSegmentation", "instancegt_{:05d}.png", 0),
    "instances2": ("instanceSegmentation", "instancegt_{:05d}.png", 1),
}
"""Field -> modality, file name, and which frame's file belongs to the pair (i, i + 1): i + 0 or i + 1.

Forward flow of frame i leads to i + 1 and is absent for the last frame; backward flow of i leads to i - 1
and is absent for the first."""


def index(root: Path, split: str, cameras: tuple[int, ...] = (0,)) -> FlowDataset:
    """Virtual KITTI 2: rendered driving in ten variants, everything known for both frames.

    `val` is VALIDATION_SCENES, `train` the other scenes, in all variants. Root holds Scene01, Scene02, ...,
    or a folder for each archive (vkitti_2.0.3_rgb/Scene01, ...), or some of both. An archive that was not
    unpacked at all is left out of the samples, unless it is rgb or forwardFlow. Camera 0 only by default:
    camera 1 is the right eye of the same moments. Ids are `Scene01/clone/Camera_0/00000`; a scene's variants
    are one `scene`, as they are not independent.

    Raises:
        ValueError: No rgb frames or no forward flow there.
    """
    homes = {modality: _home(root, f"frames/{modality}", modality) for modality, _, _ in FILES.values()}
    for modality in ("rgb", "forwardFlow"):
        if homes[modality] is None:
            raise ValueError(
                f"virtual-kitti: found neither {root}/SceneXX/VARIANT/frames/{modality} nor "
                f"{root}/vkitti_2.0.3_{modality}/SceneXX/VARIANT/frames/{modality}. "
                "Give the folder that the archives were unpacked into."
            )
    found = {modality: home for modality, home in homes.items() if home}
    boxes = _home(root, "bbox.txt", "textgt") if "instanceSegmentation" in found else None
    listing = new_listing()
    candidates = _candidates(found, boxes, split, cameras, listing)
    return make_dataset("virtual-kitti", split, candidates, listing, read, label_table=LABEL_TABLE)


def _home(root: Path, content: str, archive: str) -> Path | None:
    """The folder of the SceneXX that have this content: root, the archive's own folder, or None."""
    homes = (root / f"vkitti_2.0.3_{archive}", root)
    return next((home for home in homes if any(home.glob(f"Scene??/*/{content}"))), None)


def _candidates(
    homes: dict[str, Path], boxes: Path | None, split: str, cameras: tuple[int, ...], listing: Listing
) -> Iterator[Pair]:
    drives = sorted(
        {
            (scene.name, variant.name)
            for home in (homes["rgb"], homes["forwardFlow"])
            for scene in subfolders(home, r"Scene\d\d")
            if (scene.name in VALIDATION_SCENES) == (split == "val")
            for variant in subfolders(scene)
        }
    )
    for scene, variant in drives:
        for camera in cameras:
            folders = {
                modality: home / scene / variant / "frames" / modality / f"Camera_{camera}"
                for modality, home in homes.items()
            }
            shown = frame_numbers(listing, folders["rgb"], r"rgb_(\d{5})\.jpg")
            flowing = frame_numbers(listing, folders["forwardFlow"], r"flow_(\d{5})\.png")
            for frame in sorted(flowing | shown - {max(shown, default=0)}):
                files = {
                    role: folders[modality] / name.format(frame + offset)
                    for role, (modality, name, offset) in FILES.items()
                    if modality in folders
                }
                if boxes:
                    files["moving1"] = boxes / scene / variant / "bbox.txt"
                yield Pair(
                    id=f"{scene}/{variant}/Camera_{camera}/{frame:05d}",
                    scene=f"virtual-kitti/{scene}",
                    files=files,
                )


def read(pair: Pair, choose: Choose | None = None) -> FlowSample:
    """Reads one pair, or the window of it that `choose` takes.

    Instances are the file's numbers, trackID + 1; `moving1` is bbox.txt's isMoving.

    Raises:
        DamagedFile: A file that does not hold what it should.
    """
    files = pair.files
    arrays, part = read_frames(pair, "virtual-kitti", choose)
    if "backward_flow" in files:
        backward = read_flow(files["backward_flow"], "virtual-kitti", part)
        arrays["backward_flow"], arrays["backward_valid"] = backward
    if "labels1" in files:
        arrays["labels1"] = read_labels(files["labels1"], LABEL_TABLE, part)
        arrays["labels2"] = read_labels(files["labels2"], LABEL_TABLE, part)
    if "instances1" in files:
        arrays["instances1"] = virtual_kitti_instances(files["instances1"], part)
        arrays["instances2"] = virtual_kitti_instances(files["instances2"], part)
    if "moving1" in files:
        frame, camera = int(files["flow"].stem[-5:]), int(files["flow"].parent.name[-1])
        moving_tracks = read_moving_tracks(files["moving1"]).get((frame, camera), frozenset())
        arrays["moving1"] = np.isin(arrays["instances1"], [track + 1 for track in moving_tracks])
    return make_sample(pair, "virtual-kitti", arrays)


@functools.lru_cache(maxsize=64)
def read_moving_tracks(path: Path) -> dict[tuple[int, int], frozenset[int]]:
    """(frame, camera) -> trackIDs that move, from a bbox.txt; one file serves a drive's hundreds of pairs.

    Raises:
        DamagedFile: It lacks a column, or a row that is not numbers and True or False.
    """
    header, *rows = read_text(path).splitlines() or [""]
    columns = header.split()
    moving: dict[tuple[int, int], set[int]] = {}
    try:
        places = [columns.index(name) for name in ("frame", "cameraID", "trackID", "isMoving")]
        for row in rows:
            values = row.split()
            frame, camera, track, is_moving = (values[place] for place in places)
            if {"True": True, "False": False}[is_moving]:
                moving.setdefault((int(frame), int(camera)), set()).add(int(track))
    except (ValueError, IndexError, KeyError) as error:
        raise DamagedFile(path, f"is not a bounding box table with isMoving: {error}") from error
    return {place: frozenset(tracks) for place, tracks in moving.items()}
