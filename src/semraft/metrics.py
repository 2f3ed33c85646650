"""Every metric, once: what is measured of a flow, in which part of the image, and how pairs are pooled.

Arrays in, float64 inside. One pair becomes a record, `{stratum: Sums}`; any set of records is pooled exactly,
in any order and grouping. Not for losses (semraft.losses), and not for finding the strata of a sample: masks
and labels are arguments (semraft.evaluation.evaluate makes them).
"""

from collections.abc import Iterable, Mapping, Sequence
from math import fsum, nan, prod
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, UInt8


class Metric(NamedTuple):
    """Definition of a metric: e is the endpoint error |flow - flow_gt| of a pixel in pixels."""

    formula: str
    unit: str
    better: Literal["lower", "higher", "neither"]


METRICS: dict[str, Metric] = {
    "epe": Metric("mean of e over the valid pixels of all pairs together", "px", "lower"),
    "epe_image_mean": Metric("mean over pairs of the pair's mean e (RAFT's KITTI EPE)", "px", "lower"),
    "1px": Metric("valid pixels with e < 1 px / valid pixels", "fraction", "higher"),
    "3px": Metric("valid pixels with e < 3 px / valid pixels", "fraction", "higher"),
    "5px": Metric("valid pixels with e < 5 px / valid pixels", "fraction", "higher"),
    "fl": Metric("valid pixels with e > 3 px and e > 0.05 |flow_gt| (KITTI 2015)", "per cent", "lower"),
    "outliers_3px_pct": Metric("valid pixels with e > 3 px (KITTI 2012 Out)", "per cent", "lower"),
    "wauc": Metric("100 sum_i w_i mean(e <= i/20 px) / sum_i w_i, w_i = (101 - i)/100", "0..100", "higher"),
    "wauc_image_mean": Metric("mean over pairs of the pair's wauc", "0..100", "higher"),
    "flow_px": Metric("mean length of the predicted flow, where there is no ground truth", "px", "neither"),
    "miou_pct": Metric("mean of iou_pct over the classes that are labelled or decoded", "per cent", "higher"),
    "iou_pct": Metric(
        "decoded and labelled as the class / decoded or labelled so, known pixels of both frames",
        "per cent",
        "higher",
    ),
    "temporal_consistency_pct": Metric(
        "visible pixels whose decoded class is the one decoded where the true flow leads / visible pixels",
        "per cent",
        "higher",
    ),
    "occlusion_f1_pct": Metric(
        "2 TP / (2 TP + FP + FN) of the pixels called occluded; of one kind: among that kind and the visible",
        "per cent",
        "higher",
    ),
    "valid": Metric("number of valid pixels", "pixels", "neither"),
    "non_finite": Metric("valid pixels with NaN or Inf predicted: counted as e = Inf", "pixels", "lower"),
}
"""Name without stratum -> definition, in the order of tables. Per cent is 0..100."""

OF_HEADS = ("miou_pct", "temporal_consistency_pct", "occlusion_f1_pct")
"""Metrics of a network's heads."""

ALL = "all"
"""The stratum of every valid pixel; its metrics carry no suffix."""

STRATA: dict[str, str] = {
    "ground": "labelled sidewalk or terrain, which some data sets don't tell apart",
    "boundary": "at most 5 px from a boundary between labels",
    "interior": "more than 5 px from any boundary between labels",
    "moving": "on an object that moves on its own",
    "static": "not on an object that moves on its own",
    "occluded": "not visible in frame 2: covered, or out of frame",
    "visible": "visible in frame 2",
    "out_of_frame": "the ground truth leads out of the image",
    "covered": "in frame, but covered there by something nearer",
    "noc": "KITTI's non-occluded ground truth",
    "foreground": "KITTI's object map (Fl-fg)",
    "background": "outside KITTI's object map (Fl-bg)",
    "speed_0_10": "|flow_gt| below 10 px",
    "speed_10_40": "|flow_gt| from 10 to below 40 px",
    "speed_40": "|flow_gt| of 40 px and more",
}
"""Stratum -> which pixels; the classes of the taxonomy are strata by their own names."""

SPEEDS = ("speed_0_10", "speed_10_40", "speed_40")
SPEED_EDGES_PX = (10, 40)
"""Where one of SPEEDS ends and the next begins."""

_COMPLEMENTS = {"boundary": "interior", "moving": "static", "occluded": "visible", "foreground": "background"}
_MERGED_CLASSES = {"ground": ("sidewalk", "terrain")}

_WAUC_POINTS_MAX = 5050  # The weights times 100 are the integers 100..1: sums of them are exact.
_WAUC_LEVELS = np.arange(121)
# A pixel whose smallest reached threshold is number k collects the weights of k..100.
_WAUC_POINTS = np.where(
    _WAUC_LEVELS > 100, 0, (101 - _WAUC_LEVELS.clip(1)) * (102 - _WAUC_LEVELS.clip(1)) // 2
)
# 0.05 as float32 is above 0.05: an error in float32 flow that equals a threshold must reach it.
_WAUC_THRESHOLDS_PX = np.maximum(_WAUC_LEVELS / 20, (_WAUC_LEVELS / 20).astype(np.float32))


class Sums(NamedTuple):
    """Sums over pixels of a pair, from which every metric follows; all but `error_px` are exact integers."""

    valid: int
    non_finite: int
    error_px: float
    below_1px: int
    below_3px: int
    below_5px: int
    above_3px: int
    fl_outliers: int
    wauc_points: int
    """Sum over pixels of the weights (101 - i) of the thresholds i/20 px that the error does not exceed."""


Record = dict[str, Sums]
"""One pair, measured: stratum -> sums. Every stratum the data knows of is there, if only with `valid` 0."""


def evaluate_flow(
    flow: Float[np.ndarray, "H W 2"], flow_gt: Float[np.ndarray, "H W 2"], valid: Bool[np.ndarray, "H W"]
) -> dict[str, float]:
    """Scores one flow against ground truth on its valid pixels.

    Flow is in pixels, `[..., 0]` right, `[..., 1]` down. `epe` in px; `1px`, `3px`, `5px` are fractions of
    valid pixels with an error BELOW that; `fl` and `wauc` are 0..100. Nothing at an invalid pixel is read. A
    NaN or Inf predicted at a valid pixel is an infinite error. Without a valid pixel, all are NaN.

    Raises:
        ValueError: Shapes differ, `valid` is not bool, or ground truth is not finite where valid.
    """
    scores = _scores(measure(flow, flow_gt, valid)[ALL])
    return {name: scores[name] for name in ("epe", "1px", "3px", "5px", "fl", "wauc")}


def endpoint_error(
    flow: Float[np.ndarray, "H W 2"], flow_gt: Float[np.ndarray, "H W 2"], valid: Bool[np.ndarray, "H W"]
) -> Float64[np.ndarray, " N"]:
    """The length of the difference at each valid pixel in raster order, in px; Inf where not finite.

    Raises:
        ValueError: As in `evaluate_flow`.
    """
    if flow.shape != flow_gt.shape or flow.shape != (*valid.shape, 2):
        raise ValueError(
            f"flow {flow.shape}, flow_gt {flow_gt.shape} and valid {valid.shape} do not fit: expected H W 2, "
            "H W 2 and H W of one image (a tensor B 2 H W is one image at a time, channels last)"
        )
    truth = _at(flow_gt, valid)
    if not np.isfinite(truth).all():
        raise ValueError("flow_gt holds NaN or Inf at valid pixels: a reader must mark them invalid")
    with np.errstate(over="ignore"):  # The square of an absurd float64 is Inf, and counted as such.
        difference = _at(flow, valid) - truth
        error: Float64[np.ndarray, " N"] = np.sqrt(difference[:, 0] ** 2 + difference[:, 1] ** 2)
    error[~np.isfinite(error)] = np.inf
    return error


def measure(
    flow: Float[np.ndarray, "H W 2"],
    flow_gt: Float[np.ndarray, "H W 2"],
    valid: Bool[np.ndarray, "H W"],
    *,
    masks: Mapping[str, Bool[np.ndarray, "H W"]] | None = None,
    labels: UInt8[np.ndarray, "H W"] | None = None,
    class_names: Sequence[str] = (),
) -> Record:
    """Measures one pair in every stratum: all, speeds, out of frame, each mask (and its complement), classes.

    `masks` are named as in STRATA. `labels` index `class_names`; a label beyond them belongs to no class.

    Raises:
        ValueError: As in `evaluate_flow`.
    """
    error = endpoint_error(flow, flow_gt, valid)
    truth = _at(flow_gt, valid)
    index = np.flatnonzero(valid)
    length = np.sqrt(truth[:, 0] ** 2 + truth[:, 1] ** 2)

    # Strata overlap. So each pixel goes to one cell of a small table with an axis per way of dividing the
    # image, every quantity is summed once per cell, and a stratum is a slice of the table.
    divisions: list[tuple[np.ndarray, tuple[str | None, ...]]] = [
        (np.digitize(length, SPEED_EDGES_PX), SPEEDS)
    ]
    for name, mask in {"out_of_frame": leaves_frame(flow_gt), **(masks or {})}.items():
        divisions.append((mask.take(index), (_COMPLEMENTS.get(name), name)))
    if labels is not None:
        divisions.append((np.minimum(labels.take(index), len(class_names)), (*class_names, None)))
    cell = np.zeros(error.shape, dtype=np.intp)
    for part, names in divisions:
        cell = cell * len(names) + part
    shape = [len(names) for _, names in divisions]
    quantities = {
        "valid": np.ones_like(error),
        "non_finite": np.isinf(error),
        "error_px": error,
        "below_1px": error < 1,
        "below_3px": error < 3,
        "below_5px": error < 5,
        "above_3px": error > 3,
        "fl_outliers": (error > 3) & (error > 0.05 * length),  # No division: |gt| = 0 is an outlier.
        "wauc_points": _wauc_points(error),
    }
    table = np.stack(
        [np.bincount(cell, quantities[name], prod(shape)).reshape(shape) for name in Sums._fields],
        axis=-1,
        dtype=np.float64,
    )

    axes = range(len(shape))
    record = {ALL: _sums(table.sum(axis=tuple(axes)))}
    for axis, (_, names) in enumerate(divisions):
        rows = table.sum(axis=tuple(other for other in axes if other != axis))
        record |= {name: _sums(row) for name, row in zip(names, rows, strict=True) if name is not None}
    for merged, parts in _MERGED_CLASSES.items():
        if all(part in record for part in parts):
            record[merged] = _add([record[part] for part in parts])
    return record


Ratio = tuple[float, float]
"""Denominator and numerator of a ratio for one pair; the sums of both over pairs are pooled."""


def label_overlap(
    predicted: UInt8[np.ndarray, "H W"], labels: UInt8[np.ndarray, "H W"], class_names: Sequence[str]
) -> dict[str, Ratio]:
    """`iou_pct` of each class as a ratio; a label beyond `class_names` is not known, and does not count."""
    size = len(class_names)
    known = labels < size
    pairs = np.bincount(labels[known].astype(np.intp) * size + predicted[known], minlength=size**2)
    table = pairs.reshape(size, size)
    both, either = table.diagonal(), table.sum(axis=0) + table.sum(axis=1) - table.diagonal()
    return {
        metric_name("iou_pct", name): (float(either[k]), 100 * float(both[k]))
        for k, name in enumerate(class_names)
    }


def mean_over_classes(scores: Mapping[str, float]) -> dict[str, float]:
    """`miou_pct` of the `iou_pct_CLASS` among some scores; nothing where there is none."""
    classes = [value for name, value in scores.items() if name.startswith("iou_pct_")]
    return {"miou_pct": fsum(classes) / len(classes)} if classes else {}


def label_consistency(
    predicted1: UInt8[np.ndarray, "H W"],
    predicted2: UInt8[np.ndarray, "H W"],
    flow_gt: Float[np.ndarray, "H W 2"],
    visible: Bool[np.ndarray, "H W"],
) -> Ratio:
    """`temporal_consistency_pct` as a ratio, by the pixel nearest to where flow_gt leads."""
    y, x = np.nonzero(visible & ~leaves_frame(flow_gt))
    target_x, target_y = np.rint(flow_gt[y, x] + np.stack([x, y], axis=-1)).astype(np.intp).T
    same = predicted1[y, x] == predicted2[target_y, target_x]
    return float(len(same)), 100 * float(same.sum())


def occlusion_overlap(
    predicted: Bool[np.ndarray, "H W"],
    occluded: Bool[np.ndarray, "H W"],
    flow_gt: Float[np.ndarray, "H W 2"],
    valid: Bool[np.ndarray, "H W"],
) -> dict[str, Ratio]:
    """`occlusion_f1_pct` as ratios, of all pixels and by kind; no kind is known without valid flow."""
    outside = leaves_frame(flow_gt)
    kinds = {ALL: occluded, "out_of_frame": occluded & valid & outside}
    kinds["covered"] = occluded & valid & ~outside
    found: dict[str, Ratio] = {}
    for kind, pixels in kinds.items():
        hits = 2 * float((predicted & pixels).sum())
        wrong = float((predicted & ~occluded).sum() + (pixels & ~predicted).sum())
        found[metric_name("occlusion_f1_pct", kind)] = hits + wrong, 100 * hits
    return found


def leaves_frame(flow: Float[np.ndarray, "H W 2"]) -> Bool[np.ndarray, "H W"]:
    """True where the flow leads outside the pixel centres of the image."""
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width)
    y = flow[..., 1] + np.arange(height)[:, None]
    outside: Bool[np.ndarray, "H W"] = (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)
    return outside


def pair_metrics(record: Record) -> dict[str, float]:
    """The metrics of one pair by their flat names (`epe`, `epe_moving`, ...), non-empty strata only."""
    return {
        metric_name(metric, stratum): value
        for stratum, sums in record.items()
        if sums.valid or stratum == ALL
        for metric, value in _scores(sums).items()
    }


def pool(records: Sequence[Record]) -> dict[str, float]:
    """The metrics of one pair or more: pooled over pixels, and where named so, the mean over pairs.

    The same for any order of the pairs; names in the order all, STRATA, classes. A stratum without a valid
    pixel in any pair has no metrics; a pair without one in a stratum does not count in its mean over pairs.
    """
    flat: dict[str, float] = {}
    classes = [stratum for record in records for stratum in record]
    for stratum in dict.fromkeys((ALL, *STRATA, *classes)):
        parts = [record[stratum] for record in records if stratum in record]
        filled = [part for part in parts if part.valid]
        if not filled and stratum != ALL:
            continue
        scores = _scores(_add(parts))
        for metric in ("epe", "wauc"):
            means = [_scores(part)[metric] for part in filled]
            scores[f"{metric}_image_mean"] = fsum(means) / len(means) if means else nan
        flat |= {metric_name(metric, stratum): scores[metric] for metric in METRICS if metric in scores}
    return flat


def metric_name(metric: str, stratum: str) -> str:
    """The name in files and trackers: the metric alone, or with the stratum behind it."""
    return metric if stratum == ALL else f"{metric}_{stratum}"


def pixels_name(name: str) -> str:
    """The column of per_sample.csv with the pixels below the line of a score of heads, by which it pools."""
    return f"pixels_{name}"


def split_metric_name(name: str) -> tuple[str, str]:
    """The inverse of `metric_name`: `1px_speed_10_40` -> (`1px`, `speed_10_40`); `epe` -> (`epe`, `all`).

    Raises:
        ValueError: No metric of METRICS begins the name.
    """
    for metric in sorted(METRICS, key=len, reverse=True):
        if name == metric:
            return metric, ALL
        if name.startswith(f"{metric}_"):
            return metric, name.removeprefix(f"{metric}_")
    raise ValueError(f"{name!r} is not a metric: expected one of {', '.join(METRICS)}, and maybe _STRATUM")


def _at(flow: Float[np.ndarray, "H W 2"], valid: Bool[np.ndarray, "H W"]) -> Float64[np.ndarray, "N 2"]:
    return flow.reshape(-1, 2).take(np.flatnonzero(valid), axis=0).astype(np.float64)


def _wauc_points(error: Float64[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    level = np.ceil(20 * np.minimum(error, 5.5)).astype(np.intp)
    # The product is rounded up even from a rounding error: ask the threshold below for itself.
    level -= error <= _WAUC_THRESHOLDS_PX[np.maximum(level - 1, 0)]
    points: Int[np.ndarray, " N"] = _WAUC_POINTS[level.clip(0)]
    return points


def _scores(sums: Sums) -> dict[str, float]:
    count = sums.valid or nan  # Nothing to divide by: every score is NaN.
    return {
        "epe": sums.error_px / count,
        "1px": sums.below_1px / count,
        "3px": sums.below_3px / count,
        "5px": sums.below_5px / count,
        "fl": 100 * sums.fl_outliers / count,
        "outliers_3px_pct": 100 * sums.above_3px / count,
        "wauc": 100 * sums.wauc_points / (_WAUC_POINTS_MAX * count),
        "valid": sums.valid,
        "non_finite": sums.non_finite,
    }


def _add(parts: Iterable[Sums]) -> Sums:
    # fsum rounds once, so that the order of the pairs can't show in the last digit.
    return _sums([fsum(column) for column in zip(*parts, strict=True)])


def _sums(row: Iterable[float]) -> Sums:
    named = Sums._make(row)
    whole = {name: int(value) for name, value in named._asdict().items() if name != "error_px"}
    return named._replace(error_px=float(named.error_px), **whole)
