"""Variants of runs and their names, runs that may be ranked, and numbers as text.

The numbers themselves are made in summary.py.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from semraft.analysis.runs import Run
from semraft.config import TermConfig, term_text
from semraft.metrics import METRICS, Metric, split_metric_name

DECIMALS = {"px": 3, "fraction": 4, "per cent": 2, "0..100": 2, "pixels": 0}
"""Unit -> digits after the point."""

SAME_VARIANT_FIELDS = frozenset(
    {
        "seed",
        "output",
        "device",
        "tracker",
        "saved_pairs",
        "log_every",
        "validate_every",
        "checkpoint_every",
        "health_every",
        "data.root",
        "data.workers",
    }
)
"""Configuration fields that may differ between runs of one variant: they do not change what is learnt."""


def variants(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs grouped into variants, in the order given: the same configuration but for the seed.

    A variant of a study is named by its folders, NAME-seedK. Any other is named by its recipe; where one
    recipe was run with different settings, by those too.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_variant_key(run), sort_keys=True), []).append(run)
    members = list(groups.values())
    folders = [{_folder_name(run) for run in group} for group in members]
    if all(len(names) == 1 and None not in names for names in folders):
        names = [str(*found) for found in folders]
        if len(set(names)) == len(names):
            return dict(zip(names, members, strict=True))
    named: dict[str, list[Run]] = {}
    for group in members:
        alike = [other[0] for other in members if other[0].recipe == group[0].recipe]
        settings = [f"{field}={short_setting(group[0].config.get(field))}" for field in _differing(alike)]
        named[" ".join([group[0].recipe, *settings])] = group
    return named


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The configuration fields that differ between runs, each with every run's value; output is left out."""
    fields = dict.fromkeys(field for run in runs for field in run.config)
    table = {field: [run.config.get(field) for run in runs] for field in fields if field != "output"}
    return {field: values for field, values in table.items() if any(value != values[0] for value in values)}


def short_setting(value: Any) -> str:
    """A configuration value as one types it, loss terms too."""
    if isinstance(value, list):
        return " ".join(short_setting(item) for item in value) or "none"
    if isinstance(value, dict) and {"name", "weight"} <= value.keys():
        return term_text(TermConfig(**value))
    return value if isinstance(value, str) else json.dumps(value)


def comparable(runs: Sequence[Run], split: str) -> bool:
    """Whether the final numbers of a split may be ranked: the same pairs, the same data, the same step."""
    scored = [(run.validation(split), *run.final(split)) for run in runs if split in run.splits]
    recorded = [(draw, step, metrics.get("pairs")) for draw, step, metrics in scored]
    return all(entry == recorded[0] for entry in recorded)


def definition(metric: str) -> Metric | None:
    """The definition of a metric, whatever its stratum or refinement; None for other names."""
    try:
        return METRICS[split_metric_name(metric)[0]]
    except ValueError:
        return None


def format_value(metric: str, value: float, signed: bool = False) -> str:
    """A number as the report writes it: decimals by family, "-" for NaN and infinity alike."""
    if not math.isfinite(value):
        return "-"
    known = definition(metric)
    decimals = DECIMALS[known.unit] if known else 4
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}") if signed else f"{value:.{decimals}f}"


def _folder_name(run: Run) -> str | None:
    found = re.fullmatch(r"(.+)-seed(\d+)", run.name)
    return found[1] if found and int(found[2]) == run.seed else None


def _variant_key(run: Run) -> dict[str, Any]:
    key = {field: value for field, value in run.config.items() if field not in SAME_VARIANT_FIELDS}
    # Runs of several seeds may each start from the run of their own seed.
    key["model.weights"] = re.sub(rf"-seed{run.seed}\b", "-seedN", str(key.get("model.weights", "")))
    return key


def _differing(runs: Sequence[Run]) -> list[str]:
    return [field for field in differences(runs) if field not in SAME_VARIANT_FIELDS]
