"""One variant against base on one split: every metric's difference over seeds, scenes and training."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from semraft.analysis.runs import Run
from semraft.analysis.scenes import scene_sums
from semraft.analysis.statistics import (
    Crossed,
    Sums,
    area_under_curve,
    crossed_interval,
    difference_over_scenes,
    drawn_means,
    effect_size,
    first_credible,
    paired_t,
    pooled,
    probability_of_improvement,
    scene_counts,
    scene_draws,
    scene_interval,
    seeds_needed,
    smallest_visible,
    without_best_scene,
)
from semraft.analysis.variants import definition

EFFECTS_PCT = (2, 5, 10)
"""Effects, in per cent of base's mean, for which the number of seeds needed is given."""

DIGITS = 9
"""Significant digits of what is computed here: beyond them, libraries and machines differ."""


def compare_variant(
    variant: str, base: str, split: str, pairs: Sequence[tuple[Run, Run]]
) -> list[dict[str, Any]]:
    """The comparisons of a variant, one a metric: over seeds, over scenes, over training.

    Args:
        variant: The variant's name.
        base: The variant that it is compared with.
        split: Which validation.
        pairs: Its runs, each with base's run of the same seed.
    """
    pairs = [(run, other) for run, other in pairs if split in run.splits and split in other.splits]
    metrics = _finite_metrics(pairs, split)
    if not metrics:
        return []
    values, base_values = (
        np.array([[pair[side].final(split)[1][metric] for metric in metrics] for pair in pairs])
        for side in (0, 1)
    )
    differences = values - base_values
    paired, effect = paired_t(differences), effect_size(differences)
    spread = differences.std(axis=0, ddof=1) if len(pairs) > 1 else np.full(len(metrics), math.nan)
    by_scene = _over_scenes(pairs, split, metrics)
    by_step = _over_training(pairs, split, metrics)
    entries = []
    for column, metric in enumerate(metrics):
        base_mean = float(base_values[:, column].mean())
        interval = [paired.difference[column], paired.low[column], paired.high[column]]
        relative = [100 * end / base_mean if base_mean else math.nan for end in interval]
        entries.append(
            {
                "variant": variant,
                "against": base,
                "split": split,
                "metric": metric,
                "difference": number(interval[0]),
                "low": number(interval[1]),
                "high": number(interval[2]),
                "seeds": len(pairs),
                "by_seed": {
                    str(run.seed): number(difference)
                    for (run, _), difference in zip(pairs, differences[:, column], strict=True)
                },
                "relative_pct": [number(end) for end in relative],
                "spread": number(spread[column]),
                "p": number(paired.p[column]),
                "effect": number(effect[column]),
                "seeds_for_pct": {
                    str(pct): seeds_needed(pct / 100 * base_mean, float(spread[column]))
                    for pct in EFFECTS_PCT
                },
                **by_scene[column],
                **by_step[column],
            }
        )
    return entries


def number(value: float) -> float | None:
    """A computed number as it is written down; None for what JSON does not have."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _finite_metrics(pairs: Sequence[tuple[Run, Run]], split: str) -> list[str]:
    """Metrics with a better direction and a finite value in every run, in the order of the files."""
    rows = [run.final(split)[1] for pair in pairs for run in pair]
    return [
        metric
        for metric in (rows[0] if rows else ())
        if (known := definition(metric)) is not None
        and known.better != "neither"
        and known.unit != "pixels"
        and all(math.isfinite(row.get(metric, math.nan)) for row in rows)
    ]


def _over_scenes(
    pairs: Sequence[tuple[Run, Run]], split: str, metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Per metric, what needs numbers by scene; None where there are none."""
    names = ("scenes", "crossed", "smallest_visible", "without_best_scene", "probability")
    unknown: dict[str, Any] = dict.fromkeys(names)
    found = scene_sums([run for pair in pairs for run in pair], split, metrics)
    if found is None:
        return [unknown] * len(metrics)
    scenes, (totals, weights), parts = found
    variant, base = (Sums(totals[side::2], weights[side::2]) for side in (0, 1))
    draws = scene_draws(len(scenes))
    interval = difference_over_scenes(variant, base, parts, draws)
    crossed, omission = crossed_interval(variant, base, parts), without_best_scene(variant, base, parts)
    counts = scene_counts(variant, base, parts)
    chances = _probabilities(variant, base, parts, draws, metrics)
    entries: list[dict[str, Any]] = []
    for column, count in enumerate(counts.astype(int).tolist()):
        if not count:
            entries.append(unknown)
            continue
        rest = {
            "scene": scenes[int(omission.scene[column])],
            "difference": number(omission.difference[column]),
            **_interval(omission.crossed, column),
        }
        entries.append(
            {
                "scenes": {
                    "count": count,
                    "low": number(interval.low[column]),
                    "high": number(interval.high[column]),
                },
                "crossed": _interval(crossed, column),
                "smallest_visible": smallest_visible(
                    float(crossed.error[column]), float(crossed.freedom[column])
                ),
                "without_best_scene": rest if count > 1 else None,
                "probability": chances[column],
            }
        )
    return entries


def _interval(crossed: Crossed, column: int) -> dict[str, float | None]:
    """One metric's interval over seeds and scenes, and its p."""
    return {name: number(getattr(crossed, name)[column]) for name in ("low", "high", "p")}


def _probabilities(
    variant: Sums,
    base: Sums,
    parts: Float64[np.ndarray, "P M"],
    draws: Float64[np.ndarray, "R C"],
    metrics: Sequence[str],
) -> list[dict[str, Any]]:
    """How often a run of the variant beats one of base on a scene, with its interval over scenes."""
    lower = np.array([known is None or known.better == "lower" for known in map(definition, metrics)])
    sign = np.where(lower, 1.0, -1.0)
    chance = probability_of_improvement(sign * pooled(variant, parts), sign * pooled(base, parts))
    there = np.isfinite(chance).astype(np.float64)
    of_scenes, alone = Sums(np.nan_to_num(chance), there), np.eye(len(metrics))
    drawn = drawn_means(Sums(of_scenes.totals[None], there[None]), alone, draws)
    low, high = scene_interval(drawn, there.sum(axis=0))
    values = pooled(of_scenes.over_scenes(), alone)
    return [
        {"value": number(value), "low": number(left), "high": number(right)}
        for value, left, right in zip(values, low, high, strict=True)
    ]


def _over_training(
    pairs: Sequence[tuple[Run, Run]], split: str, metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Per metric: `first_credible` and `area`, over the steps that all runs were validated at."""
    logged = [[run.logged[split] for run in pair] for pair in pairs]
    shared = set.intersection(*({*rows} for pair in logged for rows in pair))
    steps = sorted(shared - {0})  # Before the first step all runs from given weights are the same.
    entries: list[dict[str, Any]] = []
    for metric in metrics:
        curves = np.array(
            [[[rows[step].get(metric, math.nan) for step in steps] for rows in pair] for pair in logged]
        )
        if len(steps) < 2 or not np.isfinite(curves).all():
            entries.append({"first_credible": None, "area": None})
            continue
        difference = curves[:, 0] - curves[:, 1]
        look = first_credible(difference)
        known = definition(metric)
        falls = look is not None and bool(difference[:, look].mean() < 0)
        better = falls == (known is None or known.better == "lower")
        area = paired_t(area_under_curve(np.array(steps, dtype=np.float64), difference))
        first = None if look is None else {"step": steps[look], "state": "better" if better else "worse"}
        entries.append(
            {
                "first_credible": {"looks": len(steps), "step": None, "state": "undecided"} | (first or {}),
                "area": {
                    "difference": number(float(area.difference)),
                    "low": number(float(area.low)),
                    "high": number(float(area.high)),
                },
            }
        )
    return entries
