"""Curves of metrics as data: which there are, how long ones are shortened, which axis is logarithmic.

Drawing is uPlot's in charts.js; the pictures of pairs are made in pair_pictures.py.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64

from semraft.analysis.runs import Run
from semraft.analysis.variants import definition

MAX_POINTS = 240
"""Points of a drawn curve: a longer one is shown by means of equal stretches, to keep the page small."""

TABLE_STEPS = 4
"""Steps in the table that stands for a chart where no script runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The values of one metric in one run (`seed`) or the mean over a variant's seeds (`variant`).

    `color` is the number of the variant. `spread` is the standard deviation over the seeds; zero for one run.
    """

    label: str
    color: int
    kind: Literal["seed", "variant"]
    x: Float64[np.ndarray, " points"]
    y: Float64[np.ndarray, " points"]
    spread: Float64[np.ndarray, " points"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A step at which a run went wrong, with a sentence on it and the number of its variant."""

    step: int
    label: str
    color: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Curves of one metric over steps or refinements. A point is the mean of `stretch` logged values."""

    title: str
    unit: str
    x_label: str
    logarithmic: bool
    stretch: int
    curves: tuple[Curve, ...]
    marks: tuple[Mark, ...]

    def to_json(self) -> str:
        """The curves as charts.js reads them: rounded to five digits, None where not finite."""
        lines = [
            {
                "label": curve.label,
                "color": curve.color,
                "kind": curve.kind,
                "x": [float(f"{step:.6g}") for step in curve.x],
                "y": [_rounded(value) for value in curve.y],
                "spread": [_rounded(value) for value in curve.spread] if curve.spread.any() else [],
            }
            for curve in self.curves
        ]
        marks = [{"step": mark.step, "label": mark.label, "color": mark.color} for mark in self.marks]
        contents = {"axis": self.x_label, "logarithmic": self.logarithmic, "lines": lines, "marks": marks}
        return json.dumps(contents, separators=(",", ":"))

    def table(self) -> tuple[list[str], list[tuple[str, list[str]]]]:
        """A few steps, first and last among them, and by curve its values there: "-" where it has none."""
        steps = np.unique(np.concatenate([curve.x for curve in self.curves]))
        places = np.linspace(0, steps.size - 1, min(TABLE_STEPS, steps.size)).round().astype(int)
        shown = steps[places].tolist()
        rows = []
        for curve in self.curves:
            values = dict(zip(curve.x.tolist(), curve.y.tolist(), strict=True))
            found = [_rounded(values.get(step, math.nan)) for step in shown]
            rows.append((curve.label, ["-" if value is None else f"{value:g}" for value in found]))
        return [f"{step:g}" if step < 1e6 else str(int(step)) for step in shown], rows


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


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
    title: str, x_label: str, metric: str, curves: Sequence[Curve], marks: Sequence[Mark] = ()
) -> Chart | None:
    """A chart of curves; None where no curve has a finite value.

    The value axis is logarithmic for losses and errors in px that span a factor of ten or more. Marks outside
    of the curves' steps are left out.
    """
    stretch = max((math.ceil(curve.x.size / MAX_POINTS) for curve in curves), default=1)
    drawn = tuple(
        replace(
            curve,
            x=_means(curve.x, stretch),
            y=_means(curve.y, stretch),
            spread=_means(curve.spread, stretch),
        )
        for curve in curves
    )
    values = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in drawn] or [np.empty(0)])
    if not values.size:
        return None
    steps = np.concatenate([curve.x for curve in drawn])
    known = definition(metric)
    return Chart(
        title=title,
        unit=known.unit if known else "",
        x_label=x_label,
        logarithmic=_may_be_logarithmic(metric) and bool(0 < 10 * values.min() <= values.max()),
        stretch=stretch,
        curves=drawn,
        marks=tuple(mark for mark in marks if steps.min() <= mark.step <= steps.max()),
    )


def _means(values: Float64[np.ndarray, " points"], stretch: int) -> Float64[np.ndarray, " means"]:
    starts = np.arange(0, values.size, stretch)
    return np.add.reduceat(values, starts) / np.diff([*starts, values.size]) if values.size else values


def _may_be_logarithmic(metric: str) -> bool:
    known = definition(metric)
    return metric.endswith("loss") or metric.startswith("gradient_norm") or bool(known and known.unit == "px")
