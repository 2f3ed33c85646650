"""MPI-Sintel: 1041 pairs of 23 scenes of an animated film; 1024x436, rendered clean and with all effects."""

import functools
from collections.abc import Iterator
from pathlib import Path

from semraft.data.datasets.pairs import (
    Listing,
    find_folder,
    frame_numbers,
    make_dataset,
    new_listing,
    read_frames,
    require_one_size,
    subfolders,
)
from semraft.data.files.pictures import read_mask
from semraft.ops.warp import in_frame, match_positions
from semraft.sample import Choose, FlowDataset, FlowSample, Pair

NAMES = {"clean": "sintel", "final": "sintel-final"}
MASKS = {"occluded1": "occlusions", "invalid": "invalid"}


def index(root: Path, split: str, rendering: str = "clean") -> FlowDataset:
    """MPI-Sintel: 1041 pairs of an animated film, rendered clean, with occlusion.

    `train` and `val` are both all training pairs: it is what others are judged on. Root is the folder that
    holds training/, or training/ itself. Ids are `alley_1/frame_0001`. Occlusion and invalid masks are
    required where their folders are.

    Raises:
        ValueError: No images of that rendering there.
    """
    name = NAMES[rendering]
    folder = find_folder(name, root / "training" / rendering, root / rendering).parent
    listing = new_listing()
    candidates = _candidates(folder, rendering, listing)
    return make_dataset(name, split, candidates, listing, functools.partial(read, dataset=name))


def index_final(root: Path, split: str) -> FlowDataset:
    """MPI-Sintel: the same 1041 pairs with motion blur and haze (`final`)."""
    return index(root, split, rendering="final")


def _candidates(folder: Path, rendering: str, listing: Listing) -> Iterator[Pair]:
    masks = {role: kind for role, kind in MASKS.items() if (folder / kind).is_dir()}
    for images in subfolders(folder / rendering):
        scene = images.name
        shown = frame_numbers(listing, images, r"frame_(\d{4})\.png")
        flowing = frame_numbers(listing, folder / "flow" / scene, r"frame_(\d{4})\.flo")
        for frame in sorted(flowing | shown - {max(shown, default=0)}):
            stem = f"frame_{frame:04d}"
            files = {
                "image1": images / f"{stem}.png",
                "image2": images / f"frame_{frame + 1:04d}.png",
                "flow": folder / "flow" / scene / f"{stem}.flo",
            }
            files |= {role: folder / kind / scene / f"{stem}.png" for role, kind in masks.items()}
            yield Pair(id=f"{scene}/{stem}", scene=f"sintel/{scene}", files=files)


def read(pair: Pair, choose: Choose | None = None, dataset: str = "sintel") -> FlowSample:
    """Reads one pair, or the window of it that `choose` takes.

    Points that leave the frame are occluded as well, in the mask or not.

    Raises:
        DamagedFile: A file that does not hold what it should.
    """
    arrays, part = read_frames(pair, choose=choose)
    arrays |= {kind: read_mask(pair.files[kind], part) for kind in MASKS if kind in pair.files}
    require_one_size(pair, arrays)
    if "invalid" in arrays:
        arrays["valid"] &= ~arrays.pop("invalid")
        arrays["flow"][~arrays["valid"]] = 0
    if "occluded1" in arrays:
        origin, frame = (part.window[:2], part.frame) if part else ((0, 0), arrays["valid"].shape)
        arrays["occluded1"] |= ~in_frame(*match_positions(arrays["flow"], origin), frame)
    return FlowSample(id=pair.id, scene=pair.scene, dataset=dataset, **arrays)
