"""VIPER: rendered driving, riding and walking; 1920x1080; labels and instances of both frames.

The flow npz files are the list of pairs: in the usual download they exist for every tenth frame only, in the
full one for every frame. The second frame of a pair is always frame + 1. There is neither backward flow nor
an occlusion map.
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
    subfolders,
)
from semraft.data.taxonomy import LabelTable, read_labels, viper_instances
from semraft.sample import Choose, FlowDataset, FlowSample, Pair

SPLITS = ("train", "val", "test")


def index(root: Path, split: str, label_table: LabelTable = "viper-ids") -> FlowDataset:
    """VIPER: rendered driving in a game, labels and instances of both frames.

    Root is the folder that holds train/ and val/, or the split's own folder. Ids are `train/001_00010`:
    sequence numbers repeat between the splits. Images are jpg or png, whichever is there. With a folder
    `cls`, labels of both frames are required, and so are instance maps once a pair has both of its own: a
    missing file costs its pair. `label_table` is the table of the ids in `cls`.

    Raises:
        ValueError: No flow folder there, or root is the folder of another split.
    """
    folder = find_folder("viper", root / split / "flow", root / "flow").parent
    if folder == root and root.name in SPLITS and root.name != split:
        raise ValueError(f"viper: asked for {split}, but {root} holds {root.name}: give the folder above it")
    listing = new_listing()
    candidates = _candidates(folder, split, listing)
    reads = functools.partial(read, label_table=label_table)
    return make_dataset("viper", split, candidates, listing, reads, label_table=label_table)


def _candidates(folder: Path, split: str, listing: Listing) -> Iterator[Pair]:
    frames = [
        (flow_folder, frame)
        for flow_folder in subfolders(folder / "flow", r"\d{3}")
        for frame in sorted(frame_numbers(listing, flow_folder, rf"{flow_folder.name}_(\d{{5}})\.npz"))
    ]
    with_labels = (folder / "cls").is_dir()
    with_instances = any(
        {f"{flow.name}_{frame + step:05d}.png" for step in (0, 1)}
        <= listing(folder / "inst" / flow.name).keys()
        for flow, frame in frames
    )
    for flow_folder, frame in frames:
        sequence = flow_folder.name
        images, classes, instances = (folder / kind / sequence for kind in ("img", "cls", "inst"))
        first, second = f"{sequence}_{frame:05d}", f"{sequence}_{frame + 1:05d}"
        files = {
            "image1": _image_file(images, first, listing),
            "image2": _image_file(images, second, listing),
            "flow": flow_folder / f"{first}.npz",
        }
        if with_labels:
            files["labels1"] = classes / f"{first}.png"
            files["labels2"] = classes / f"{second}.png"
        if with_instances:
            files["instances1"] = instances / f"{first}.png"
            files["instances2"] = instances / f"{second}.png"
        yield Pair(id=f"{split}/{first}", scene=f"viper/{split}/{sequence}", files=files)


def _image_file(folder: Path, stem: str, listing: Listing) -> Path:
    """The image of that stem, png before jpg; the jpg's name where there is neither."""
    return folder / (f"{stem}.png" if f"{stem}.png" in listing(folder) else f"{stem}.jpg")


def read(pair: Pair, choose: Choose | None = None, label_table: LabelTable = "viper-ids") -> FlowSample:
    """Reads one pair, or the window of it that `choose` takes.

    Raises:
        DamagedFile: A file that does not hold what it should.
    """
    files = pair.files
    arrays, part = read_frames(pair, choose=choose)
    if "labels1" in files:
        arrays["labels1"] = read_labels(files["labels1"], label_table, part)
        arrays["labels2"] = read_labels(files["labels2"], label_table, part)
    if "instances1" in files:
        arrays["instances1"] = viper_instances(files["instances1"], part)
        arrays["instances2"] = viper_instances(files["instances2"], part)
    return make_sample(pair, "viper", arrays)
