"""The tables of results that the page and the terminal show, made of a summary's numbers and no others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from semraft.analysis.variants import definition, format_value
from semraft.metrics import ALL, METRICS, OF_HEADS, STRATA, split_metric_name

KEY_METRICS = ("epe", "epe_image_mean", "1px", "3px", "5px", "fl", "wauc", *OF_HEADS)
"""The columns of the table of results, where a run has them; every other metric is told by stratum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a table of results: a variant (its run, or the mean over its seeds), or one of its runs.

    `best` are the metrics in which no other variant reads better. `differences` are against the reference
    variant, over common seeds; none where there are none. `spread` is the standard deviation over seeds. A
    run is not `counted` where its seed is another one's duplicate.
    """

    variant: str
    color: int
    seeds: tuple[int, ...]
    is_variant: bool
    step: int
    metrics: dict[str, float]
    spread: dict[str, float] = field(default_factory=dict)
    counted: bool = True
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
            if (
                (known := definition(name)) is not None
                and known.better != "neither"
                and known.unit != "pixels"
            ):
                metric, stratum = split_metric_name(name)
                if stratum.startswith("iter_"):
                    continue
                found.setdefault(metric, {})[stratum] = name
        order = [ALL, *STRATA]
        return {
            metric: dict(sorted(found[metric].items(), key=lambda item: _position(item[0], order)))
            for metric in METRICS
            if len(found.get(metric, {})) > 1
        }


def tables(numbers: dict[str, Any]) -> list[Table]:
    """The tables of results of a summary, one for each split."""
    return [_table(numbers, split) for split in numbers["splits"]]


def _table(numbers: dict[str, Any], split: str) -> Table:
    is_comparable = numbers["splits"][split]["comparable"]
    means = [entry for entry in numbers["means"] if entry["split"] == split]
    found = list(dict.fromkeys(metric for entry in means for metric in entry["metrics"]))
    metrics = (*(m for m in KEY_METRICS if m in found), *(m for m in found if m not in KEY_METRICS))
    best = {metric: _best(metric, means) if is_comparable else frozenset() for metric in metrics}
    rows: list[Row] = []
    for color, variant in enumerate(numbers["variants"]):
        entries = _select(numbers["runs"], variant, split)
        rows += [
            Row(
                variant=variant,
                color=color,
                seeds=tuple(entry["seed"] for entry in entries if entry["counted"]),
                is_variant=True,
                step=max(entry["step"] for entry in entries),
                metrics=_numbers(mean["metrics"]),
                spread=_numbers(mean["spread"]),
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
                metrics=_numbers(entry["metrics"]),
                counted=entry["counted"],
            )
            for entry in (entries if len(entries) > 1 else [])
        ]
    pairs = numbers["splits"][split]["pairs"]
    return Table(split=split, pairs=pairs, comparable=is_comparable, metrics=metrics, rows=tuple(rows))


def _numbers(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _best(metric: str, means: Sequence[dict[str, Any]]) -> frozenset[str]:
    """The variants whose mean reads best as written; nothing where fewer than two have a number."""
    known = definition(metric)
    values = {
        entry["variant"]: value for entry in means if (value := entry["metrics"].get(metric)) is not None
    }
    if known is None or known.better == "neither" or len(values) < 2:
        return frozenset()
    best = format_value(metric, (min if known.better == "lower" else max)(values.values()))
    return frozenset(name for name, value in values.items() if format_value(metric, value) == best)


def _position(stratum: str, order: Sequence[str]) -> int:
    return order.index(stratum) if stratum in order else len(order)


def _select(entries: Sequence[dict[str, Any]], variant: str, split: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["variant"] == variant and entry["split"] == split]
