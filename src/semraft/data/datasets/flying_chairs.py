"""FlyingChairs: 22 872 pairs of 512x384, chairs moving before photographs; no labels, no sequences."""

from pathlib import Path

from semraft.data.datasets.pairs import (
    find_folder,
    frame_numbers,
    make_dataset,
    make_sample,
    new_listing,
    read_frames,
)
from semraft.records import read_text
from semraft.sample import Choose, DamagedFile, FlowDataset, FlowSample, Pair

SPLIT_FILES = ("FlyingChairs_train_val.txt", "chairs_split.txt")
"""Line n is 1 if pair n is for training, 2 if for validation. The second name is that of RAFT's copy."""


def index(root: Path, split: str) -> FlowDataset:
    """FlyingChairs: 22 872 pairs of chairs before photographs.

    The split file has the split of each pair. Ids are `00001`, and each pair is a scene of its own. Root is
    FlyingChairs_release or the folder that holds it; the split file lies in either, or beside the pairs. Of a
    partial download, the pairs there are.

    Raises:
        ValueError: No data folder, no split file, or one with fewer lines than pairs.
        DamagedFile: A split file with anything but 1 and 2.
    """
    folder = find_folder("flying-chairs", root / "FlyingChairs_release" / "data", root / "data")
    parts = _read_split((root, folder.parent, folder))
    listing = new_listing()
    numbers = frame_numbers(listing, folder, r"(\d{5})_(?:img[12]\.ppm|flow\.flo)")
    if max(numbers, default=0) > len(parts):
        raise ValueError(
            f"flying-chairs: {folder} has pair {max(numbers):05d}, but the split file has {len(parts)} lines "
            "(the release's own has 22 872)"
        )
    part = {"train": "1", "val": "2"}[split]
    candidates = (_pair(folder, number) for number in sorted(numbers) if parts[number - 1] == part)
    return make_dataset("flying-chairs", split, candidates, listing, read)


def _read_split(folders: tuple[Path, ...]) -> list[str]:
    for path in (folder / name for folder in folders for name in SPLIT_FILES):
        if path.is_file():
            parts = read_text(path).split()
            if strange := sorted(set(parts) - {"1", "2"}):
                raise DamagedFile(path, f"must have 1 or 2 on each line, but has {strange[0]!r}")
            return parts
    raise ValueError(
        f"flying-chairs: no {SPLIT_FILES[0]} in {folders[0]}. It lists the pairs for training and is "
        "offered beside the archive on the data set's page: put it there."
    )


def _pair(folder: Path, number: int) -> Pair:
    files = {
        "image1": folder / f"{number:05d}_img1.ppm",
        "image2": folder / f"{number:05d}_img2.ppm",
        "flow": folder / f"{number:05d}_flow.flo",
    }
    return Pair(id=f"{number:05d}", scene=f"flying-chairs/{number:05d}", files=files)


def read(pair: Pair, choose: Choose | None = None) -> FlowSample:
    """Reads one pair, or the window of it that `choose` takes.

    Raises:
        DamagedFile: A file that does not hold what it should.
    """
    arrays, _ = read_frames(pair, choose=choose)
    return make_sample(pair, "flying-chairs", arrays)
