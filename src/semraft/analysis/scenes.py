"""Pooled metrics scene by scene, from the rows that the last evaluation of a run wrote for each pair.

A row holds the metrics of one pair and how many pixels they are of: mean times count is the sum that pooling
adds up, so any set of pairs is pooled exactly as semraft.metrics pools them all.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from semraft.analysis.runs import Run
from semraft.analysis.statistics import Sums, pooled
from semraft.metrics import ALL, metric_name, pixels_name, split_metric_name

OF_HEADS = ("iou_pct", "temporal_consistency_pct", "occlusion_f1_pct")
"""Metrics whose rows say themselves of how many pixels they are: these depend on what was predicted."""


class SceneSums(NamedTuple):
    """Sums of each scene for the metrics of each run, part by part; `parts` is 1 where a part is of a metric.

    A mean over classes has a part for each class, every other metric is its only part.
    """

    scenes: tuple[str, ...]
    sums: Sums
    parts: Float64[np.ndarray, "P M"]


def scene_sums(runs: Sequence[Run], split: str, metrics: Sequence[str]) -> SceneSums | None:
    """The sums "S C P" of some runs; None where they did not write rows of the same scenes.

    A metric whose rows do not pool to the number that was logged, in one of the runs, has no weight in any
    scene: these rows are not of the last evaluation, or don't say how many pixels they are of.
    """
    found = {tuple(sorted({run.scenes[pair] for pair in run.per_sample if pair[0] == split})) for run in runs}
    if len(found) > 1 or not (scenes := found.pop()):
        return None
    finals = [run.final(split)[1] for run in runs]
    classes = [
        name for name in dict.fromkeys(n for row in finals for n in row) if name.startswith("iou_pct_")
    ]
    names = [(metric, part) for metric in metrics for part in (classes if metric == "miou_pct" else [metric])]
    parts = np.array([[float(own == metric) for metric in metrics] for own, _ in names])
    sources = [_source(part) for _, part in names]
    each = [_sums_of(run, split, scenes, sources) for run in runs]
    sums = Sums(np.stack([one.totals for one in each]), np.stack([one.weights for one in each]))
    logged = np.array([[final.get(metric, math.nan) for metric in metrics] for final in finals])
    alike = np.isclose(pooled(sums.over_scenes(), parts), logged, rtol=1e-6, atol=1e-9).all(axis=0)
    known = parts @ alike
    return SceneSums(scenes, Sums(sums.totals * known, sums.weights * known), parts)


def _sums_of(run: Run, split: str, scenes: Sequence[str], sources: Sequence[tuple[str, str | None]]) -> Sums:
    place = {scene: index for index, scene in enumerate(scenes)}
    totals, weights = np.zeros((2, len(scenes), len(sources)))
    for pair in [pair for pair in run.per_sample if pair[0] == split]:
        row, scene = run.per_sample[pair], place[run.scenes[pair]]
        for column, (name, count_name) in enumerate(sources):
            value = row.get(name, math.nan)
            count = row.get(count_name, math.nan) if count_name else 1.0
            if math.isfinite(value) and count > 0:
                totals[scene, column] += value * count
                weights[scene, column] += count
    return Sums(totals, weights)


def _source(metric: str) -> tuple[str, str | None]:
    """The column that a metric is the mean of, and the column of its weights; None: every pair weighs 1."""
    name, stratum = split_metric_name(metric)
    if name.endswith("_image_mean"):
        return metric_name(name.removesuffix("_image_mean"), stratum), None
    if name in OF_HEADS:
        return metric, pixels_name(metric)
    return metric, metric_name("valid", ALL if stratum.startswith("iter_") else stratum)
