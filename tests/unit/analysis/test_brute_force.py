"""Every number of a comparison, worked out again from a study's files by loops, csv, json and scipy.stats.

Nothing of semraft is used for it but the bootstrap's draws, which are what they are.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from semraft.analysis.statistics import scene_draws
from semraft.analysis.summary import summarize_study
from tests.unit.analysis.fake_runs import SPLIT, make_study

SEEDS = range(4)
EFFECTS = {"base": (0.0,) * 4, "v1": (-0.3, -0.2, -0.35, -0.1), "v2": (0.1, -0.05, 0.2, 0.0)}
PARTS = {name: (name,) for name in ("epe", "epe_moving", "iou_pct_car", "iou_pct_road")}
PARTS["miou_pct"] = ("iou_pct_car", "iou_pct_road")
"""Metric -> what it is the mean of."""
HIGHER = ("iou_pct_car", "miou_pct")

Rows = dict[str, list[dict[str, float]]]
"""Scene -> the rows of its pairs."""


def weight_name(part: str) -> str:
    return f"pixels_{part}" if part.startswith("iou") else part.replace("epe", "valid")


def pool(rows: list[dict[str, float]], metric: str) -> float:
    """The metric of some pairs together; NaN without a pixel."""
    values = []
    for part in PARTS[metric]:
        found = [(row[part], row[weight_name(part)]) for row in rows if row.get(weight_name(part), 0) > 0]
        if found:
            values.append(sum(v * w for v, w in found) / sum(w for _, w in found))
    return sum(values) / len(values) if values else float("nan")


def rows_of(run: Path) -> Rows:
    rows: Rows = {}
    with (run / "per_sample.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            numbers = {
                name: float(text) for name, text in row.items() if name not in ("split", "id", "scene")
            }
            rows.setdefault(row["scene"], []).append(numbers)
    return rows


def with_heads(run: Path, rng: np.random.Generator) -> None:
    """Adds a decoder's scores, each run's on pixels of its own; roads are in few scenes only."""
    with (run / "per_sample.csv").open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["scene"] = f"scene {number // 2:02d}"
        for name, there in (("iou_pct_car", True), ("iou_pct_road", number % 5 == 0)):
            row[name] = rng.uniform(30, 60) + (8 if run.name.startswith("v1") else 0)
            row[f"pixels_{name}"] = int(rng.integers(50, 900)) if there else 0
    with (run / "per_sample.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    pairs = [row for scene in rows_of(run).values() for row in scene]
    for line in lines:
        if line["split"] == SPLIT:
            final = line["step"] == 400
            for metric in ("iou_pct_car", "iou_pct_road", "miou_pct"):
                line[metric] = pool(pairs, metric) if final else 20.0
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(5)
    study = make_study(tmp_path_factory.mktemp("study"), EFFECTS)
    for run in sorted((study / "runs").iterdir()):
        with_heads(run, rng)
    return study


def comparisons(study: Path) -> Iterator[dict[str, Any]]:
    for entry in summarize_study(study)[1]["comparisons"]:
        if entry["metric"] in ("epe", "epe_moving", "iou_pct_car", "miou_pct"):
            yield entry


def finals(study: Path, variant: str, metric: str, step: int = 400) -> list[float]:
    values = []
    for seed in SEEDS:
        lines = (study / "runs" / f"{variant}-seed{seed}" / "metrics.jsonl").read_text().splitlines()
        found = [row for row in map(json.loads, lines) if row["split"] == SPLIT and row["step"] == step]
        values.append(float(found[-1][metric]))
    return values


def test_over_seeds(study: Path) -> None:
    """Red when: any number over seeds is another's, of another metric, or corrected over other variants."""
    entries = list(comparisons(study))
    assert len(entries) == 8
    p = {(e["variant"], e["metric"]): p_value(study, e["variant"], e["metric"]) for e in entries}
    for entry in entries:
        variant, metric = entry["variant"], entry["metric"]
        base = finals(study, "base", metric)
        differences = np.subtract(finals(study, variant, metric), base)
        mean, spread, count = differences.mean(), differences.std(ddof=1), len(differences)
        low, high = stats.t.interval(0.95, count - 1, mean, spread / 2)
        found = [entry[name] for name in ("difference", "low", "high", "spread", "p")]
        assert found == pytest.approx([mean, low, high, spread, p[variant, metric]])
        assert entry["relative_pct"] == pytest.approx([100 * v / np.mean(base) for v in (mean, low, high)])
        both = {e["variant"]: e["crossed"]["p"] for e in entries if e["metric"] == metric}
        ordered = sorted(both.values())
        steps = [min(1.0, 2 * ordered[0]), max(min(1.0, 2 * ordered[0]), ordered[1])]
        assert entry["p_holm"] == pytest.approx(steps[ordered.index(both[variant])])
        assert entry["effect"] == pytest.approx(mean / spread * 0.7236013)  # J(3).
        needed, ten_pct = entry["seeds_for_pct"]["10"], abs(np.mean(base)) / 10 / spread
        assert sees(ten_pct, needed) >= 0.8 > sees(ten_pct, needed - 1)


def p_value(study: Path, variant: str, metric: str) -> float:
    return float(stats.ttest_rel(finals(study, variant, metric), finals(study, "base", metric)).pvalue)


def sees(effect: float, seeds: int) -> float:
    """The power of the paired t test."""
    if seeds < 2:
        return 0.0
    critical = stats.t.ppf(0.975, seeds - 1)
    shifted = stats.nct(seeds - 1, abs(effect) * seeds**0.5)
    return float(shifted.sf(critical) + np.nan_to_num(shifted.cdf(-critical)))


def over_seeds(
    runs: dict[str, list[Rows]], variant: str, metric: str, choose: Callable[[Rows], list[dict[str, float]]]
) -> list[float]:
    """The difference of each seed, of the rows that are chosen."""
    pairs = zip(runs[variant], runs["base"], strict=True)
    return [pool(choose(own), metric) - pool(choose(other), metric) for own, other in pairs]


def widened(drawn: list[float], scenes: int) -> tuple[float, float]:
    """Hesterberg's expanded percentiles."""
    tail = stats.norm.cdf(stats.t.ppf(0.025, scenes - 1) * (scenes / (scenes - 1)) ** 0.5)
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def test_over_scenes(study: Path) -> None:
    """Red when: a scene's frames, a run's own pixels, a class, or the direction of a score is lost."""
    runs = {
        name: [rows_of(study / "runs" / f"{name}-seed{seed}") for seed in SEEDS] for name in ("base", "v1")
    }
    scenes = sorted(runs["base"][0])
    assert len(scenes) == 12
    draws = scene_draws(12).astype(int)
    for entry in (entry for entry in comparisons(study) if entry["variant"] == "v1"):
        metric = entry["metric"]
        assert entry["scenes"]["count"] == 12

        def drawn(metric: str, left: list[str]) -> list[float]:
            samples = (
                [s for s, n in zip(scenes, draw, strict=True) for _ in range(n)] for draw in draws[:400]
            )
            return [
                float(np.mean(over_seeds(runs, "v1", metric, lambda rows, among=among: chosen(rows, among))))
                for among in ([scene for scene in sample if scene in left] for sample in samples)
            ]

        # 400 of the 4000 draws: loops are slow. The ends of an interval then vary by a tenth of its width.
        low, high = widened(drawn(metric, scenes), 12)
        width = high - low
        assert entry["scenes"]["low"] == pytest.approx(low, abs=0.15 * width)
        assert entry["scenes"]["high"] == pytest.approx(high, abs=0.15 * width)
        rest = {
            scene: over_seeds(runs, "v1", metric, lambda rows, out=scene: chosen(rows, scenes, out))
            for scene in scenes
        }
        sign = 1 if entry["difference"] > 0 else -1
        best = min(scenes, key=lambda scene: sign * np.mean(rest[scene]))
        without = entry["without_best_scene"]
        assert without["scene"] == best
        assert without["difference"] == pytest.approx(np.mean(rest[best]))
        for crossed, left in ((entry["crossed"], scenes), (without, [s for s in scenes if s != best])):
            if metric == "miou_pct":  # A class of two or three scenes: leaving one out is no small change.
                continue
            low, high = crossed_by_leaving_out(runs, metric, left)
            assert crossed["low"] == pytest.approx(low, abs=0.06 * (high - low))
            assert crossed["high"] == pytest.approx(high, abs=0.06 * (high - low))
        wins = [
            (own < other) != (metric in HIGHER) if own != other else 0.5
            for scene in scenes
            for own in (pool(run[scene], metric) for run in runs["v1"])
            for other in (pool(run[scene], metric) for run in runs["base"])
        ]
        assert entry["probability"]["value"] == pytest.approx(np.mean(wins))


def chosen(rows: Rows, among: list[str], out: str = "") -> list[dict[str, float]]:
    return [row for scene in among if scene != out for row in rows[scene]]


def crossed_by_leaving_out(
    runs: dict[str, list[Rows]], metric: str, scenes: list[str]
) -> tuple[float, float]:
    """The interval over seeds and scenes from an analysis of variance of jackknife pseudo-values."""
    whole = np.array(over_seeds(runs, "v1", metric, lambda rows: chosen(rows, scenes)))
    left = [over_seeds(runs, "v1", metric, lambda rows, out=s: chosen(rows, scenes, out)) for s in scenes]
    count, seeds = len(scenes), len(whole)
    table = whole + (count - 1) * (np.mean(left, axis=0) - np.array(left))  # C S
    seed_means, scene_means, mean = table.mean(axis=0), table.mean(axis=1), table.mean()
    of_seeds = count * ((seed_means - mean) ** 2).sum() / (seeds - 1)
    of_scenes = seeds * ((scene_means - mean) ** 2).sum() / (count - 1)
    rest = ((table - seed_means - scene_means[:, None] + mean) ** 2).sum() / ((seeds - 1) * (count - 1))
    both = max(of_seeds + of_scenes - rest, 0)
    terms = of_seeds**2 / (seeds - 1) + of_scenes**2 / (count - 1)
    freedom = max(both**2 / (terms + rest**2 / ((seeds - 1) * (count - 1))), 1)
    half = max(
        float(stats.t.ppf(0.975, degrees) * (square / seeds / count) ** 0.5)
        for square, degrees in ((of_seeds, seeds - 1), (of_scenes, count - 1), (both, freedom))
    )
    return float(whole.mean() - half), float(whole.mean() + half)


def test_over_training(study: Path) -> None:
    """Validations at 200 and 400. Red when: looks are not corrected for, or the area is a last value."""
    for entry in comparisons(study):
        looks = [
            np.subtract(*(finals(study, name, entry["metric"], step) for name in (entry["variant"], "base")))
            for step in (200, 400)
        ]
        area = stats.ttest_1samp((looks[0] + looks[1]) / 2, 0)
        assert entry["area"]["difference"] == pytest.approx(np.mean(looks))
        if np.ptp(looks[0]):
            assert entry["area"]["low"] == pytest.approx(area.confidence_interval().low)
        p = [stats.ttest_1samp(look, 0).pvalue if np.ptp(look) else 1.0 for look in looks]
        credible = [min(1.0, 2 * min(p)), max(2 * min(p), max(p))]
        adjusted = credible if p[0] <= p[1] else credible[::-1]
        first = next((step for step, value in zip((200, 400), adjusted, strict=True) if value < 0.05), None)
        assert entry["first_credible"]["step"] == first
