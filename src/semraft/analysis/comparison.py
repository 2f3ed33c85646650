"""Runs side by side: variants and seeds, final numbers, differences, and what forbids comparing them.

The page and the terminal show the numbers of `summary` and no others. Differences between means are shown
as they are: intervals and tests are not this module's business.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from semraft.analysis.runs import Run
from semraft.metrics import ALL, METRICS, STRATA, Metric, split_metric_name

KEY_METRICS = ("epe", "epe_image_mean", "1px", "3px", "5px", "fl", "wauc")
"""The columns of the table of results, where a run has them; every other metric is told by stratum."""

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
        "data.root",
        "data.workers",
    }
)
"""Configuration fields that may differ between runs of one variant: they do not change what is learnt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a table of results: a variant (its run, or the mean over its seeds), or one of its runs.

    `best` are the metrics in which no other variant reads better. `differences` are against the reference
    variant, over common seeds; none where there are none.
    """

    variant: str
    color: int
    seeds: tuple[int, ...]
    is_variant: bool
    step: int
    metrics: dict[str, float]
    best: frozenset[str] = frozenset()
    differences: dict[str, float] = field(default_factory=dict)

    def text(self, metric: str) -> str:
        """A number as the report writes it, "-" where there is none."""
        return format_value(metric, self.metrics.get(metric, math.nan))


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The final numbers of one validation split: every metric that some run has, the key metrics first."""

    split: str
    pairs: int | None
    comparable: bool
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def key_metrics(self) -> tuple[str, ...]:
        """The columns of the table of results."""
        return tuple(metric for metric in self.metrics if metric in KEY_METRICS)

    @property
    def variant_rows(self) -> tuple[Row, ...]:
        """One row for each variant."""
        return tuple(row for row in self.rows if row.is_variant)

    def by_stratum(self) -> dict[str, dict[str, str]]:
        """Metric -> stratum -> full name, for the metrics that some run has by stratum, in table order."""
        found: dict[str, dict[str, str]] = {}
        for name in self.metrics:
            if (known := definition(name)) is not None and known.better != "neither":
                metric, stratum = split_metric_name(name)
                found.setdefault(metric, {})[stratum] = name
        order = [ALL, *STRATA]
        return {
            metric: dict(sorted(found[metric].items(), key=lambda item: _position(item[0], order)))
            for metric in METRICS
            if len(found.get(metric, {})) > 1
        }


def variants(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs grouped into variants, in the order given: the same configuration but for the seed.

    A variant is named by its recipe; where one recipe was run with different settings, by those too.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_variant_key(run), sort_keys=True), []).append(run)
    members = list(groups.values())
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
    """A configuration value as one types it: loss terms as NAME:WEIGHT."""
    if isinstance(value, list):
        return " ".join(short_setting(item) for item in value) or "none"
    if isinstance(value, dict) and value.keys() == {"name", "weight"}:
        return f"{value['name']}:{value['weight']}"
    return value if isinstance(value, str) else json.dumps(value)


def comparable(runs: Sequence[Run], split: str) -> bool:
    """Whether the final numbers of a split may be ranked: the same pairs, the same data, the same step."""
    scored = [(run.validation(split), *run.final(split)) for run in runs if split in run.splits]
    recorded = [(draw, step, metrics.get("pairs")) for draw, step, metrics in scored]
    return all(entry == recorded[0] for entry in recorded)


def definition(metric: str) -> Metric | None:
    """What a metric's name means, whatever its stratum; None for one that is not in the table of metrics."""
    try:
        return METRICS[split_metric_name(metric)[0]] if "_iter_" not in metric else None
    except ValueError:
        return None


def format_value(metric: str, value: float, signed: bool = False) -> str:
    """A number as the report writes it: decimals by family, "-" for NaN and infinity alike."""
    if not math.isfinite(value):
        return "-"
    known = definition(metric)
    decimals = DECIMALS[known.unit] if known else 4
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}") if signed else f"{value:.{decimals}f}"


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The final numbers of runs, their means by variant, and differences against the first variant.

    A run's numbers of a split are those of its last validation. A mean over seeds is NaN where one of them
    lacks the metric. A difference is the mean over the seeds that both variants were run with.
    """
    groups = variants(runs)
    splits = list(dict.fromkeys(split for run in runs for split in run.splits))
    reference = next(iter(groups))
    entries = [
        {
            "variant": name,
            "seed": run.seed,
            "path": str(run.path),
            "split": split,
            "step": run.final(split)[0],
            "metrics": run.final(split)[1],
        }
        for split in splits
        for name, group in groups.items()
        for run in group
        if split in run.splits
    ]
    means = [
        {
            "variant": name,
            "split": split,
            "seeds": len(rows),
            "metrics": _mean([row["metrics"] for row in rows]),
        }
        for split in splits
        for name in groups
        if (rows := _select(entries, name, split))
    ]
    comparisons = [
        {"variant": name, "against": reference, "split": split, **difference}
        for split in splits
        if comparable(runs, split)
        for name in groups
        if name != reference
        for difference in _paired(_select(entries, name, split), _select(entries, reference, split))
    ]
    protocol = {
        "reference": reference,
        "variants": {name: [run.seed for run in group] for name, group in groups.items()},
        "splits": {
            split: {"pairs": _pairs(runs, split), "comparable": comparable(runs, split)} for split in splits
        },
    }
    return {"protocol": protocol, "runs": entries, "means": means, "comparisons": comparisons}


def tables(numbers: dict[str, Any]) -> list[Table]:
    """The tables of results of a `summary`, one for each split."""
    return [_table(numbers, split) for split in numbers["protocol"]["splits"]]


def _table(numbers: dict[str, Any], split: str) -> Table:
    protocol = numbers["protocol"]
    is_comparable = protocol["splits"][split]["comparable"]
    means = [entry for entry in numbers["means"] if entry["split"] == split]
    found = list(dict.fromkeys(metric for entry in means for metric in entry["metrics"]))
    metrics = (*(m for m in KEY_METRICS if m in found), *(m for m in found if m not in KEY_METRICS))
    best = {metric: _best(metric, means) if is_comparable else frozenset() for metric in metrics}
    rows: list[Row] = []
    for color, variant in enumerate(protocol["variants"]):
        entries = _select(numbers["runs"], variant, split)
        rows += [
            Row(
                variant=variant,
                color=color,
                seeds=tuple(entry["seed"] for entry in entries),
                is_variant=True,
                step=max(entry["step"] for entry in entries),
                metrics=mean["metrics"],
                best=frozenset(metric for metric in metrics if variant in best[metric]),
                differences={
                    entry["metric"]: entry["difference"]
                    for entry in _select(numbers["comparisons"], variant, split)
                },
            )
            for mean in _select(means, variant, split)
        ]
        rows += [
            Row(
                variant=variant,
                color=color,
                seeds=(entry["seed"],),
                is_variant=False,
                step=entry["step"],
                metrics=entry["metrics"],
            )
            for entry in (entries if len(entries) > 1 else [])
        ]
    pairs = protocol["splits"][split]["pairs"]
    return Table(split=split, pairs=pairs, comparable=is_comparable, metrics=metrics, rows=tuple(rows))


def _best(metric: str, means: Sequence[dict[str, Any]]) -> frozenset[str]:
    """The variants whose mean reads best as written; nothing where fewer than two have a number."""
    known = definition(metric)
    values = {
        entry["variant"]: value
        for entry in means
        if math.isfinite(value := entry["metrics"].get(metric, math.nan))
    }
    if known is None or known.better == "neither" or len(values) < 2:
        return frozenset()
    best = format_value(metric, (min if known.better == "lower" else max)(values.values()))
    return frozenset(name for name, value in values.items() if format_value(metric, value) == best)


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    metrics = dict.fromkeys(metric for row in rows for metric in row)
    return {metric: sum(row.get(metric, math.nan) for row in rows) / len(rows) for metric in metrics}


def _paired(rows: Sequence[dict[str, Any]], against: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Mean differences over common seeds, for the metrics that have a better direction."""
    other = {row["seed"]: row["metrics"] for row in against}
    common = {row["seed"]: row["metrics"] for row in rows if row["seed"] in other}
    for metric in dict.fromkeys(metric for metrics in common.values() for metric in metrics):
        if definition(metric) is None:
            continue
        each = [
            metrics.get(metric, math.nan) - other[seed].get(metric, math.nan)
            for seed, metrics in common.items()
        ]
        if all(math.isfinite(difference) for difference in each):
            yield {"metric": metric, "difference": sum(each) / len(each), "seeds": len(each)}


def _position(stratum: str, order: Sequence[str]) -> int:
    return order.index(stratum) if stratum in order else len(order)


def _select(entries: Sequence[dict[str, Any]], variant: str, split: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["variant"] == variant and entry["split"] == split]


def _pairs(runs: Sequence[Run], split: str) -> int | None:
    """How many pairs the runs were validated on; None where they did not record it or differ."""
    found = {len(ids) for run in runs if split in run.splits and (ids := run.validation(split).get("ids"))}
    return found.pop() if len(found) == 1 else None


def _variant_key(run: Run) -> dict[str, Any]:
    return {field: value for field, value in run.config.items() if field not in SAME_VARIANT_FIELDS}


def _differing(runs: Sequence[Run]) -> list[str]:
    return [field for field in differences(runs) if field not in SAME_VARIANT_FIELDS]
