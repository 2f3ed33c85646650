"""The comparison in a sentence, as sure as the numbers allow and no surer."""

from collections.abc import Sequence
from typing import Any

from semraft.analysis.statistics import CONFIDENCE, FEWEST_SCENES
from semraft.analysis.variants import definition, format_value

METRIC = "epe"
"""The metric of the verdict."""

FEWEST_SEEDS = 3
"""Fewer seeds have no verdict, whatever their interval."""


def state_of(comparison: dict[str, Any]) -> str:
    """`better` or `worse` where every way of looking at a comparison agrees, else `undecided`.

    It takes FEWEST_SEEDS and FEWEST_SCENES; a p over seeds and scenes together, Holm-corrected over the
    variants, below 5 %; and an interval that excludes zero without the most favourable scene.
    """
    return "undecided" if doubts(comparison) else ("better" if _is_gain(comparison) else "worse")


def doubts(comparison: dict[str, Any]) -> list[str]:
    """Reasons against a verdict on a comparison, as clauses; none where there is a verdict."""
    seeds, over, best = (comparison[name] for name in ("seeds", "scenes", "without_best_scene"))
    if seeds < FEWEST_SEEDS:
        return ["one seed proves nothing" if seeds == 1 else f"{seeds} seeds prove nothing"]
    if over is None:
        return ["nothing is known of single scenes"]
    if over["count"] < FEWEST_SCENES:
        return [f"{_count(over['count'], 'scene')} can't speak for other scenes"]
    p = comparison["p_holm"]
    if p is None or p >= 1 - CONFIDENCE:
        said = "" if p is None else f" (p {p:.2f})"
        return [f"it may be chance between {seeds} seeds and {over['count']} scenes{said}"]
    if not _excludes_zero(best, comparison["difference"]):
        return [f"it is gone without scene {best['scene']}"]
    return []


def verdict(comparisons: Sequence[dict[str, Any]], base: str) -> dict[str, Any]:
    """The verdict on every variant, on the first split that it shares with its reference.

    Args:
        comparisons: Those of a summary, split by split, with their states.
        base: The variant that others are compared with, unless `against` names another.
    """
    first: dict[str, dict[str, Any]] = {}
    for entry in comparisons:
        if entry["metric"] == METRIC:
            first.setdefault(entry["variant"], entry)
    said = [
        {"variant": name, "split": entry["split"], "state": entry["state"], "text": sentence(entry)}
        for name, entry in first.items()
    ]
    nothing = f"Nothing is compared: no variant shares a counted seed with {base}."
    return {"metric": METRIC, "text": " ".join(entry["text"] for entry in said) or nothing, "variants": said}


def sentence(comparison: dict[str, Any]) -> str:
    """One comparison in a sentence with its intervals."""
    variant, base = comparison["variant"], comparison["against"]
    lead = {
        "better": f"{variant} is better than {base}",
        "worse": f"{variant} is worse than {base}",
        "undecided": f"{variant} can't be told from {base}",
    }[comparison["state"]]
    known = definition(METRIC)
    unit = f" {known.unit}" if known else ""
    parts = [f"{METRIC.upper()} {_signed(comparison['difference'])}{unit}{_relative(comparison)}"]
    seeds, over, best = (comparison[name] for name in ("seeds", "scenes", "without_best_scene"))
    counts = _count(seeds, "seed") + (f" and {_count(over['count'], 'scene')}" if over else "")
    interval = comparison["crossed"] or comparison
    if interval["low"] is not None:
        parts.append(f"95 % interval {_span(interval)} over {counts}")
    if comparison["state"] == "undecided":
        parts += doubts(comparison)
        if comparison["smallest_visible"] is not None and seeds >= FEWEST_SEEDS:
            visible = format_value(METRIC, comparison["smallest_visible"])
            parts.append(f"a difference of {visible}{unit} would have been seen four times in five")
    elif best is not None:
        parts.append(f"{_signed(best['difference'])}{unit} without its most favourable scene")
    return f"{lead} on {comparison['split']}: {parts[0]}; {'; '.join(parts[1:])}."


def _is_gain(comparison: dict[str, Any]) -> bool:
    known = definition(comparison["metric"])
    return known is not None and (comparison["difference"] < 0) == (known.better == "lower")


def _excludes_zero(interval: dict[str, Any] | None, difference: float) -> bool:
    """Whether an interval lies wholly on the difference's side of zero."""
    if interval is None or interval["low"] is None:
        return False
    return bool(interval["low"] > 0 if difference > 0 else interval["high"] < 0)


def _span(interval: dict[str, Any]) -> str:
    return f"{_signed(interval['low'])} to {_signed(interval['high'])}"


def _relative(comparison: dict[str, Any]) -> str:
    pct = comparison["relative_pct"][0]
    return "" if pct is None else f" ({pct:+.1f} %)".replace("-", "\N{MINUS SIGN}")


def _signed(value: float) -> str:
    return format_value(METRIC, value, signed=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
