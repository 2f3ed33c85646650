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
from semraft.metrics import ALL, metric_name, split_metric_name


class SceneSums(NamedTuple):
    """Per scene and metric, what the scene adds to the metric's mean: total / weight is its own value."""

    scenes: tuple[str, ...]
    totals: Float64[np.ndarray, "C M"]
    weights: Float64[np.ndarray, "C M"]

    @property
    def values(self) -> Float64[np.ndarray, "C M"]:
        """Each scene's own metrics, NaN where it has no such pixel."""
        return self.totals / np.where(self.weights > 0, self.weights, np.nan)


def scene_sums(run: Run, split: str, metrics: Sequence[str]) -> SceneSums | None:
    """The sums of one run; None where it wrote no rows, or rows that are not of its last evaluation.

    A metric whose rows do not pool to the number that was logged has no weight in any scene.
    """
    pairs = [pair for pair in run.per_sample if pair[0] == split]
    if not pairs:
        return None
    scenes = sorted({run.scenes[pair] for pair in pairs})
    place = {scene: index for index, scene in enumerate(scenes)}
    totals, weights = np.zeros((2, len(scenes), len(metrics)))
    sources = [_source(metric) for metric in metrics]
    for pair in pairs:
        row, scene = run.per_sample[pair], place[run.scenes[pair]]
        for column, (name, count_name) in enumerate(sources):
            value = row.get(name, math.nan)
            count = row.get(count_name, math.nan) if count_name else 1.0
            if math.isfinite(value) and count > 0:
                totals[scene, column] += value * count
                weights[scene, column] += count
    logged = np.array([run.final(split)[1].get(metric, math.nan) for metric in metrics])
    pooled = totals.sum(axis=0) / np.where(weights.any(axis=0), weights.sum(axis=0), np.nan)
    alike = np.isclose(pooled, logged, rtol=1e-6, atol=1e-9)
    if not alike.any():
        return None
    return SceneSums(tuple(scenes), totals * alike, weights * alike)


def _source(metric: str) -> tuple[str, str | None]:
    """The column that a metric is the mean of, and the column of its weights; None: every pair weighs 1."""
    name, stratum = split_metric_name(metric)
    if name.endswith("_image_mean"):
        return metric_name(name.removesuffix("_image_mean"), stratum), None
    return metric, metric_name("valid", ALL if stratum.startswith("iter_") else stratum)
