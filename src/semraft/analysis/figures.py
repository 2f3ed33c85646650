"""What the report draws: charts as geometry that the template turns into SVG, pictures as data URIs.

Knows nothing of pages, and computes no metric: numbers come from comparison.py.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from semraft.analysis.comparison import definition
from semraft.analysis.runs import Run, SavedPair
from semraft.ops.color import flow_to_color

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 310, 8, 166
"""The size of a chart and the edges of its plot, in units of its own coordinates."""

MAX_POINTS = 240
"""A longer curve is drawn as means of equal stretches of it."""

MAX_DOTS = 12
"""A curve of no more points shows each of them."""

MAX_PICTURE_WIDTH_PX = 640
"""Wider frames are scaled down to this in the page."""

NO_TRUTH_GREY = 128
"""What flow and error pictures show where there is no ground truth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A curve in the chart's coordinates, and its values: None where not finite. Short ones have dots."""

    label: str
    color: int
    kind: Literal["seed", "variant"]
    path: str
    dots: list[tuple[float, float]]
    x: list[float]
    y: list[float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A position along an axis, in the chart's coordinates, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Curves of one metric, ready to be drawn. `stretch` is how many logged values a point is the mean of."""

    title: str
    unit: str
    x_label: str
    logarithmic: bool
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_range: tuple[float, float]
    lines: list[Line]
    stretch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The values of one metric in one run (`seed`) or the mean over a variant's seeds (`variant`)."""

    label: str
    color: int
    kind: Literal["seed", "variant"]
    x: Float64[np.ndarray, " points"]
    y: Float64[np.ndarray, " points"]


def step_curves(groups: dict[str, list[Run]], split: str, metric: str) -> list[Curve]:
    """One metric over steps: every run, and for a variant with several runs their mean where all have it."""
    curves: list[Curve] = []
    for color, (variant, runs) in enumerate(groups.items()):
        found = [(run.seed, *run.curve(split, metric)) for run in runs]
        logged = [(seed, x, y) for seed, x, y in found if x.size]
        alone = len(runs) == 1
        curves += [
            Curve(
                label=variant if alone else f"{variant} seed {seed}",
                color=color,
                kind="variant" if alone else "seed",
                x=x,
                y=y,
            )
            for seed, x, y in logged
        ]
        if len(logged) > 1:
            by_step = [dict(zip(x.tolist(), y.tolist(), strict=True)) for _, x, y in logged]
            steps = [step for step in by_step[0] if all(step in values for values in by_step)]
            mean = [sum(values[step] for values in by_step) / len(by_step) for step in steps]
            label = f"{variant} mean of {len(logged)}"
            x, y = np.array(steps, dtype=np.float64), np.array(mean, dtype=np.float64)
            curves.append(Curve(label=label, color=color, kind="variant", x=x, y=y))
    return curves


def refinement_curves(rows: Sequence[tuple[str, int, dict[str, float]]], metric: str) -> list[Curve]:
    """One metric over refinements, from (variant, colour, final numbers): `epe_iter_000` is the first."""
    curves: list[Curve] = []
    for variant, color, metrics in rows:
        points = sorted(
            (int(name.removeprefix(f"{metric}_iter_")) + 1, value)
            for name, value in metrics.items()
            if name.startswith(f"{metric}_iter_")
        )
        if points:
            x, y = np.array(points, dtype=np.float64).T
            curves.append(Curve(label=variant, color=color, kind="variant", x=x, y=y))
    return curves


def make_chart(title: str, x_label: str, metric: str, curves: Sequence[Curve]) -> Chart | None:
    """Scales curves to a chart; None where no curve has a finite value.

    The value axis is logarithmic for losses and errors in px that span a factor of ten or more.
    """
    stretch = max((math.ceil(curve.x.size / MAX_POINTS) for curve in curves), default=1)
    drawn = [(curve, *_means(curve.x, curve.y, stretch)) for curve in curves]
    values = np.concatenate([y[np.isfinite(y)] for _, _, y in drawn] or [np.empty(0)])
    if not values.size:
        return None
    steps = np.concatenate([x for _, x, _ in drawn])
    low, high = float(values.min()), float(values.max())
    logarithmic = _may_be_logarithmic(metric) and low > 0 and high >= 10 * low
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    x_low, x_high = float(steps.min()), float(steps.max())
    x_span = (x_high - x_low) or 1.0

    def x_at(x: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (x - x_low) / x_span, 1)

    def y_at(y: float) -> float:
        scaled = math.log10(y) if logarithmic else y
        return round(TOP + (BOTTOM - TOP) * (high - scaled) / (high - low), 1)

    lines = []
    for curve, x, y in drawn:
        points = [(x_at(a), y_at(b) if math.isfinite(b) else None) for a, b in zip(x, y, strict=True)]
        lines.append(
            Line(
                label=curve.label,
                color=curve.color,
                kind=curve.kind,
                path=_path(points),
                dots=[(a, b) for a, b in points if b is not None] if len(points) <= MAX_DOTS else [],
                x=[float(f"{step:.6g}") for step in x],
                y=[float(f"{value:.5g}") if math.isfinite(value) else None for value in y],
            )
        )
    y_values = _log_ticks(low, high) if logarithmic else _linear_ticks(low, high, 5)
    return Chart(
        title=title,
        unit=known.unit if (known := definition(metric)) else "",
        x_label=x_label,
        logarithmic=logarithmic,
        x_ticks=[Tick(at=x_at(x), label=_short_number(x)) for x in _linear_ticks(x_low, x_high, 4)],
        y_ticks=[Tick(at=y_at(y), label=_short_number(y)) for y in y_values],
        x_range=(x_low, x_low + x_span),
        lines=lines,
        stretch=stretch,
    )


def data_uri(image: UInt8[np.ndarray, "H W 3"], kind: Literal["photo", "flat"]) -> str:
    """An RGB picture as a data URI: `photo` is lossy WebP, `flat` (labels, masks) lossless PNG."""
    suffix, options = (".webp", [cv2.IMWRITE_WEBP_QUALITY, 82]) if kind == "photo" else (".png", [])
    encoded = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), options)[1]
    return f"data:image/{suffix[1:]};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def shrink(image: UInt8[np.ndarray, "H W 3"], nearest: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """A frame no wider than the page shows it; labels and masks by their nearest pixel."""
    size = _page_size(*image.shape[:2])
    return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if nearest else cv2.INTER_AREA)


def flow_scale_px(pair: SavedPair) -> float:
    """The flow length that a pair's pictures show fully saturated: above 99 % of the ground truth, in px."""
    length = np.linalg.norm(pair.flow_gt[pair.valid].astype(np.float32), axis=-1)
    return _nice_ceiling(float(np.quantile(length, 0.99)) if length.size else 1.0)


def error_scale_px(pairs: Sequence[SavedPair]) -> float:
    """The error that all error maps of a pair show as brightest, in px: above 98 % of all runs' errors."""
    errors = np.concatenate([_error_px(pair)[pair.valid] for pair in pairs])
    errors = errors[np.isfinite(errors)]
    return _nice_ceiling(float(np.quantile(errors, 0.98)) if errors.size else 1.0)


def flow_picture(
    flow: Float[np.ndarray, "H W 2"], valid: Bool[np.ndarray, "H W"], max_px: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Flow as colours at page size; a pixel of the page is the mean of the valid pixels under it."""
    values, known = _shrink_valid(flow.astype(np.float32), valid)
    picture = flow_to_color(values, known, max_px)
    picture[~known] = NO_TRUTH_GREY
    return picture


def error_picture(pair: SavedPair, max_px: float) -> UInt8[np.ndarray, "h w 3"]:
    """Endpoint error at page size: black at 0, yellow at `max_px` and beyond, grey without ground truth."""
    error, known = _shrink_valid(_error_px(pair)[..., None], pair.valid)
    picture = error_colors(error[..., 0] / max_px)
    picture[~known] = NO_TRUTH_GREY
    return picture


def error_colors(fraction: Float32[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """The colours of the error scale (inferno: ordered in lightness, also for the colour-blind), RGB."""
    level = (np.nan_to_num(fraction, nan=1.0).clip(0, 1) * 255).round().astype(np.uint8)
    colors: UInt8[np.ndarray, "H W 3"] = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[..., ::-1].copy()
    return colors


def _error_px(pair: SavedPair) -> Float32[np.ndarray, "H W"]:
    difference = pair.flow.astype(np.float32) - pair.flow_gt.astype(np.float32)
    error: Float32[np.ndarray, "H W"] = np.linalg.norm(difference, axis=-1)
    return error


def _shrink_valid(
    values: Float32[np.ndarray, "H W C"], valid: Bool[np.ndarray, "H W"]
) -> tuple[Float32[np.ndarray, "h w C"], Bool[np.ndarray, "h w"]]:
    """Means over valid pixels only: sparse ground truth must not fade into what surrounds it."""
    height, width = valid.shape
    size = _page_size(height, width)
    kept = np.where(valid[..., None], values, 0).astype(np.float32)
    share = cv2.resize(valid.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(kept, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    return total / np.maximum(share, 1e-6)[..., None], share > 0


def _page_size(height: int, width: int) -> tuple[int, int]:
    ratio = min(1.0, MAX_PICTURE_WIDTH_PX / width)
    return round(width * ratio), max(1, round(height * ratio))


def _means(
    x: Float64[np.ndarray, " points"], y: Float64[np.ndarray, " points"], stretch: int
) -> tuple[Float64[np.ndarray, " means"], Float64[np.ndarray, " means"]]:
    if stretch == 1:
        return x, y
    starts = np.arange(0, x.size, stretch)
    counts = np.diff([*starts, x.size])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _may_be_logarithmic(metric: str) -> bool:
    known = definition(metric)
    return metric.endswith("loss") or metric.startswith("gradient_norm") or bool(known and known.unit == "px")


def _path(points: Sequence[tuple[float, float | None]]) -> str:
    """SVG path data; a value that is not finite breaks the curve."""
    commands = []
    pen = "M"
    for x, y in points:
        if y is None:
            pen = "M"
        else:
            commands.append(f"{pen}{x:g} {y:g}")
            pen = "L"
    return "".join(commands)


def _linear_ticks(low: float, high: float, about: int) -> list[float]:
    raw = (high - low) / about
    if raw <= 0:
        return [low]
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    factors = (1,) if high - low > 2 else (1, 2, 5)
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def _short_number(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.5g}"


def _nice_ceiling(value: float) -> float:
    """The next of 1, 2, 3, 5, 10, 20, ... times a power of ten, so that a scale reads well."""
    size = 10.0 ** math.floor(math.log10(max(value, 0.1)))
    return next(size * factor for factor in (1, 2, 3, 5, 10) if size * factor >= value)
