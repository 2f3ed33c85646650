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

    It takes FEWEST_SEEDS; an interval over seeds, Holm-corrected over the variants, and one over scenes that
    both exclude zero on the same side; and the same of what is left without the most favourable scene.
    """
    return "undecided" if doubts(comparison) else ("better" if _is_gain(comparison) else "worse")


def doubts(comparison: dict[str, Any]) -> list[str]:
    """Reasons against a verdict on a comparison, as clauses; none where there is a verdict."""
    seeds, over, best = (comparison[name] for name in ("seeds", "scenes", "without_best_scene"))
    if seeds < FEWEST_SEEDS:
        return ["one seed proves nothing" if seeds == 1 else f"{seeds} seeds prove nothing"]
    found = []
    if comparison["p_holm"] is None or comparison["p_holm"] >= 1 - CONFIDENCE:
        p = "" if comparison["p_holm"] is None else f" (p {comparison['p_holm']:.2f})"
        found.append(f"it may be chance between {seeds} seeds{p}")
    if over is None:
        found.append("nothing is known of single scenes")
    elif over["count"] < FEWEST_SCENES:
        found.append(f"{_count(over['count'], 'scene')} can't speak for other scenes")
    elif not _excludes_zero(over, comparison["difference"]):
        found.append(f"it may be chance between {over['count']} scenes")
    elif not all(
        _excludes_zero(part, comparison["difference"])
        for part in (best["scenes"], *(() if found else (best,)))  # Chance needs no scene to explain it.
    ):
        found.append(f"it is gone without scene {best['scene']}")
    return found


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
    spans = []
    if comparison["low"] is not None:
        spans.append(f"{_span(comparison)} over {_count(seeds, 'seed')}")
    if over is not None and over["low"] is not None:
        spans.append(f"{_span(over)} over {_count(over['count'], 'scene')}")
    if spans:
        parts.append(f"95 % interval {' and '.join(spans)}")
    if comparison["state"] == "undecided":
        parts += doubts(comparison)
        if comparison["smallest_visible"] is not None and seeds >= FEWEST_SEEDS:
            visible = format_value(METRIC, comparison["smallest_visible"])
            parts.append(f"{seeds} seeds show a difference of {visible}{unit} or more")
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
