"""The numbers of a comparison: runs, means over seeds, differences with their intervals, a verdict.

Run directories are read, summary.json is written; the page shows these numbers and no others. Interruptions
of a run change none of them. The entries are explained in docs/decisions/0009-statistics.md.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semraft.analysis.comparability import (
    find_duplicate_seeds,
    find_unpaired_runs,
    require_one_protocol,
    without_fingerprints,
)
from semraft.analysis.conclusion import METRIC, state_of, verdict
from semraft.analysis.paired_effects import compare_variant
from semraft.analysis.runs import Run, health_of, load_run
from semraft.analysis.statistics import holm
from semraft.analysis.study_file import RUNS, read_study
from semraft.analysis.variants import comparable, variants
from semraft.tracking import write_text

SUMMARY = "summary.json"

Counted = Mapping[str, Mapping[int, Run]]
"""Variant -> seed -> the run that counts for it."""


def finished_runs(study: Path) -> list[Run]:
    """The runs of a study that reached their last step, validated there if at all, variant by variant.

    Raises:
        ValueError: There is no study.json, or a file of a run is damaged.
    """
    begun = [path for path in _run_folders(study) if _has_begun(path)]
    return [
        run
        for run in map(load_run, begun)
        if run.last_step >= run.steps and all(run.final(split)[0] >= run.steps for split in run.splits)
    ]


def summarize_study(study: Path) -> tuple[list[Run], dict[str, Any]]:
    """The finished runs of a study and their summary, which is written to STUDY/summary.json.

    Paths in it are relative to the study. Runs that are not finished are named under `missing`.

    Raises:
        ValueError: There is no study.json or no finished run of the base, or the runs differ in protocol.
    """
    described, runs = read_study(study), finished_runs(study)
    if not runs:
        raise ValueError(f"{study}: no run is finished")
    require_one_protocol(runs, described["protocol"])
    numbers = compare(runs, described["protocol"], described["base"], described["against"])
    for entry in numbers["runs"]:
        entry["path"] = str(Path(entry["path"]).relative_to(study))
    finished = {run.path for run in runs}
    numbers["missing"] = [path.name for path in _run_folders(study) if path not in finished]
    write_text(study / SUMMARY, json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    return runs, numbers


def _run_folders(study: Path) -> list[Path]:
    described = read_study(study)
    names = [f"{variant}-seed{seed}" for variant in described["variants"] for seed in described["seeds"]]
    return [study / RUNS / name for name in names]


def _has_begun(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "environment.json").is_file()


def compare(
    runs: Sequence[Run], protocol: Mapping[str, Any], base: str, against: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The summary of any runs as a JSON value; differences of runs that may not be compared are left out.

    Raises:
        ValueError: None of the runs is of `base`.
    """
    groups = variants(runs)
    if base not in groups:
        raise ValueError(f"no run of {base!r} to compare with: there are {', '.join(groups)}")
    references = {name: (against or {}).get(name, base) for name in groups if name != base}
    duplicate_seeds, unpaired_runs = find_duplicate_seeds(groups), find_unpaired_runs(groups, base, against)
    left_out = {(duplicate.variant, duplicate.seed) for duplicate in duplicate_seeds}
    counted = {
        name: {run.seed: run for run in reversed(group) if (name, run.seed) not in left_out}
        for name, group in groups.items()
    }
    splits = list(dict.fromkeys(split for run in runs for split in run.splits))
    comparisons = []
    for split in splits:
        found: list[dict[str, Any]] = []
        for name, reference in references.items() if comparable(runs, split) else ():
            apart = {unpaired.seed for unpaired in unpaired_runs if unpaired.variant == name}
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
        "duplicate_seeds": [duplicate._asdict() for duplicate in duplicate_seeds],
        "unpaired_runs": [unpaired._asdict() for unpaired in unpaired_runs],
        "not_healthy": _not_healthy(groups),
        "without_fingerprints": without_fingerprints(runs),
    }
    ready: dict[str, Any] = _json_ready(numbers)
    return ready


def judged(comparisons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Comparisons of one split with p over seeds and scenes, corrected over the variants metric by metric,
    and with a state."""
    by_metric: dict[str, list[dict[str, Any]]] = {}
    for entry in comparisons:
        by_metric.setdefault(entry["metric"], []).append(entry)
    for entries in by_metric.values():
        found = [(entry["crossed"] or {}).get("p") for entry in entries]
        p = np.array([math.nan if value is None else value for value in found])
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
