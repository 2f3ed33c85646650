"""The numbers of a comparison: runs, means over seeds, differences with what is known of them, a verdict.

Reads run directories, writes summary.json; the page shows these numbers and no others. Nothing in it depends
on when or how often a run was interrupted. What every entry means: docs/decisions/0009-statistics.md.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semraft.analysis.comparability import (
    find_strangers,
    find_twins,
    require_one_protocol,
    without_fingerprints,
)
from semraft.analysis.conclusion import METRIC, state_of, verdict
from semraft.analysis.paired_effects import compare_variant
from semraft.analysis.run_health import health_of
from semraft.analysis.runs import Run, load_run
from semraft.analysis.statistics import holm
from semraft.analysis.variants import comparable, variants
from semraft.tracking import write_text

STUDY, RUNS, SUMMARY = "study.json", "runs", "summary.json"

Counted = Mapping[str, Mapping[int, Run]]
"""Variant -> seed -> the run that counts for it."""


def summarize(
    runs: Sequence[Path], protocol: Mapping[str, Any], base: str, against: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The summary of finished runs that share a protocol, every variant against `base`.

    Args:
        runs: Run directories. A variant is named by its folder, NAME-seedK, or else by its recipe.
        protocol: Configuration fields ("optim.steps") and values that all runs share.
        base: The variant that the others are compared with.
        against: For variants that are compared with another one than `base`, which.

    Raises:
        ValueError: A folder is no run directory, the runs differ in protocol, or none of them is of `base`.
    """
    loaded = [load_run(path) for path in runs]
    require_one_protocol(loaded, protocol)
    return compare(loaded, protocol, base, against)


def write_summary(study: Path) -> Path:
    """Writes STUDY/summary.json of the study's finished runs, and returns its path.

    Paths in it are relative to the study. Runs that are not finished are named under `missing`.

    Raises:
        ValueError: As in `summarize`; or there is no study.json, or no finished run.
    """
    described = read_study(study)
    cells = _cells(study, described)
    finished = finished_runs(study)
    if not finished:
        raise ValueError(f"{study}: no run is finished")
    numbers = summarize(finished, described["protocol"], described["base"], described["against"])
    for entry in numbers["runs"]:
        entry["path"] = str(Path(entry["path"]).relative_to(study))
    numbers["missing"] = [path.name for path in cells if path not in finished]
    write_text(study / SUMMARY, json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    return study / SUMMARY


def finished_runs(study: Path) -> list[Path]:
    """The directories of a study's finished runs, variant by variant.

    Raises:
        ValueError: There is no study.json.
    """
    return [path for path in _cells(study, read_study(study)) if is_finished(path)]


def read_study(study: Path) -> dict[str, Any]:
    """What study.json says.

    Raises:
        ValueError: It is missing or damaged.
    """
    try:
        described = json.loads((study / STUDY).read_text(encoding="utf-8"))
        needed = {name: described[name] for name in ("name", "base", "protocol", "variants", "seeds")}
        return {**needed, "against": described.get("against", {})}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{study} is no study: {STUDY}: {error}") from error


def is_finished(path: Path) -> bool:
    """Whether a run was trained to its end, and scored there if it is scored at all."""
    if not (path / "config.json").is_file() or not (path / "environment.json").is_file():
        return False
    run = load_run(path)
    return run.last_step >= run.steps and all(run.final(split)[0] >= run.steps for split in run.splits)


def compare(
    runs: Sequence[Run], protocol: Mapping[str, Any], base: str, against: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The summary of any runs, as JSON has it; what may not be compared is left out of it.

    Raises:
        ValueError: None of the runs is of `base`.
    """
    groups = variants(runs)
    if base not in groups:
        raise ValueError(f"no run of {base!r} to compare with: there are {', '.join(groups)}")
    references = {name: (against or {}).get(name, base) for name in groups if name != base}
    twins, strangers = find_twins(groups), find_strangers(groups, base, against)
    twin_seeds = {(twin.variant, twin.seed) for twin in twins}
    counted = {
        name: {run.seed: run for run in reversed(group) if (name, run.seed) not in twin_seeds}
        for name, group in groups.items()
    }
    splits = list(dict.fromkeys(split for run in runs for split in run.splits))
    comparisons = []
    for split in splits:
        found: list[dict[str, Any]] = []
        for name, reference in references.items() if comparable(runs, split) else ():
            apart = {stranger.seed for stranger in strangers if stranger.variant == name}
            others = counted.get(reference, {})
            pairs = [
                (run, others[seed])
                for seed, run in sorted(counted[name].items())
                if seed in others and seed not in apart
            ]
            found += compare_variant(name, reference, split, pairs)
        comparisons += judged(found)
    numbers = {
        "protocol": dict(protocol),
        "base": base,
        "against": references,
        "variants": {name: [run.seed for run in group] for name, group in groups.items()},
        "splits": {
            split: {"pairs": _pairs(runs, split), "comparable": comparable(runs, split)} for split in splits
        },
        "verdict": verdict(comparisons, base),
        "runs": _run_entries(groups, splits, counted),
        "means": _means(groups, splits, counted),
        "comparisons": comparisons,
        "pairs": _pair_entries(splits, counted, references),
        "twins": [twin._asdict() for twin in twins],
        "strangers": [stranger._asdict() for stranger in strangers],
        "not_healthy": _not_healthy(groups),
        "without_fingerprints": without_fingerprints(runs),
    }
    ready: dict[str, Any] = _json_ready(numbers)
    return ready


def _cells(study: Path, described: Mapping[str, Any]) -> list[Path]:
    return [
        study / RUNS / f"{variant}-seed{seed}"
        for variant in described["variants"]
        for seed in described["seeds"]
    ]


def judged(comparisons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Comparisons of one split with p corrected over the variants, metric by metric, and with a state."""
    by_metric: dict[str, list[dict[str, Any]]] = {}
    for entry in comparisons:
        by_metric.setdefault(entry["metric"], []).append(entry)
    for entries in by_metric.values():
        p = np.array([math.nan if entry["p"] is None else entry["p"] for entry in entries])
        for entry, adjusted in zip(entries, holm(p).tolist(), strict=True):
            entry["p_holm"] = None if math.isnan(adjusted) else adjusted
            entry["state"] = state_of(entry)
    return comparisons


def _run_entries(
    groups: Mapping[str, Sequence[Run]], splits: Sequence[str], counted: Counted
) -> list[dict[str, Any]]:
    return [
        {
            "variant": name,
            "seed": run.seed,
            "path": str(run.path),
            "split": split,
            "step": run.final(split)[0],
            "counted": counted[name].get(run.seed) is run,
            "metrics": run.final(split)[1],
        }
        for split in splits
        for name, group in groups.items()
        for run in group
        if split in run.splits
    ]


def _not_healthy(groups: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
    """Runs that judged themselves anything but healthy: state, since when, the likeliest cause or None."""
    found = [
        (name, run.seed, health_of(run)) for name, group in groups.items() for run in group if run.verdict
    ]
    return [
        {
            "variant": name,
            "seed": seed,
            "state": health.state,
            "first_step": health.first_step,
            "cause": health.causes[0].name if health.causes else None,
        }
        for name, seed, health in found
        if health.state != "healthy"
    ]


def _means(
    groups: Mapping[str, Sequence[Run]], splits: Sequence[str], counted: Counted
) -> list[dict[str, Any]]:
    """Means and standard deviations over the seeds that count; NaN where one of them lacks the metric."""
    entries = []
    for split in splits:
        for name in groups:
            rows = [run.final(split)[1] for run in counted[name].values() if split in run.splits]
            metrics = dict.fromkeys(metric for row in rows for metric in row)
            values = {metric: [row.get(metric, math.nan) for row in rows] for metric in metrics}
            if rows:
                mean = {metric: sum(found) / len(found) for metric, found in values.items()}
                spread = {m: float(np.std(found, ddof=1)) for m, found in values.items() if len(found) > 1}
                entries.append(
                    {"variant": name, "split": split, "seeds": len(rows), "metrics": mean, "spread": spread}
                )
    return entries


def _pair_entries(
    splits: Sequence[str], counted: Counted, references: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every pair that counted runs scored: its mean EPE over seeds by variant, and the differences."""
    entries = []
    for split in splits:
        groups = {
            name: [run for run in group.values() if split in run.splits] for name, group in counted.items()
        }
        scored = next((runs[0] for runs in groups.values() if runs), None)
        for pair in [pair for pair in (scored.per_sample if scored else ()) if pair[0] == split]:
            values = {
                name: [run.per_sample.get(pair, {}).get(METRIC, math.nan) for run in runs]
                for name, runs in groups.items()
                if runs
            }
            mean = {
                name: sum(found) / len(found)
                for name, found in values.items()
                if all(math.isfinite(value) for value in found)
            }
            difference = {
                name: mean[name] - mean[reference]
                for name, reference in references.items()
                if name in mean and reference in mean
            }
            if scored and mean:
                entries.append(
                    {
                        "id": pair[1],
                        "split": split,
                        "scene": scored.scenes[pair],
                        METRIC: mean,
                        "difference": difference,
                    }
                )
    return entries


def _pairs(runs: Sequence[Run], split: str) -> int | None:
    """How many pairs the runs were validated on; None where they did not record it or differ."""
    found = {len(ids) for run in runs if split in run.splits and (ids := run.validation(split).get("ids"))}
    return found.pop() if len(found) == 1 else None


def _json_ready(value: Any) -> Any:
    """The same value with None for every number that JSON does not have."""
    if isinstance(value, dict):
        return {name: _json_ready(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
