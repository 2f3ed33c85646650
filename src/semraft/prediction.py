"""Predictions of many pairs: run the network, check what can be checked without truth, write the files."""

import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Shaped, UInt8
from tqdm import tqdm

from semraft.config import Precision
from semraft.data.files.formats import write_flow
from semraft.data.files.pictures import write_image, write_mask, write_palette
from semraft.data.taxonomy import PALETTE
from semraft.frames import FramePair, FramePairs
from semraft.inference import estimate
from semraft.models.raft import RAFT
from semraft.ops.color import color_wheel_legend, flow_to_color
from semraft.ops.occlusion import forward_backward, out_of_frame
from semraft.ops.warp import warp
from semraft.overlay import Overlay
from semraft.sample import Estimate

Format = Literal["flo", "kitti", "color", "sheet", "labels", "backward", "untrusted"]
BOTH_WAYS: set[Format] = {"sheet", "backward", "untrusted"}
"""Formats for which the flow from frame 2 to frame 1 is computed too."""
SHEET_WIDTH_PX = 960
"""Width of one of the four pictures of a contact sheet; narrower frames are not enlarged."""
UNDONE_RESIDUAL = 1.05
"""An earlier refinement is called better if the last one's residual is at least so many times its own..."""
UNDONE_PX = 0.5
"""...and the flow has changed by so much since, in pixels, in the mean."""
_BLUR_PX = 15
"""Side of the neighbourhood whose mean grey is taken away before frames are compared: exposure may change."""


class Undone(NamedTuple):
    """Refinements that made a flow worse: the one that explained frame 2 best, and both residuals."""

    best: int
    """Number of the refinement, from 1."""
    best_residual: float
    """Mean absolute difference of frame 1 and frame 2 along the flow, in grey levels."""
    last_residual: float


def predict_pairs(
    model: RAFT,
    found: FramePairs,
    out: Path | None,
    num_updates: int,
    precision: Precision,
    formats: Sequence[Format],
    overlay: Overlay | None = None,
) -> int:
    """Predicts every pair, writes its files and its frame of the overlay, and returns the number of pairs.

    The first pair, and every pair with a contact sheet, is checked: a warning names late refinements that
    undo earlier ones.
    """
    written = 0
    for pair in tqdm(found.pairs, total=found.count, unit="pair"):
        is_checked = written == 0 or "sheet" in formats
        estimated = estimate(
            model,
            pair.image1,
            pair.image2,
            num_updates,
            precision=precision,
            keep="all" if is_checked else "last",
            backward=bool(BOTH_WAYS & set(formats)),
        )
        if is_checked and (undone := undone_refinements(pair, estimated.flows)):
            tqdm.write(
                f"! {pair.name}: refinement {undone.best} explains frame 2 better than refinement "
                f"{num_updates} ({undone.best_residual:.1f} against {undone.last_residual:.1f} grey levels "
                f"off): these weights may run away here, try --num-updates {undone.best}",
                file=sys.stderr,
            )
        if out is not None:
            write_prediction(out, pair, estimated, formats)
        if overlay is not None:
            overlay.write(pair.image1, estimated.flows[-1])
        written += 1
    return written


def fastest_px(model: RAFT, pairs: Iterable[FramePair], num_updates: int, precision: Precision) -> float:
    """A speed for the full colour of all pairs: the 99th percentile of the flow of some, 1 px at least."""
    speeds_px = []
    for pair in pairs:
        found = estimate(model, pair.image1, pair.image2, num_updates, precision=precision, keep="last")
        speeds_px.append(np.hypot(*np.moveaxis(found.flows[-1], -1, 0)))
    return max(float(np.percentile(np.stack(speeds_px), 99)), 1.0)


def undone_refinements(pair: FramePair, flows: Sequence[Float32[np.ndarray, "H W 2"]]) -> Undone | None:
    """The refinement after which the flow got clearly worse, judged by frame 2; None where there is none.

    Of every refinement the residual is the mean absolute difference of frame 1 and frame 2 warped along the
    flow, each less its local mean. It is compared where both flows stay inside frame 2.
    """
    grey1, grey2 = (_local_contrast(image) for image in (pair.image1, pair.image2))
    last_difference, last_seen = _difference(grey1, grey2, flows[-1])
    best: Undone | None = None
    for number, flow in enumerate(flows[:-1], start=1):
        if np.abs(flow - flows[-1]).sum(-1).mean() < UNDONE_PX:
            continue
        difference, seen = _difference(grey1, grey2, flow)
        both = seen & last_seen
        if not both.any():
            continue
        here, last = float(difference[both].mean()), float(last_difference[both].mean())
        if last > UNDONE_RESIDUAL * here and (best is None or here < best.best_residual):
            best = Undone(number, here, last)
    return best


def _local_contrast(image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W"]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    contrast: Float32[np.ndarray, "H W"] = grey - cv2.blur(grey, (_BLUR_PX, _BLUR_PX))
    return contrast


def _difference(
    grey1: Float32[np.ndarray, "H W"], grey2: Float32[np.ndarray, "H W"], flow: Float32[np.ndarray, "H W 2"]
) -> tuple[Float32[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
    """|frame 1 - frame 2 along the flow|, and where the flow stays inside frame 2."""
    warped, seen = warp(torch.from_numpy(grey2)[None, None], _as_tensor(flow))
    return np.abs(grey1 - warped[0, 0].numpy()), seen[0].numpy()


def _as_tensor(flow: Float32[np.ndarray, "H W 2"]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(flow)).permute(2, 0, 1)[None]


def untrusted(
    flow: Float32[np.ndarray, "H W 2"], backward: Float32[np.ndarray, "H W 2"]
) -> Bool[np.ndarray, "H W"]:
    """True where a flow can't be trusted: it leaves the frame, or the backward flow does not lead back."""
    forward, back = _as_tensor(flow), _as_tensor(backward)
    mask: Bool[np.ndarray, "H W"] = (forward_backward(forward, back) | out_of_frame(forward))[0].numpy()
    return mask


def write_prediction(out: Path, pair: FramePair, found: Estimate, formats: Sequence[Format]) -> None:
    """Writes the last flow as `flo` (NAME.flo), `kitti` (NAME_kitti.png) and `color` (NAME_flow.png).

    `backward` (NAME_backward.flo) is the flow from frame 2 to frame 1, `untrusted` (NAME_untrusted.png) the
    mask of `untrusted`, 255 where it is set. `sheet` (NAME_sheet.png) shows the frames, the flow and where
    it can't be trusted. Heads: the classes of frame 1 (NAME_labels.png, ids with a palette) and, with
    `labels`, of frame 2 by its own name; occluded pixels (NAME_occlusion.png, 255 where occluded).
    """
    place = out / pair.name
    place.parent.mkdir(parents=True, exist_ok=True)

    def named(ending: str) -> Path:
        return place.with_name(place.name + ending)

    flow = found.flows[-1]
    if "flo" in formats:
        write_flow(named(".flo"), flow)
    if "kitti" in formats:
        path = named("_kitti.png")
        lost = flow.shape[0] * flow.shape[1] - write_flow(path, flow, encoding="kitti")
        if lost:
            warnings.warn(f"{path}: {lost} pixels beyond +-512 px are marked invalid", stacklevel=2)
    if "color" in formats:
        write_image(named("_flow.png"), flow_to_color(flow))
    if "backward" in formats and found.backward_flow is not None:
        write_flow(named("_backward.flo"), found.backward_flow)
    if "untrusted" in formats and found.backward_flow is not None:
        write_mask(named("_untrusted.png"), untrusted(flow, found.backward_flow))
    if "sheet" in formats and found.backward_flow is not None:
        write_image(named("_sheet.png"), contact_sheet(pair, flow, untrusted(flow, found.backward_flow)))
    if found.labels1 is not None:
        write_palette(named("_labels.png"), found.labels1, PALETTE)
    if "labels" in formats and found.labels2 is not None:
        # The next pair writes the same file, but the last frame of a sequence is in no other pair.
        write_palette(out / f"{pair.name2}_labels.png", found.labels2, PALETTE)
    if found.occluded1 is not None:
        write_mask(named("_occlusion.png"), found.occluded1)


def contact_sheet(
    pair: FramePair, flow: Float32[np.ndarray, "H W 2"], doubtful: Bool[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "S T 3"]:
    """Four captioned pictures: frame 1, frame 2, the flow in colours, frame 1 with doubtful pixels red."""
    speed_px = np.hypot(flow[..., 0], flow[..., 1])
    fastest_px = max(float(np.percentile(speed_px, 99.5)), 1.0)
    marked = pair.image1.copy()
    marked[doubtful] = marked[doubtful] // 3 + np.array([150, 0, 0], np.uint8)
    tiles = [
        _captioned(pair.image1, "frame 1"),
        _captioned(pair.image2, "frame 2"),
        _captioned(
            flow_to_color(flow, max_px=fastest_px),
            f"flow, full colour = {fastest_px:.1f} px",
            has_legend=True,
        ),
        _captioned(marked, f"red: not to be trusted ({100 * doubtful.mean():.0f} % of the pixels)"),
    ]
    sheet: UInt8[np.ndarray, "S T 3"] = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
    return sheet


def _captioned(
    image: UInt8[np.ndarray, "H W 3"], caption: str, has_legend: bool = False
) -> Shaped[np.ndarray, "h w 3"]:
    """A picture at most `SHEET_WIDTH_PX` wide with a line of text above it."""
    height, width = image.shape[:2]
    if width > SHEET_WIDTH_PX:
        height, width = round(height * SHEET_WIDTH_PX / width), SHEET_WIDTH_PX
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    image = image.copy()
    if has_legend:
        side = min(height, width) // 5
        image[-side:, -side:] = color_wheel_legend(side)
    bar = np.full((24, width, 3), 255, np.uint8)
    cv2.putText(bar, caption, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([bar, image])
