"""KITTI 2015 and 2012: 200 and 194 real pairs with sparse laser flow; sizes vary from pair to pair.

2012 has no truth on moving objects. 2015 has dense truth on moving cars, an object map, and for frame 1 only
labels and instances, where the semantics archive was unpacked into the same folder.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

from semraft.data.datasets.pairs import (
    Listing,
    find_folder,
    frame_numbers,
    make_dataset,
    make_sample,
    new_listing,
    read_frames,
)
from semraft.data.files.formats import read_flow
from semraft.data.files.pictures import read_mask
from semraft.data.taxonomy import cityscapes_labels, kitti_instances
from semraft.sample import Choose, FlowDataset, FlowSample, Pair

OPTIONAL_FOLDERS = {
    "valid_noc": "flow_noc",
    "moving1": "obj_map",
    "labels1": "semantic",
    "instances1": "instance",
}
"""Field of a sample -> its folder. Where the folder is there every pair must have its file."""
PATTERN = r"(\d{6})_10\.png"
"""First frames. The multi-view extension puts frames 00 to 20 beside them."""


def index(root: Path, split: str) -> FlowDataset:
    """KITTI 2015: 200 real pairs, sparse flow on moving cars too, labels of the first frame.

    `train` and `val` are both all training pairs: they are what KITTI results are given on. Root is the
    folder that holds training/, or training/ itself. Ids are `000010`; each pair is a scene. Flow is
    flow_occ, `valid_noc` where flow_noc is valid too. A pair must have a file in each folder that is there.

    Raises:
        ValueError: No flow_occ there.
    """
    return _index("kitti", root, split, "image_2")


def index_2012(root: Path, split: str) -> FlowDataset:
    """KITTI 2012: 194 real pairs, sparse flow of what stands still.

    The colour images; otherwise as `index`.

    Raises:
        ValueError: No flow_occ there.
    """
    return _index("kitti-2012", root, split, "colored_0")


def _index(name: str, root: Path, split: str, image_folder: str) -> FlowDataset:
    folder = find_folder(name, root / "training" / "flow_occ", root / "flow_occ").parent
    listing = new_listing()
    candidates = _candidates(name, folder, folder / image_folder, listing)
    return make_dataset(name, split, candidates, listing, functools.partial(read, dataset=name), sparse=True)


def _candidates(name: str, folder: Path, images: Path, listing: Listing) -> Iterator[Pair]:
    numbers = frame_numbers(listing, folder / "flow_occ", PATTERN) | frame_numbers(listing, images, PATTERN)
    for number in sorted(numbers):
        first = f"{number:06d}_10.png"
        files = {
            "image1": images / first,
            "image2": images / f"{number:06d}_11.png",
            "flow": folder / "flow_occ" / first,
        }
        for role, kind in OPTIONAL_FOLDERS.items():
            if (folder / kind).is_dir():
                files[role] = folder / kind / first
        yield Pair(id=f"{number:06d}", scene=f"{name}/{number:06d}", files=files)


def read(pair: Pair, choose: Choose | None = None, dataset: str = "kitti") -> FlowSample:
    """Reads one pair, or the window of it that `choose` takes.

    Raises:
        DamagedFile: A file that does not hold what it should.
    """
    files = pair.files
    arrays, part = read_frames(pair, "kitti", choose)
    if "valid_noc" in files:
        _, arrays["valid_noc"] = read_flow(files["valid_noc"], "kitti", part)
    if "moving1" in files:
        arrays["moving1"] = read_mask(files["moving1"], part)
    if "labels1" in files:
        arrays["labels1"] = cityscapes_labels(files["labels1"], part=part)
    if "instances1" in files:
        arrays["instances1"] = kitti_instances(files["instances1"], part)
    return make_sample(pair, dataset, arrays, sparse=True)
