"""Whether flow fits its images: the alignment test.

It knows nothing of file formats. It fetches frame 2 along the flow and asks whether that looks more like
frame 1 than frame 2 as it is, and more than along the flow misread in any of the usual ways. Sums over the
pixels of all pairs decide, not single pairs: one dark or blurred pair proves nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from semraft.ops.warp import in_frame, match_positions
from semraft.sample import IGNORE_LABEL, FlowSample

Verdict = Literal["aligned", "not aligned", "undecided"]
Sums = dict[str, int | float]
Image = UInt8[np.ndarray, "H W 3"]
Flow = Float32[np.ndarray, "H W 2"]

AS_READ = "as read"
ZERO_FLOW = "zero flow"
FLIPPED = "both signs flipped"
MOVING_PX = 1.0
"""Readings are compared on pixels whose flow is at least so long: elsewhere they hardly differ."""
MIN_MOVING_FRAC = 0.01
"""With fewer moving pixels among the valid ones nothing can be decided."""
MIN_IN_FRAME_FRAC = 0.5
"""Flow of which less than this ends inside frame 2 is no flow between these images."""
MAX_ERROR_RATIO = 0.9
"""Flow that fits leaves at most so much of the error of zero flow."""
CLEARLY_BETTER_RATIO = 0.95
"""Another reading whose error is below this part of the flow's own speaks against the flow."""
MAX_LABEL_RATIO = 1.1
"""Labels that differ along the flow more than so many times as often as without it belong to other frames."""
CRITERION = (
    f"aligned: on pixels that move by {MOVING_PX:g} px or more, fetching frame 2 along the flow leaves at "
    f"most {MAX_ERROR_RATIO:.0%} of the photometric error of zero flow and of the flow with {FLIPPED}, and "
    "no other reading is clearly better. Not aligned: another reading, zero flow among them, leaves less "
    f"than {CLEARLY_BETTER_RATIO:.0%} of the flow's own error, or more than {1 - MIN_IN_FRAME_FRAC:.0%} of "
    f"the flow leaves the frame. Undecided: otherwise, and if fewer than {MIN_MOVING_FRAC:.0%} of the valid "
    "pixels move. Labels likewise, by the share of pixels where they differ: not aligned if the flow makes "
    f"that more than {MAX_LABEL_RATIO:.0%} of what it is with zero flow."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """The test's result. Photometric errors are 0..255, mean over the channels.

    `photometric_*` and `label_agreement_*` are over the valid, in-frame pixels that are not known to be
    occluded. `readings` are the errors of each way to read the flow, over the valid moving ones; where a
    reading leaves the frame it has the error of zero flow.
    """

    pairs: int
    moving_frac: float
    in_frame_frac: float
    photometric_flow: float
    photometric_zero: float
    readings: dict[str, float]
    verdict: Verdict
    reason: str
    label_agreement_flow_frac: float | None
    label_agreement_zero_frac: float | None
    labels_verdict: Verdict | None


def measure(sample: FlowSample, png_flow: bool) -> tuple[Sums, Sums]:
    """One pair's part of the test: pixel sums by name, and error sums by reading; both add up over pairs.

    `png_flow` says that the flow came from a 16-bit png, whose two encodings can be mistaken for each other.
    """
    visible = sample.valid if sample.occluded1 is None else sample.valid & ~sample.occluded1
    moving = visible & (np.hypot(sample.flow[..., 0], sample.flow[..., 1]) >= MOVING_PX)
    fetched, inside = _fetch(sample.image2, sample.flow, cv2.INTER_LINEAR)
    seen = visible & inside
    flow_error = _difference(sample.image1, fetched)
    zero_error = _difference(sample.image1, sample.image2)
    sums: Sums = {
        "pairs": 1,
        "visible": int(visible.sum()),
        "moving": int(moving.sum()),
        "seen": int(seen.sum()),
        "error_flow": _sum(flow_error, seen),
        "error_zero": _sum(zero_error, seen),
    }
    if sample.labels1 is not None and sample.labels2 is not None:
        moved, _ = _fetch(sample.labels2, sample.flow, cv2.INTER_NEAREST)
        known = seen & (sample.labels1 != IGNORE_LABEL) & (moved != IGNORE_LABEL)
        known &= sample.labels2 != IGNORE_LABEL
        sums["labelled"] = int(known.sum())
        sums["agree_flow"] = int((known & (moved == sample.labels1)).sum())
        sums["agree_zero"] = int((known & (sample.labels2 == sample.labels1)).sum())

    def error_of(target: Image, source: Image, flow: Flow) -> float:
        fetched, inside = _fetch(source, flow, cv2.INTER_LINEAR)
        return _sum(np.where(inside, _difference(target, fetched), zero_error), moving)

    errors: Sums = {
        AS_READ: _sum(np.where(inside, flow_error, zero_error), moving),
        ZERO_FLOW: _sum(zero_error, moving),
    }
    for name, flow in _misreadings(sample.flow, png_flow):
        errors[name] = error_of(sample.image1, sample.image2, flow)
    errors["frames swapped"] = error_of(sample.image2, sample.image1, sample.flow)
    return sums, errors


def _misreadings(flow: Flow, png_flow: bool) -> Iterator[tuple[str, Flow]]:
    """What the flow should have been, had it been misread in the way that the name says."""
    yield "u and v swapped", flow[..., ::-1]
    yield FLIPPED, -flow
    yield "sign of u flipped", flow * np.array([-1, 1], np.float32)
    yield "sign of v flipped", flow * np.array([1, -1], np.float32)
    for factor in (0.5, 0.9, 1.1, 2):
        yield f"{factor:g} times as long", flow * np.float32(factor)
    if png_flow:
        height, width = flow.shape[:2]
        extent_px = np.array([width - 1, height - 1], np.float32)
        unit = np.float32(2 / 65535)
        # Virtual KITTI: u = (raw * unit - 1) * extent; KITTI: u = (raw - 32768) / 64.
        yield "Virtual KITTI's png encoding", ((64 * flow + 32768) * unit - 1) * extent_px
        yield "KITTI's png encoding", ((flow / extent_px + 1) / unit - 32768) / 64


def _fetch(
    source: Shaped[np.ndarray, "H W ..."], flow: Flow, interpolation: int
) -> tuple[Shaped[np.ndarray, "H W ..."], Bool[np.ndarray, "H W"]]:
    """The source at p + flow(p), and where that is between its outermost pixel centres."""
    x, y = match_positions(flow)
    return cv2.remap(source, x, y, interpolation), in_frame(x, y)


def _difference(image: Image, other: Image) -> Float32[np.ndarray, "H W"]:
    """Absolute difference, mean over the channels (as a product: numpy's mean takes ten times as long)."""
    difference: Image = cv2.absdiff(image, other)
    return difference.astype(np.float32) @ np.full(3, 1 / 3, np.float32)


def _sum(values: Float32[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"]) -> float:
    return float(values[mask].sum(dtype=np.float64))


def judge(sums: Sums, errors: Sums) -> Alignment | None:
    """The test's result from the sums over all pairs; None if they have no pixel."""
    if not sums.get("visible"):
        return None
    moving_frac, in_frame_frac = sums["moving"] / sums["visible"], sums["seen"] / sums["visible"]
    readings = {name: total / max(sums["moving"], 1) for name, total in errors.items()}
    verdict, reason = _verdict(readings, moving_frac, in_frame_frac)
    agree_flow = agree_zero = labels_verdict = None
    if sums.get("labelled"):
        agree_flow, agree_zero = sums["agree_flow"] / sums["labelled"], sums["agree_zero"] / sums["labelled"]
        labels_verdict = _labels_verdict(1 - agree_flow, 1 - agree_zero, moving_frac)
    return Alignment(
        pairs=int(sums["pairs"]),
        moving_frac=moving_frac,
        in_frame_frac=in_frame_frac,
        photometric_flow=sums["error_flow"] / max(sums["seen"], 1),
        photometric_zero=sums["error_zero"] / max(sums["seen"], 1),
        readings=readings,
        verdict=verdict,
        reason=reason,
        label_agreement_flow_frac=agree_flow,
        label_agreement_zero_frac=agree_zero,
        labels_verdict=labels_verdict,
    )


def _verdict(readings: dict[str, float], moving_frac: float, in_frame_frac: float) -> tuple[Verdict, str]:
    """CRITERION."""
    own, best = readings[AS_READ], min(readings.values())
    # Zero flow alone would be too easy to beat: interpolation blurs noise away, right flow or wrong. The
    # flipped flow is blurred as much.
    baseline = min(readings[ZERO_FLOW], readings[FLIPPED])
    if moving_frac < MIN_MOVING_FRAC:
        return "undecided", f"too little motion: {moving_frac:.2%} of the valid pixels move"
    if best < CLEARLY_BETTER_RATIO * own:
        better = [name for name, error in readings.items() if CLEARLY_BETTER_RATIO * error <= best]
        return "not aligned", f"better: {' or '.join(better)} (error {best:.2f}, {AS_READ} {own:.2f})"
    if in_frame_frac < MIN_IN_FRAME_FRAC:
        return "not aligned", f"{1 - in_frame_frac:.0%} of the flow leaves the frame"
    if own <= MAX_ERROR_RATIO * baseline:
        return "aligned", f"error {own:.2f}, with zero or flipped flow {baseline:.2f}"
    return "undecided", f"error {own:.2f}, hardly below that of zero or flipped flow, {baseline:.2f}"


def _labels_verdict(differ_flow_frac: float, differ_zero_frac: float, moving_frac: float) -> Verdict:
    """CRITERION, for labels."""
    if moving_frac < MIN_MOVING_FRAC:
        return "undecided"
    if differ_flow_frac > MAX_LABEL_RATIO * differ_zero_frac:
        return "not aligned"
    return "aligned" if differ_flow_frac < MAX_ERROR_RATIO * differ_zero_frac else "undecided"
