"""Trained networks at work: load one, get flow for a pair, for files, folders and videos."""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch.nn import functional as F

from semraft import runtime
from semraft.config import CorrelationKind, Precision
from semraft.data.formats import write_flow
from semraft.data.pictures import read_image, write_image, write_mask, write_palette
from semraft.data.taxonomy import PALETTE
from semraft.models.encoder import STRIDE
from semraft.models.raft import RAFT
from semraft.models.weights import load_model
from semraft.ops.color import flow_to_color
from semraft.ops.occlusion import predicted
from semraft.sample import Estimate, Prediction

IMAGES = (".png", ".jpg", ".jpeg", ".ppm", ".bmp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def load(
    path_or_state_dict: str | Path | dict[str, Any],
    arch: str | None = None,
    correlation: CorrelationKind = "auto",
) -> RAFT:
    """A network from a semraft checkpoint, the public RAFT .pth files or torchvision's RAFT weights.

    Strict: every weight has to be there and to fit. The architecture is read from the weights; `arch`
    ("large", "small", "tiny") only checks it. On the CPU, ready to predict. `correlation`
    stores the all-pairs volume, computes what is looked at on demand, or takes what is faster: the same flow
    but for rounding.

    Raises:
        ValueError: The file holds no RAFT, or another architecture than `arch`.
    """
    model = load_model(path_or_state_dict, arch=arch).eval()
    model.correlation = correlation
    return model


def predict(
    model: RAFT,
    image1: UInt8[np.ndarray, "H W 3"],
    image2: UInt8[np.ndarray, "H W 3"],
    num_updates: int = 24,
) -> Float32[np.ndarray, "H W 2"]:
    """The flow from image1 to image2 in pixels. Images are RGB. Runs where the model is."""
    return estimate(model, image1, image2, num_updates, keep="last").flows[0]


def estimate(
    model: RAFT,
    image1: UInt8[np.ndarray, "H W 3"],
    image2: UInt8[np.ndarray, "H W 3"],
    num_updates: int,
    *,
    precision: Precision = "float32",
    keep: Literal["all", "last"] = "all",
) -> Estimate:
    """The flow after each refinement, or after the last alone, and what the network's heads say."""
    return decided(on_device(model, image1, image2, num_updates, precision=precision, keep=keep))


@torch.inference_mode()
def on_device(
    model: RAFT,
    image1: UInt8[np.ndarray, "H W 3"],
    image2: UInt8[np.ndarray, "H W 3"],
    num_updates: int,
    *,
    precision: Precision = "float32",
    keep: Literal["all", "last"] = "all",
    top_padding: Literal["half", "none"] = "half",
    labels1: UInt8[np.ndarray, "H W"] | None = None,
    labels2: UInt8[np.ndarray, "H W"] | None = None,
) -> Prediction:
    """What the network says of a pair, where the network is.

    Pads as RAFT's evaluation does, so that published figures can be met: half of the padding left and half
    right; above half (its Sintel way), or none and all of it below (its KITTI way). Labels are for a network
    that is conditioned on the truth.

    Raises:
        ValueError: Such a network without labels.
    """
    device = next(model.parameters()).device
    height, width = image1.shape[:2]
    padding_height, padding_width = -height % STRIDE, -width % STRIDE
    left, top = padding_width // 2, padding_height // 2 if top_padding == "half" else 0
    tensors = [
        F.pad(
            torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float(),
            (left, padding_width - left, top, padding_height - top),
            mode="replicate",
        )
        for image in (image1, image2)
    ]
    borders = (top, padding_height - top), (left, padding_width - left)
    classes = [
        None
        if labels is None or model.conditioning != "truth"
        else torch.from_numpy(np.pad(labels, borders, mode="edge")).to(device)[None].long()
        for labels in (labels1, labels2)
    ]
    was_training = model.training
    model.eval()
    with runtime.autocast(device, precision):
        prediction: Prediction = model(
            tensors[0], tensors[1], num_updates, labels1=classes[0], labels2=classes[1], keep=keep
        )
    model.train(was_training)
    window = (..., slice(top, top + height), slice(left, left + width))
    heads: dict[str, Any] = {
        name: None if (logits := getattr(prediction, name)) is None else logits[window]
        for name in ("occlusion", "segmentation1", "segmentation2")
    }
    return replace(prediction, flows=[flow[window] for flow in prediction.flows], **heads)


@torch.inference_mode()
def decided(prediction: Prediction) -> Estimate:
    """What a prediction of one pair comes to, as arrays."""
    occluded, decoded = prediction.occlusion, (prediction.segmentation1, prediction.segmentation2)
    labels1, labels2 = (
        None if logits is None else logits[0].argmax(dim=0).byte().cpu().numpy() for logits in decoded
    )
    return Estimate(
        flows=[flow[0].permute(1, 2, 0).float().cpu().numpy() for flow in prediction.flows],
        occluded1=None if occluded is None else predicted(occluded)[0].cpu().numpy(),
        labels1=labels1,
        labels2=labels2,
    )


@dataclass(frozen=True, slots=True)
class FramePair:
    """Two frames to get flow for, and the name its files get."""

    name: str
    image1: UInt8[np.ndarray, "H W 3"]
    image2: UInt8[np.ndarray, "H W 3"]


def frame_pairs(inputs: Sequence[Path]) -> tuple[int, Iterator[FramePair]]:
    """The pairs to predict, and how many: two images, a folder of frames, or a video.

    A folder's images are taken in natural order, each with its successor; where all are named *_10 and *_11,
    as in KITTI, each pair by its number. A video's pairs are its consecutive frames.

    Raises:
        ValueError: Something else, or fewer than two frames.
    """
    for path in inputs:
        if not path.exists():
            raise ValueError(f"{path} is not there")
    if len(inputs) == 2 and all(path.is_file() for path in inputs):
        return 1, iter([FramePair(inputs[0].stem, read_image(inputs[0]), read_image(inputs[1]))])
    if len(inputs) == 1 and inputs[0].is_dir():
        pairs = _pairs_of_folder(inputs[0])
        return len(pairs), (FramePair(a.stem, read_image(a), read_image(b)) for a, b in pairs)
    if len(inputs) == 1 and inputs[0].suffix.lower() in VIDEOS:
        return _pairs_of_video(inputs[0])
    raise ValueError(
        "give two images, one folder of images, or one video "
        f"({', '.join(VIDEOS)}); got {', '.join(map(str, inputs))}"
    )


def _pairs_of_folder(folder: Path) -> list[tuple[Path, Path]]:
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGES]
    images.sort(key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", path.name)])
    if len(images) < 2:
        raise ValueError(
            f"{folder} holds {len(images)} images ({', '.join(IMAGES)}): two at least are needed"
        )
    pairs = list(pairwise(images))
    if all(re.fullmatch(r".+_1[01]", path.stem) for path in images):
        return [(a, b) for a, b in pairs if (a.stem[:-1], b.stem[-1]) == (b.stem[:-1], "1")]
    return pairs


def _pairs_of_video(path: Path) -> tuple[int, Iterator[FramePair]]:
    video = cv2.VideoCapture(str(path))
    frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    there, first = video.read()
    if not there:
        raise ValueError(f"{path} can't be decoded as a video, or has no frame")

    def pairs() -> Iterator[FramePair]:
        before, number = cv2.cvtColor(first, cv2.COLOR_BGR2RGB), 0
        while True:
            there, frame = video.read()
            if not there:
                video.release()
                return
            after = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            yield FramePair(f"{path.stem}_{number:06d}", before, after)
            before, number = after, number + 1

    return max(frames - 1, 0), pairs()


def write_prediction(out: Path, name: str, found: Estimate, formats: Sequence[str]) -> None:
    """Writes the last flow as `flo` (NAME.flo), `kitti` (NAME_kitti.png) and `color` (NAME_flow.png).

    Of heads: the classes of frame 1 (NAME_labels.png, ids with a palette), what is occluded
    (NAME_occlusion.png, 255 where it is).
    """
    out.mkdir(parents=True, exist_ok=True)
    flow = found.flows[-1]
    if "flo" in formats:
        write_flow(out / f"{name}.flo", flow)
    if "kitti" in formats:
        path = out / f"{name}_kitti.png"
        lost = flow.shape[0] * flow.shape[1] - write_flow(path, flow, encoding="kitti")
        if lost:
            warnings.warn(f"{path}: {lost} pixels beyond +-512 px are marked invalid", stacklevel=2)
    if "color" in formats:
        write_image(out / f"{name}_flow.png", flow_to_color(flow))
    if found.labels1 is not None:
        write_palette(out / f"{name}_labels.png", found.labels1, PALETTE)
    if found.occluded1 is not None:
        write_mask(out / f"{name}_occlusion.png", found.occluded1)
