"""Flow files that exist, as a predictor: the files of each pair by the name of its first frame."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from semraft.data.files import png
from semraft.data.files.formats import read_flow
from semraft.describe.kinds import FLOW_SUFFIXES
from semraft.describe.names import FrameNames, files_in
from semraft.evaluation.evaluate import Predict
from semraft.sample import FlowDataset, FlowSample, require_size

SUFFIXES = (*FLOW_SUFFIXES, ".png")
"""Of a folder with files of several kinds the first of these is read, as `semraft predict` writes it."""
_HEADER_BYTES, _DEPTH = 26, 24


def flow_files(folder: Path, dataset: FlowDataset, indices: Sequence[int]) -> Predict:
    """The predictor that reads a flow file for each pair: .flo, .pfm, .npy, .npz, or png in KITTI's encoding.

    A pixel that is invalid in its file has zero flow.

    Raises:
        ValueError: No folder, a pair without a file, or a file that may be of several pairs.
    """
    if not folder.is_dir():
        raise ValueError(f"--flow {folder}: no such folder")
    pairs = [dataset.pairs[index] for index in indices]
    frames = {pair.id: pair.files.get("image1", Path(pair.id)).absolute() for pair in pairs}
    above = os.path.commonpath([frame.parent for frame in frames.values()])
    names = {pair_id: frame.relative_to(above) for pair_id, frame in frames.items()}
    known, found = FrameNames(list(names.values())), dict[Path, Path]()
    for path in _usable(folder):
        owners = known.of(path)
        if len(owners) > 1:
            raise ValueError(
                f"--flow {folder}: {path} may be of {owners[0]} or of {owners[1]}: name its folder"
            )
        found |= dict.fromkeys(owners, folder / path)
    if missing := [pair_id for pair_id, name in names.items() if name not in found]:
        raise ValueError(
            f"--flow {folder}: no flow for {len(missing)} of {len(names)} pairs, the first {missing[0]} "
            f"({frames[missing[0]]})"
        )

    def predict(sample: FlowSample) -> list[Float32[np.ndarray, "H W 2"]]:
        path = found[names[sample.id]]
        flow, _ = read_flow(path, "kitti")
        require_size(path, flow.shape[:2], sample.valid.shape, f"frame 1 of {sample.id}")
        return [flow]

    return predict


def _usable(folder: Path) -> list[Path]:
    """The flow files of a folder, all of one kind."""
    paths = files_in(folder)
    for suffix in SUFFIXES:
        fitting = [path for path in paths if path.suffix.lower() == suffix]
        if fitting := [path for path in fitting if suffix != ".png" or _is_deep(folder / path)]:
            return fitting
    return []


def _is_deep(path: Path) -> bool:
    """True where a png has 16 bits a sample."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    return head.startswith(png.SIGNATURE) and head[_DEPTH : _DEPTH + 1] == b"\x10"
