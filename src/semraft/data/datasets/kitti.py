"""KITTI 2015 and 2012: 200 and 194 real pairs with sparse laser flow; sizes vary from pair to pair.

2012 has no truth on moving objects. 2015 has dense truth on moving cars, an object map, and for frame 1 only
labels and instances, where the semantics archive was unpacked into the same folder.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

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
from semraft.data.taxonomy import LabelTable, kitti_instances, read_labels
from semraft.sample import Choose, DamagedFile, FlowDataset, FlowSample, Pair

OPTIONAL_FOLDERS = {
    "valid_noc": "flow_noc",
    "moving1": "obj_map",
    "labels1": "semantic",
    "instances1": "instance",
}
"""Field of a sample -> its folder. Where the folder is there every pair must have its file."""
MAX_NOC_DIFFERENCE_PX = 1.0
"""flow_noc and flow_occ hold the same values where both are valid, up to rounding."""
PATTERN = r"(\d{6})_10\.png"
"""First frames. The multi-view extension puts frames 00 to 20 beside them."""


def index(root: Path, split: str, label_table: LabelTable = "label-ids") -> FlowDataset:
    """KITTI 2015: 200 real pairs, sparse flow on moving cars too, labels of the first frame.

    `train` and `val` are both all training pairs: they are what KITTI results are given on. Root is the
    folder that holds training/, or training/ itself. Ids are `000010`; each pair is a scene. Flow is
    flow_occ, `valid_noc` where flow_noc is valid too. A pair must have a file in each folder that is there.
    `label_table` is the table of the ids in `semantic`.

    Raises:
        ValueError: No flow_occ there.
    """
    return _index("kitti", root, split, "image_2", label_table)


def index_2012(root: Path, split: str, label_table: LabelTable = "label-ids") -> FlowDataset:
    """KITTI 2012: 194 real pairs, sparse flow of what stands still.

    The colour images; otherwise as `index`.

    Raises:
        ValueError: No flow_occ there.
    """
    return _index("kitti-2012", root, split, "colored_0", label_table)


def _index(name: str, root: Path, split: str, image_folder: str, label_table: LabelTable) -> FlowDataset:
    folder = find_folder(name, root / "training" / "flow_occ", root / "flow_occ").parent
    listing = new_listing()
    candidates = _candidates(name, folder, folder / image_folder, listing)
    reads = functools.partial(read, dataset=name, label_table=label_table)
    return make_dataset(name, split, candidates, listing, reads, sparse=True, label_table=label_table)


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


def read(
    pair: Pair,
    choose: Choose | None = None,
    dataset: str = "kitti",
    label_table: LabelTable = "label-ids",
) -> FlowSample:
    """Reads one pair, or the window of it that `choose` takes.

    Raises:
        DamagedFile: A file that does not hold what it should; flow_noc that is no part of flow_occ.
    """
    files = pair.files
    arrays, part = read_frames(pair, "kitti", choose)
    if "valid_noc" in files:
        flow_noc, arrays["valid_noc"] = read_flow(files["valid_noc"], "kitti", part)
    if "moving1" in files:
        arrays["moving1"] = read_mask(files["moving1"], part)
    if "labels1" in files:
        arrays["labels1"] = read_labels(files["labels1"], label_table, part)
    if "instances1" in files:
        arrays["instances1"] = kitti_instances(files["instances1"], part)
    sample = make_sample(pair, dataset, arrays, sparse=True)
    if "valid_noc" in files:
        _require_part_of_occ(files["valid_noc"], flow_noc, sample)
    return sample


def _require_part_of_occ(path: Path, flow_noc: Float32[np.ndarray, "H W 2"], sample: FlowSample) -> None:
    """Checks that what a flow_noc file holds is a part of flow_occ.

    Raises:
        DamagedFile: It is valid where flow_occ is not (the two are exchanged?), or holds another flow.
    """
    assert sample.valid_noc is not None
    if alone := int((sample.valid_noc & ~sample.valid).sum()):
        reason = f"{alone} pixels are valid here and not in flow_occ, of which flow_noc is a part"
        raise DamagedFile(path, f"{reason}: files exchanged, or of another download")
    difference_px = float(np.abs(flow_noc - sample.flow)[sample.valid_noc].max(initial=0))
    if difference_px > MAX_NOC_DIFFERENCE_PX:
        reason = f"differs from flow_occ by up to {difference_px:.1f} px where both are valid"
        raise DamagedFile(path, f"{reason}: of another pair, or of another download")
