"""Alignment test: whether flow, labels and occlusion fit the images.

Frame 2 is fetched along the flow and compared with frame 1; so it is along the flow misread in each of the
usual ways, with the frames and flows of neighbouring pairs, and along a motion estimated from the frames.
Sums over the pixels of all pairs decide, not single pairs: one dark or blurred pair proves nothing. Not for
file formats.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from semraft.ops.warp import in_frame, match_positions
from semraft.sample import IGNORE_LABEL, FlowSample

Verdict = Literal["aligned", "not aligned", "undecided"]
Sums = dict[str, int | float]
Image = UInt8[np.ndarray, "H W 3"]
Flow = Float32[np.ndarray, "H W 2"]
Labels = UInt8[np.ndarray, "H W"]
Neighbours = Mapping[Literal["before", "after"], FlowSample]
"""The pairs before and after a pair in the order of its data set, where there are any of its size."""

AS_READ = "as read"
ZERO_FLOW = "zero flow"
FLIPPED = "both signs flipped"
ESTIMATED = "motion estimated from the frames"
_FLOW_OF = "flow of the pair {}"
_SECOND_FRAME_OF = "second frame from frame {} of the pair {}"
OF_THE_SIZE = "in parts of the frame's width and height"
MOVING_PX = 1.0
"""Readings are compared on pixels whose flow is at least so long: elsewhere they hardly differ."""
MIN_MOVING_FRAC = 0.01
"""With fewer moving pixels among the valid ones readings can't be compared."""
MIN_IN_FRAME_FRAC = 0.5
"""Flow of which less than this ends inside frame 2 is no flow between these images."""
MAX_ERROR_RATIO = 0.9
"""Flow that fits leaves at most so much of the error of zero flow."""
CLEARLY_BETTER_RATIO = 0.95
"""Another reading whose error is below this part of the flow's own speaks against the flow."""
ESTIMATE_BETTER_RATIO = 0.75
"""An estimated motion follows the images, shadows and all: true flow of real frames has at most 1.1 times
its error (KITTI pair 000003), flow of another camera or pair 1.4 times and more."""
ESTIMATE_EXPLAINS_RATIO = 0.85
"""No other reading explains the frames where estimated motion has less than this part of its error too."""
MIN_ESTIMATE_SIDE_PX = 64
"""Motion is not estimated in smaller frames."""
MAX_LABEL_RATIO = 1.1
"""Labels that differ along the flow more than so many times as often as without it belong to other frames."""
LABELS_BETTER_RATIO = 0.7
"""Other labels that differ at less than this part of the pixels speak against the labels."""
MIN_OCCLUDED_FRAC = 0.005
"""With fewer occluded pixels in the frame nothing is said of occlusion."""
MIN_OCCLUDED_RATIO = 0.5
"""Occluded pixels match worse than visible ones; below this part of their error the mask is wrong."""
CRITERION = (
    f"aligned: on pixels that move by {MOVING_PX:g} px or more, frame 2 along the flow leaves at most "
    f"{MAX_ERROR_RATIO:.0%} of the error of zero and of flipped flow, no other reading being clearly better. "
    "Not aligned: another reading leaves less than "
    f"{CLEARLY_BETTER_RATIO:.0%} of the flow's own error, estimated motion less than "
    f"{ESTIMATE_BETTER_RATIO:.0%}, or more than {1 - MIN_IN_FRAME_FRAC:.0%} of the flow leaves the frame. "
    "Undecided: otherwise"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """The test's result. Photometric errors are 0..255, mean over the channels.

    `photometric_*` and `label_agreement_*` are over the valid, in-frame pixels that are not known to be
    occluded. `readings` are the errors of each way to read the flow, over the valid moving ones; where a
    reading leaves the frame it has the error of zero flow. `label_readings` are the shares of pixels at which
    the labels of the frames differ along the flow.
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
    label_readings: dict[str, float]
    labels_verdict: Verdict | None
    labels_reason: str
    occlusion_verdict: Verdict | None
    occlusion_reason: str

    @property
    def contradictions(self) -> tuple[str, ...]:
        """A line for each of flow, labels and occlusion that does not fit the images."""
        found = {
            f"flow not aligned: {self.reason}": self.verdict,
            f"labels not aligned: {self.labels_reason}": self.labels_verdict,
            f"occlusion not aligned: {self.occlusion_reason}": self.occlusion_verdict,
        }
        return tuple(line for line, verdict in found.items() if verdict == "not aligned")


@dataclass(frozen=True, slots=True)
class PairErrors:
    """One pair's part of the test, or the sum of several."""

    sums: Sums
    """Numbers of pixels and sums of errors by name."""
    readings: Sums
    """Sums of the photometric error over moving pixels by reading."""
    labels: Sums
    """Numbers of pixels that are compared (NAME) and that differ (`differ` NAME), by reading."""

    def __add__(self, other: "PairErrors") -> "PairErrors":
        return PairErrors(
            _added(self.sums, other.sums),
            _added(self.readings, other.readings),
            _added(self.labels, other.labels),
        )


def _added(sums: Sums, others: Sums) -> Sums:
    return {name: sums.get(name, 0) + others.get(name, 0) for name in {**sums, **others}}


NO_PAIRS = PairErrors({}, {}, {})


def measure(sample: FlowSample, png_flow: bool, neighbours: Neighbours | None = None) -> PairErrors:
    """One pair's part of the test.

    Args:
        sample: The pair.
        png_flow: The flow came from a 16-bit png, whose two encodings can be mistaken for each other.
        neighbours: The pairs beside it, whose flow and frames are tried too; those of another size are not.
    """
    beside = {
        place: other for place, other in (neighbours or {}).items() if other.valid.shape == sample.valid.shape
    }
    visible = sample.valid if sample.occluded1 is None else sample.valid & ~sample.occluded1
    moving = visible & (np.hypot(sample.flow[..., 0], sample.flow[..., 1]) >= MOVING_PX)
    fetched, inside = _fetch(sample.image2, sample.flow, cv2.INTER_LINEAR)
    seen = visible & inside
    flow_error = _difference(sample.image1, fetched)
    zero_error = _difference(sample.image1, sample.image2)

    def error_of(flow: Flow, mask: Bool[np.ndarray, "H W"], source: Image, target: Image) -> float:
        found, is_inside = _fetch(source, flow, cv2.INTER_LINEAR)
        return _sum(np.where(is_inside, _difference(target, found), zero_error), mask)

    errors: Sums = {
        AS_READ: _sum(np.where(inside, flow_error, zero_error), moving),
        ZERO_FLOW: _sum(zero_error, moving),
    }
    for name, flow in _misreadings(sample.flow, png_flow):
        errors[name] = error_of(flow, moving, sample.image2, sample.image1)
    errors["frames swapped"] = error_of(sample.flow, moving, sample.image1, sample.image2)
    sums: Sums = {
        "pairs": 1,
        "visible": int(visible.sum()),
        "moving": int(moving.sum()),
        "seen": int(seen.sum()),
        "error_flow": _sum(flow_error, seen),
        "error_zero": _sum(zero_error, seen),
        "still_zero": _sum(zero_error, visible),
        "still_of_size": error_of(_of_the_size(sample.flow), visible, sample.image2, sample.image1),
    }
    for place, other in beside.items():
        flow = np.where(other.valid[..., None], other.flow, sample.flow)
        errors[_FLOW_OF.format(place)] = error_of(flow, moving, sample.image2, sample.image1)
        for number, source in ((1, other.image1), (2, other.image2)):
            name = _SECOND_FRAME_OF.format(number, place)
            errors[name] = error_of(sample.flow, moving, source, sample.image1)
        sums[f"own {place}"] = errors[AS_READ]
    if min(visible.shape) >= MIN_ESTIMATE_SIDE_PX:
        estimate = _estimated_motion(sample.image1, sample.image2)
        errors[ESTIMATED] = error_of(estimate, moving, sample.image2, sample.image1)
        sums["still_estimated"] = error_of(estimate, visible, sample.image2, sample.image1)
    else:
        errors[ESTIMATED], sums["still_estimated"] = errors[AS_READ], sums["still_zero"]
    if sample.occluded1 is not None:
        covered = sample.valid & sample.occluded1 & inside
        sums |= {"covered": int(covered.sum()), "error_covered": _sum(flow_error, covered)}
    return PairErrors(sums, errors, _label_differences(sample, seen, beside))


def _misreadings(flow: Flow, png_flow: bool) -> Iterator[tuple[str, Flow]]:
    """The flow as it should have been, had it been misread in the way of the name."""
    yield "u and v swapped", flow[..., ::-1]
    yield FLIPPED, -flow
    yield "sign of u flipped", flow * np.array([-1, 1], np.float32)
    yield "sign of v flipped", flow * np.array([1, -1], np.float32)
    for name, factor in (("1/64", 1 / 64), ("0.5", 0.5), ("0.9", 0.9), ("1.1", 1.1), ("2", 2)):
        yield f"{name} times as long", flow * np.float32(factor)
    yield "rows in reverse order", flow[::-1]
    yield "columns in reverse order", flow[:, ::-1]
    yield "mirrored left to right", flow[:, ::-1] * np.array([-1, 1], np.float32)
    yield "mirrored upside down", flow[::-1] * np.array([1, -1], np.float32)
    if png_flow:
        height, width = flow.shape[:2]
        extent_px = np.array([width - 1, height - 1], np.float32)
        unit = np.float32(2 / 65535)
        # Virtual KITTI: u = (raw * unit - 1) * extent; KITTI: u = (raw - 32768) / 64.
        yield "Virtual KITTI's png encoding", ((64 * flow + 32768) * unit - 1) * extent_px
        yield "KITTI's png encoding", ((flow / extent_px + 1) / unit - 32768) / 64


def _of_the_size(flow: Flow) -> Flow:
    """Flow in pixels, had it been read in parts of the frame's width and height."""
    height, width = flow.shape[:2]
    return flow * np.array([width, height], np.float32)


def _estimated_motion(image1: Image, image2: Image) -> Flow:
    """Motion by dense inverse search (Kroeger et al., ECCV 2016) at OpenCV's fast preset."""
    nothing: Any = None  # OpenCV's annotations lack that a flow to start from may be missing.
    grey1, grey2 = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (image1, image2))
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(grey1, grey2, nothing)
    return np.asarray(flow, np.float32)


def _label_differences(sample: FlowSample, seen: Bool[np.ndarray, "H W"], beside: Neighbours) -> Sums:
    """Numbers of pixels whose labels are compared along the flow, and that differ, by reading."""
    if sample.labels1 is None or sample.labels2 is None:
        return {}
    counts: Sums = {}

    def compare(name: str, target: Labels, source: Labels, flow: Flow) -> None:
        moved, _ = _fetch(source, flow, cv2.INTER_NEAREST)
        known = seen & (target != IGNORE_LABEL) & (moved != IGNORE_LABEL)
        counts[name] = int(known.sum())
        counts[f"differ {name}"] = int((known & (moved != target)).sum())

    still = np.zeros_like(sample.flow)
    compare(AS_READ, sample.labels1, sample.labels2, sample.flow)
    compare(ZERO_FLOW, sample.labels1, sample.labels2, still)
    compare("labels of the frames exchanged", sample.labels2, sample.labels1, sample.flow)
    for place in ("before", "after"):
        other = beside.get(place)
        if other is None or other.labels1 is None or other.labels2 is None:
            other = sample
        assert other.labels1 is not None
        assert other.labels2 is not None
        compare(f"labels of the pair {place}", other.labels1, other.labels2, sample.flow)
        for number, labels in ((1, other.labels1), (2, other.labels2)):
            source = sample.labels2 if other is sample else labels
            name = f"labels of frame 2 from frame {number} of the pair {place}"
            compare(name, sample.labels1, source, sample.flow)
    return counts


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


def judge(total: PairErrors) -> Alignment | None:
    """The test's result from the sums over all pairs; None if they have no pixel."""
    sums = total.sums
    if not sums.get("visible"):
        return None
    moving_frac, in_frame_frac = sums["moving"] / sums["visible"], sums["seen"] / sums["visible"]
    readings = _mean_errors(total)
    verdict, reason = _verdict(readings, sums, moving_frac, in_frame_frac)
    differ = {
        name: total.labels[f"differ {name}"] / count
        for name, count in total.labels.items()
        if not name.startswith("differ ") and count
    }
    labels_verdict, labels_reason = _labels_verdict(differ, moving_frac)
    occlusion_verdict, occlusion_reason = _occlusion_verdict(sums)
    return Alignment(
        pairs=int(sums["pairs"]),
        moving_frac=moving_frac,
        in_frame_frac=in_frame_frac,
        photometric_flow=sums["error_flow"] / max(sums["seen"], 1),
        photometric_zero=sums["error_zero"] / max(sums["seen"], 1),
        readings=readings,
        verdict=verdict,
        reason=reason,
        label_agreement_flow_frac=1 - differ[AS_READ] if AS_READ in differ else None,
        label_agreement_zero_frac=1 - differ[ZERO_FLOW] if ZERO_FLOW in differ else None,
        label_readings=differ,
        labels_verdict=labels_verdict,
        labels_reason=labels_reason,
        occlusion_verdict=occlusion_verdict,
        occlusion_reason=occlusion_reason,
    )


def _mean_errors(total: PairErrors) -> dict[str, float]:
    """Mean errors of the readings; pairs without a neighbour have their own error for its flow and frames."""
    errors, sums = dict(total.readings), total.sums
    for place in ("before", "after"):
        for name in (_FLOW_OF.format(place), *(_SECOND_FRAME_OF.format(n, place) for n in (1, 2))):
            if name in errors:
                errors[name] += errors[AS_READ] - sums[f"own {place}"]
    return {name: error / max(sums["moving"], 1) for name, error in errors.items()}


def _verdict(
    readings: dict[str, float], sums: Sums, moving_frac: float, in_frame_frac: float
) -> tuple[Verdict, str]:
    """CRITERION."""
    if moving_frac < MIN_MOVING_FRAC:
        return _still_verdict(sums, moving_frac)
    own, estimated = readings[AS_READ], readings[ESTIMATED]
    others = {name: error for name, error in readings.items() if name not in (AS_READ, ESTIMATED)}
    best = min(others.values())
    # Zero flow alone would be too easy to beat: interpolation blurs noise away, right flow or wrong. The
    # flipped flow is blurred as much.
    baseline = min(readings[ZERO_FLOW], readings[FLIPPED])
    if estimated < min(ESTIMATE_BETTER_RATIO * own, ESTIMATE_EXPLAINS_RATIO * best):
        return "not aligned", (
            f"better: {ESTIMATED} (error {estimated:.2f}, {AS_READ} {own:.2f}): the flow is of other frames "
            "or of another camera, or the frames were cut or resized"
        )
    if best < CLEARLY_BETTER_RATIO * own:
        better = [name for name, error in others.items() if CLEARLY_BETTER_RATIO * error <= best]
        return "not aligned", f"better: {' or '.join(better)} (error {best:.2f}, {AS_READ} {own:.2f})"
    if in_frame_frac < MIN_IN_FRAME_FRAC:
        return "not aligned", f"{1 - in_frame_frac:.0%} of the flow leaves the frame"
    if own <= MAX_ERROR_RATIO * baseline:
        return "aligned", f"error {own:.2f}, with zero or flipped flow {baseline:.2f}"
    return "undecided", f"error {own:.2f}, hardly below that of zero or flipped flow, {baseline:.2f}"


def _still_verdict(sums: Sums, moving_frac: float) -> tuple[Verdict, str]:
    """The verdict on flow that hardly moves: not aligned where the frames do."""
    still = f"{moving_frac:.2%} of the valid pixels move"
    zero, of_size, estimated = (
        sums[f"still_{name}"] / sums["visible"] for name in ("zero", "of_size", "estimated")
    )
    if of_size < ESTIMATE_BETTER_RATIO * zero:
        return "not aligned", f"{still}; better: {OF_THE_SIZE} (error {of_size:.2f}, {AS_READ} {zero:.2f})"
    if estimated < ESTIMATE_BETTER_RATIO * zero:
        return "not aligned", (
            f"{still}, but the frames do: better: {ESTIMATED} (error {estimated:.2f}, {AS_READ} {zero:.2f}): "
            "validity is inverted, or the flow was lost or scaled down"
        )
    return "undecided", f"too little motion: {still}"


def _labels_verdict(differ: dict[str, float], moving_frac: float) -> tuple[Verdict | None, str]:
    """Labels of other frames differ along the flow more often than with zero flow, or than others."""
    if AS_READ not in differ or ZERO_FLOW not in differ:
        return None, ""
    own, zero = differ[AS_READ], differ[ZERO_FLOW]
    if moving_frac < MIN_MOVING_FRAC:
        return "undecided", "too little motion"
    best = min(differ.values())
    if best < LABELS_BETTER_RATIO * own:
        better = [name for name, share in differ.items() if LABELS_BETTER_RATIO * share <= best]
        return (
            "not aligned",
            f"better: {' or '.join(better)} ({best:.2%} differ, {own:.2%} {AS_READ})",
        )
    if own > MAX_LABEL_RATIO * zero:
        return "not aligned", f"{own:.2%} of the pixels differ along the flow, {zero:.2%} without it"
    reason = f"{own:.2%} of the pixels differ, {zero:.2%} with zero flow"
    return ("aligned" if own < MAX_ERROR_RATIO * zero else "undecided"), reason


def _occlusion_verdict(sums: Sums) -> tuple[Verdict | None, str]:
    """Occluded pixels must match worse along the flow than visible ones."""
    if "covered" not in sums:
        return None, ""
    if sums["covered"] < MIN_OCCLUDED_FRAC * (sums["covered"] + sums["seen"]) or not sums["seen"]:
        return "undecided", "hardly a pixel in the frame is occluded"
    covered, seen = sums["error_covered"] / sums["covered"], sums["error_flow"] / sums["seen"]
    reason = f"error {covered:.2f} where occluded, {seen:.2f} where visible"
    if covered < MIN_OCCLUDED_RATIO * seen:
        return "not aligned", f"{reason}: the mask is inverted, or of other frames"
    return ("aligned" if covered > seen else "undecided"), reason
