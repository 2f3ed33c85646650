"""Strata by scene condition (night, fog, rain), read from the ids of a data set's pairs.

A run logs no such metrics: they are pooled here from the rows of its last evaluation.
"""

import math
import re
from collections.abc import Mapping

METRICS_BY_CONDITION = ("epe", "fl", "1px")
"""Metrics that are pooled by condition."""

_ID = re.compile(r"(?:train|val)/(?P<world>[a-z]+)-\d+|Scene\d\d/(?P<drive>.+?)(?:-\d{4})?/Camera_\d/\d+")
"""`val/night-00012` of the world, `Scene01/fog/Camera_0/00123` of Virtual KITTI; others name no condition."""

Rows = Mapping[tuple[str, str], Mapping[str, float]]


def condition_of(pair_id: str) -> str | None:
    """The condition that a pair's id names, None where it names none."""
    found = _ID.fullmatch(pair_id)
    return (found["world"] or found["drive"]) if found else None


def rows_by_condition(rows: Rows) -> dict[tuple[str, str], dict[str, float]]:
    """The rows with each pair's metrics once more under its condition: `epe_condition_night`."""
    told: dict[tuple[str, str], dict[str, float]] = {}
    for pair, row in rows.items():
        condition = condition_of(pair[1])
        names = ("valid", *METRICS_BY_CONDITION) if condition else ()
        told[pair] = {**row, **{f"{name}_condition_{condition}": row[name] for name in names if name in row}}
    return told


def metrics_by_condition(rows: Rows, split: str, final: Mapping[str, float]) -> dict[str, float]:
    """Pooled metrics of a split by condition; none where the rows do not pool to its final EPE.

    Args:
        rows: As from `rows_by_condition`.
        split: Which split.
        final: The metrics logged by its last evaluation.
    """
    own = [row for (found, _), row in rows.items() if found == split]
    if not math.isclose(_pooled(own, "epe", "valid"), final.get("epe", math.nan), rel_tol=1e-6):
        return {}
    conditions = sorted(
        {condition for found, pair in rows if found == split and (condition := condition_of(pair))}
    )
    return {
        name: value
        for condition in conditions
        for metric in METRICS_BY_CONDITION
        if math.isfinite(
            value := _pooled(own, name := f"{metric}_condition_{condition}", f"valid_condition_{condition}")
        )
    }


def _pooled(rows: list[Mapping[str, float]], metric: str, count: str) -> float:
    """The mean over pixels; NaN without a pixel."""
    parts = [(row[metric], row[count]) for row in rows if metric in row and row.get(count, 0) > 0]
    pixels = sum(number for _, number in parts)
    return math.fsum(value * number for value, number in parts) / pixels if pixels else math.nan
