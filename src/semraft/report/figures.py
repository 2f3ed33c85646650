"""Charts as geometry that the template turns into SVG: curves, scales, ticks.

Knows nothing of pages, and computes no metric; the pictures of pairs are made in pictures.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64

from semraft.analysis.runs import Run
from semraft.analysis.variants import definition

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 310, 8, 166
"""The size of a chart and the edges of its plot, in units of its own coordinates."""

MAX_POINTS = 240
"""A longer curve is drawn as means of equal stretches of it."""

MAX_DOTS = 12
"""A curve of no more points shows each of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A curve in the chart's coordinates, and its values: None where not finite. Short ones have dots.

    `band` is the outline of mean plus and minus `spread`, empty where there is none.
    """

    label: str
    color: int
    kind: Literal["seed", "variant"]
    path: str
    band: str
    dots: list[tuple[float, float]]
    x: list[float]
    y: list[float | None]
    spread: list[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A position along an axis, in the chart's coordinates, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A step at which a run went wrong, in steps and in the chart's coordinates."""

    step: float
    at: float
    label: str
    color: int


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
    marks: list[Mark]
    stretch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The values of one metric in one run (`seed`) or the mean over a variant's seeds (`variant`).

    `spread` is the standard deviation over those seeds; zero for a single run.
    """

    label: str
    color: int
    kind: Literal["seed", "variant"]
    x: Float64[np.ndarray, " points"]
    y: Float64[np.ndarray, " points"]
    spread: Float64[np.ndarray, " points"]


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
                spread=np.zeros_like(y),
            )
            for seed, x, y in logged
        ]
        if len(logged) > 1:
            by_step = [dict(zip(x.tolist(), y.tolist(), strict=True)) for _, x, y in logged]
            steps = [step for step in by_step[0] if all(step in values for values in by_step)]
            values = np.array([[found[step] for step in steps] for found in by_step])
            curves.append(
                Curve(
                    label=f"{variant} mean of {len(logged)}",
                    color=color,
                    kind="variant",
                    x=np.array(steps, dtype=np.float64),
                    y=values.mean(axis=0),
                    spread=values.std(axis=0, ddof=1),
                )
            )
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
            spread = np.zeros_like(y)
            curves.append(Curve(label=variant, color=color, kind="variant", x=x, y=y, spread=spread))
    return curves


def make_chart(
    title: str,
    x_label: str,
    metric: str,
    curves: Sequence[Curve],
    marks: Sequence[tuple[float, str, int]] = (),
) -> Chart | None:
    """Scales curves to a chart; None where no curve has a finite value.

    The value axis is logarithmic for losses and errors in px that span a factor of ten or more. `marks` are
    steps to point at, each with a label and the colour of its variant.
    """
    stretch = max((math.ceil(curve.x.size / MAX_POINTS) for curve in curves), default=1)
    drawn = [
        replace(
            curve,
            x=_means(curve.x, stretch),
            y=_means(curve.y, stretch),
            spread=_means(curve.spread, stretch),
        )
        for curve in curves
    ]
    values = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in drawn] or [np.empty(0)])
    if not values.size:
        return None
    steps = np.concatenate([curve.x for curve in drawn])
    low, high = float(values.min()), float(values.max())
    logarithmic = _may_be_logarithmic(metric) and low > 0 and high >= 10 * low
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    else:  # On a logarithmic axis a band may leave the chart; its lower edge may not even be positive.
        ends = np.concatenate([curve.y + sign * curve.spread for curve in drawn for sign in (-1, 1)])
        ends = ends[np.isfinite(ends)]
        low, high = float(ends.min()), float(ends.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    x_low, x_high = float(steps.min()), float(steps.max())
    x_span = (x_high - x_low) or 1.0

    def x_at(x: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (x - x_low) / x_span, 1)

    def y_at(y: float) -> float:
        scaled = (math.log10(y) if y > 0 else low) if logarithmic else y
        return round(TOP + (BOTTOM - TOP) * (high - scaled) / (high - low), 1)

    lines = []
    for curve in drawn:
        xs, ys = curve.x.tolist(), curve.y.tolist()
        points = [(x_at(x), y_at(y) if math.isfinite(y) else None) for x, y in zip(xs, ys, strict=True)]
        edges = [
            (x_at(x), y_at(y + d), y_at(y - d))
            for x, y, d in zip(xs, ys, curve.spread.tolist(), strict=True)
            if d > 0
        ]
        lines.append(
            Line(
                label=curve.label,
                color=curve.color,
                kind=curve.kind,
                path=_path(points),
                band=_band(edges),
                dots=[(x, y) for x, y in points if y is not None] if len(points) <= MAX_DOTS else [],
                x=[float(f"{step:.6g}") for step in xs],
                y=[float(f"{value:.5g}") if math.isfinite(value) else None for value in ys],
                spread=[float(f"{d:.4g}") for d in curve.spread] if edges else [],
            )
        )
    x_values = linear_ticks(x_low, x_high, 4, whole=True)
    y_values = _log_ticks(low, high) if logarithmic else linear_ticks(low, high, 5)
    return Chart(
        title=title,
        unit=known.unit if (known := definition(metric)) else "",
        x_label=x_label,
        logarithmic=logarithmic,
        x_ticks=[Tick(at=x_at(x), label=short_number(x)) for x in x_values],
        y_ticks=[Tick(at=y_at(y), label=short_number(y)) for y in y_values],
        x_range=(x_low, x_low + x_span),
        lines=lines,
        marks=[
            Mark(step=step, at=x_at(step), label=label, color=color)
            for step, label, color in marks
            if x_low <= step <= x_high
        ],
        stretch=stretch,
    )


def _means(values: Float64[np.ndarray, " points"], stretch: int) -> Float64[np.ndarray, " means"]:
    starts = np.arange(0, values.size, stretch)
    return np.add.reduceat(values, starts) / np.diff([*starts, values.size]) if values.size else values


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


def _band(points: Sequence[tuple[float, float, float]]) -> str:
    """SVG path data of the area between the upper and the lower edge."""
    if not points:
        return ""
    there = [f"{x:g} {high:g}" for x, high, _ in points]
    back = [f"{x:g} {low:g}" for x, _, low in reversed(points)]
    return "M" + "L".join([*there, *back]) + "Z"


def linear_ticks(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """About so many round numbers; `whole`: of what is counted, so none between two steps."""
    if high <= low:
        return [low]
    raw = max((high - low) / about, 1 if whole else 0)
    size = 10.0 ** math.floor(math.log10(raw))
    factors = (1, 2, 5, 10) if whole and size == 1 else (1, 2, 2.5, 5, 10)
    step = next(size * factor for factor in factors if size * factor >= raw)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    factors = (1,) if high - low > 3 else (1, 2, 5)
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def short_number(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        digits, exponent = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.5g}"
