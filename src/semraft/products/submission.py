"""Results for the servers of public benchmarks, in the files that they take (docs/how-to/submit.md)."""

import re
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from semraft.data.files.formats import write_flow
from semraft.data.files.pictures import read_image
from semraft.inference import predict
from semraft.models.raft import RAFT

Benchmark = Literal["kitti", "sintel", "spring", "viper"]
PACKED_BY = {
    "kitti": "",
    "sintel": "bundler/linux-x64/bundler {out}/clean {out}/final {out}/sintel.lzma",
    "spring": "flow_subsampling {out}",
    "viper": "cd {out} && encode_flow_submission",
}
"""Benchmark -> the command that makes one archive of the folder: programs that only the benchmark has."""
VIPER_LIST = "flow_frames.txt"


class Wanted(NamedTuple):
    """A flow file that a benchmark wants, and the frames it leads from and to."""

    file: str
    image1: Path
    image2: Path


def write_submission(benchmark: Benchmark, model: RAFT, root: Path, out: Path, num_updates: int) -> int:
    """Predicts the flow of a benchmark's test frames and writes its files; returns their number.

    KITTI's are one .zip, those of the others a folder that the benchmark's own program packs (PACKED_BY).
    Files that are there already are kept: an interrupted submission goes on.

    Raises:
        ValueError: No test frames in `root`, or an `out` of the wrong kind.
        DamagedFile: A frame that can't be read.
    """
    wanted = list(wanted_files(benchmark, root))
    if not wanted:
        raise ValueError(f"{root} has no test frames of {benchmark}: docs/how-to/submit.md shows the folders")
    if (out.suffix == ".zip") != (benchmark == "kitti"):
        kind = "a .zip file" if benchmark == "kitti" else "a folder"
        raise ValueError(f"{out}: a submission to {benchmark} is {kind}")
    folder = out.with_suffix(".files") if benchmark == "kitti" else out
    for file, image1, image2 in tqdm(wanted, unit="pair"):
        path = folder / file
        if path.exists():
            continue
        frames = read_image(image1), read_image(image2)
        flow = predict(model, *frames, num_updates, top_padding="none" if benchmark == "kitti" else "half")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}")
        write_result(unfinished, flow)
        unfinished.rename(path)
    if benchmark == "kitti":
        with zipfile.ZipFile(out, "w") as archive:  # A png is compressed already.
            for file, _, _ in wanted:
                archive.write(folder / file, file)
    return len(wanted)


def write_result(path: Path, flow: Float32[np.ndarray, "H W 2"]) -> None:
    """Writes flow as .flo, as KITTI's .png, or as Spring's .flo5, by the ending.

    Raises:
        ValueError: .flo5 without h5py.
    """
    if path.suffix == ".flo5":
        try:
            import h5py
        except ImportError as error:
            raise ValueError("Spring's files need the extra: pip install 'semraft[spring]'") from error
        with h5py.File(path, "w") as file:
            file.create_dataset("flow", data=flow, compression="gzip")
    else:
        write_flow(path, flow, encoding="kitti" if path.suffix == ".png" else None)


def wanted_files(benchmark: Benchmark, root: Path) -> Iterator[Wanted]:
    """The files that a benchmark wants for the test frames in `root`, in order."""
    match benchmark:
        case "kitti":
            for first in sorted((root / "testing" / "image_2").glob("*_10.png")):
                yield Wanted(f"flow/{first.name}", first, first.with_name(f"{first.stem[:-2]}11.png"))
        case "sintel":
            for scene in sorted((root / "test").glob("*/*/")):
                if scene.parent.name in ("clean", "final"):
                    frames = sorted(scene.glob("frame_*.png"))
                    for image1, image2 in pairwise(frames):
                        yield Wanted(f"{scene.parent.name}/{scene.name}/{image1.stem}.flo", image1, image2)
        case "spring":
            yield from _wanted_by_spring(root / "test")
        case "viper":
            yield from _wanted_by_viper(root)


def _wanted_by_spring(test: Path) -> Iterator[Wanted]:
    """Flow forward and backward of both cameras."""
    for frames_folder in sorted(test.glob("*/frame_*/")):
        camera, scene = frames_folder.name.removeprefix("frame_"), frames_folder.parent.name
        frames = sorted(frames_folder.glob(f"frame_{camera}_*.png"))
        for direction, ordered in (("FW", frames), ("BW", frames[::-1])):
            name = f"flow_{direction}_{camera}"
            for image1, image2 in pairwise(ordered):
                number = image1.stem.rpartition("_")[2]
                yield Wanted(f"{scene}/{name}/{name}_{number}.flo5", image1, image2)


def _wanted_by_viper(root: Path) -> Iterator[Wanted]:
    """The pairs of the list that its toolkit has; each line begins with the name of the first frame."""
    lists = [folder / VIPER_LIST for folder in (root, root / "test") if (folder / VIPER_LIST).exists()]
    if not lists:
        raise ValueError(f"{root / VIPER_LIST} is not there: it lists the pairs that VIPER scores, copy it")
    for sequence, frame in re.findall(r"^(\d{3})_(\d{5})", lists[0].read_text(), re.MULTILINE):
        folder = root / "test" / "img" / sequence
        suffix = next((path.suffix for path in folder.glob(f"{sequence}_{frame}.*")), ".jpg")
        second = f"{sequence}_{int(frame) + 1:05d}{suffix}"
        yield Wanted(f"{sequence}_{frame}.flo", folder / f"{sequence}_{frame}{suffix}", folder / second)
