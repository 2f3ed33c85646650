"""Differences as a forest plot, and as a map of where a variant wins and loses: geometry and shades only.

Every number shown is a comparison's own, from the summary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semraft.analysis.variants import definition
from semraft.metrics import ALL, METRICS, OF_HEADS, split_metric_name

FOREST_METRICS = ("epe", "fl", "1px", "epe_moving", "epe_occluded", "epe_boundary", *OF_HEADS)
"""The metrics of the forest plot."""

MAP_METRICS = ("epe", "fl", "1px", "iou_pct", "occlusion_f1_pct")
"""The metrics with a map of strata."""

STRIP_WIDTH, STRIP_HEIGHT = 220, 34
"""The size of a strip of the forest plot, in its own coordinates."""

FULL_SHADE_PCT = 20.0
"""The relative difference that has the darkest shade of the map."""

_PLACES = {
    "Boundary": ("boundary", "interior"),
    "Motion": ("moving", "static", "foreground", "background"),
    "Visibility": ("visible", "occluded", "out_of_frame", "covered", "noc"),
    "Speed": ("speed_0_10", "speed_10_40", "speed_40"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A position along a strip and the number written there."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """One comparison: its numbers, and where they lie along its strip."""

    comparison: dict[str, Any]
    color: int
    at: float
    over_both: tuple[float, float] | None
    over_scenes: tuple[float, float] | None
    seeds: list[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Forest:
    """The comparisons of one metric on one scale; better is to the left of `zero` where `better_left`."""

    metric: str
    zero: float
    ticks: list[Tick]
    better_left: bool
    strips: list[Strip]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A stratum of one variant; `gain`: the variant is better there; `shade`: darkness, 0..100."""

    comparison: dict[str, Any]
    gain: bool
    shade: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MapGroup:
    """Strata of one kind, each with a cell for every variant, None where it has no such comparison."""

    title: str
    rows: list[tuple[str, list[Cell | None]]]


def forests(numbers: dict[str, Any], split: str) -> list[Forest]:
    """The forest plot of a split, metric by metric."""
    colors = {name: color for color, name in enumerate(numbers["variants"])}
    found = []
    for metric in FOREST_METRICS:
        entries = [e for e in numbers["comparisons"] if e["split"] == split and e["metric"] == metric]
        if entries:
            found.append(_forest(metric, entries, colors))
    return found


def map_groups(numbers: dict[str, Any], split: str, metric: str) -> list[MapGroup]:
    """A metric by stratum, in groups of strata of one kind; none where it was not compared by stratum."""
    others = [name for name in numbers["variants"] if name != numbers["base"]]
    cells: dict[str, dict[str, Cell]] = {}
    for entry in numbers["comparisons"]:
        name, stratum = split_metric_name(entry["metric"])
        if entry["split"] == split and name == metric and entry["relative_pct"][0] is not None:
            cells.setdefault(stratum, {})[entry["variant"]] = _cell(entry)
    if set(cells) <= {ALL}:
        return []
    groups: dict[str, list[tuple[str, list[Cell | None]]]] = {}
    for stratum in sorted(cells, key=_order):
        row = [cells[stratum].get(variant) for variant in others]
        groups.setdefault(_group(stratum), []).append((_label(stratum), row))
    return [MapGroup(title=title, rows=rows) for title, rows in groups.items()]


def _forest(metric: str, entries: Sequence[dict[str, Any]], colors: dict[str, int]) -> Forest:
    ends = [0.0]
    for entry in entries:
        intervals = [entry[name] or {} for name in ("crossed", "scenes")]
        found = [interval.get(end) for interval in intervals for end in ("low", "high")]
        ends += [end for end in found if end is not None]
        ends += entry["by_seed"].values()
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 1.0

    def at(value: float) -> float:
        return round(STRIP_WIDTH * (value - low + margin) / (high - low + 2 * margin), 1)

    def span(interval: dict[str, Any] | None) -> tuple[float, float] | None:
        if interval is None or interval["low"] is None:
            return None
        return at(interval["low"]), at(interval["high"])

    strips = [
        Strip(
            comparison=entry,
            color=colors[entry["variant"]],
            at=at(entry["difference"]),
            over_both=span(entry["crossed"]),
            over_scenes=span(entry["scenes"]),
            seeds=[at(value) for value in entry["by_seed"].values()],
        )
        for entry in entries
    ]
    known = definition(metric)
    return Forest(
        metric=metric,
        zero=at(0.0),
        ticks=[
            Tick(at=at(value), label=short_number(value))
            for value in linear_ticks(low - margin, high + margin, about=4)
        ],
        better_left=known is None or known.better == "lower",
        strips=strips,
    )


def linear_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`, about so many."""
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short_number(value: float) -> str:
    """A tick's number, with thousands as k and very small or large ones with an exponent."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        digits, exponent = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.5g}"


def _cell(entry: dict[str, Any]) -> Cell:
    relative = float(entry["relative_pct"][0])
    lower_is_better = METRICS[split_metric_name(entry["metric"])[0]].better == "lower"
    shade = min(abs(relative) / FULL_SHADE_PCT, 1.0)
    return Cell(comparison=entry, gain=(relative < 0) == lower_is_better, shade=round(100 * shade))


def _group(stratum: str) -> str:
    if stratum == ALL:
        return "All"
    if stratum.startswith("iter_"):
        return "Refinement"
    if stratum.startswith("condition_"):
        return "Condition"
    return next((title for title, strata in _PLACES.items() if stratum in strata), "Class")


def _order(stratum: str) -> tuple[int, int, str]:
    groups = ["All", *_PLACES, "Condition", "Class", "Refinement"]
    places = [name for strata in _PLACES.values() for name in strata]
    return groups.index(_group(stratum)), places.index(stratum) if stratum in places else 0, stratum


def _label(stratum: str) -> str:
    if stratum == ALL:
        return "all pixels"
    if stratum.startswith("iter_"):
        return f"after {int(stratum.removeprefix('iter_')) + 1}"
    if stratum.startswith("speed_"):
        low, _, high = stratum.removeprefix("speed_").partition("_")
        return f"{low} to {high} px" if high else f"{low} px and more"
    return stratum.removeprefix("condition_").replace("_", " ")
