"""FlyingThings3D: objects flying at random; 960x540, ten frames a sequence, flow both ways in time."""

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
from semraft.sample import Choose, FlowDataset, FlowSample, Pair

PARTS = {"train": "TRAIN", "val": "TEST"}
STEPS = {"future": 1, "past": -1}
"""Direction of time -> from frame i to frame i + step."""


def index(
    root: Path,
    split: str,
    renderings: tuple[str, ...] = ("clean", "final"),
    cameras: tuple[str, ...] = ("left",),
    directions: tuple[str, ...] = ("future", "past"),
) -> FlowDataset:
    """FlyingThings3D: rendered objects flying at random, flow into future and past.

    Subsets A, B and C of TRAIN or TEST; by default what RAFT is trained on: both renderings, left camera. Ids
    are `clean/A/0000/left/future/0006`. A rendering that is not there is left out. A sequence's last frame
    (for `past`, its first) has a flow file but no partner: that is no pair and no problem.

    Raises:
        ValueError: No optical_flow there, or neither rendering.
    """
    part = PARTS[split]
    flows = find_folder("flying-things", root / "optical_flow" / part)
    passes = {rendering: root / f"frames_{rendering}pass" / part for rendering in renderings}
    find_folder("flying-things", *passes.values())
    listing = new_listing()
    candidates = (
        pair
        for rendering, frames in passes.items()
        if frames.is_dir()
        for subset in subfolders(flows, "[ABC]")
        for sequence in subfolders(subset, r"\d{4}")
        for camera in cameras
        for direction in directions
        for pair in _candidates(frames, sequence, rendering, camera, direction, listing)
    )
    return make_dataset("flying-things", split, candidates, listing, read)


def _candidates(
    passes: Path, sequence: Path, rendering: str, camera: str, direction: str, listing: Listing
) -> Iterator[Pair]:
    place = f"{sequence.parent.name}/{sequence.name}"
    frames, flows = passes / place / camera, sequence / f"into_{direction}" / camera
    prefix, suffix = f"OpticalFlowInto{direction.capitalize()}_", f"_{camera[0].upper()}.pfm"
    numbers = frame_numbers(listing, frames, r"(\d{4})\.png")
    numbers |= frame_numbers(listing, flows, rf"{prefix}(\d{{4}}){suffix}")
    step = STEPS[direction]
    for frame in sorted(numbers)[:-1] if step > 0 else sorted(numbers)[1:]:
        files = {
            "image1": frames / f"{frame:04d}.png",
            "image2": frames / f"{frame + step:04d}.png",
            "flow": flows / f"{prefix}{frame:04d}{suffix}",
        }
        yield Pair(
            id=f"{rendering}/{place}/{camera}/{direction}/{frame:04d}",
            scene=f"flying-things/{passes.name}/{place}",
            files=files,
        )


def read(pair: Pair, choose: Choose | None = None) -> FlowSample:
    """Reads one pair; NaN and Inf in the flow are invalid.

    Raises:
        DamagedFile: A file that does not hold what it should.
    """
    arrays, _ = read_frames(pair, choose=choose)
    return make_sample(pair, "flying-things", arrays)
