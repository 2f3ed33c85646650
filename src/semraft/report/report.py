"""One HTML page that compares runs: it opens offline, and holds everything it shows.

Numbers come from the summary, caveats, curves and pictures from the files beside this one.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semraft.analysis.comparability import FINGERPRINTS
from semraft.analysis.runs import Run, health_of, load_run
from semraft.analysis.study_file import STUDY
from semraft.analysis.summary import compare, summarize_study
from semraft.analysis.variants import (
    SAME_VARIANT_FIELDS,
    differences,
    short_setting,
    variants,
)
from semraft.metrics import METRICS, STRATA
from semraft.ops.color import color_wheel_legend
from semraft.report import forest
from semraft.report.caveats import caveats, in_order, replicate_caveats
from semraft.report.figures import Chart, Mark, make_chart, refinement_curves, step_curves
from semraft.report.forest import MAP_METRICS, forests, map_groups
from semraft.report.hover_data import STEPS_PER_PX, UNKNOWN
from semraft.report.page import write_html
from semraft.report.pair_pictures import MAX_PAIRS, change_colors, data_uri, error_colors, pair_pictures
from semraft.report.tables import tables

EXTREMES = 5
"""How many of the largest gains and losses of single pairs are listed."""

VALIDATION_CURVES = ("epe", "fl", "1px", "epe_moving", "epe_occluded", "epe_boundary")
"""Metrics with a curve for every validation split."""

TRAINING_CURVES = ("total_loss", "flow_loss", "epe", "1px", "gradient_norm", "learning_rate")
"""Metrics with a training curve, besides every other loss."""


def write_report(paths: Sequence[Path], out: Path) -> str:
    """Writes the page that compares runs, and returns their `final_table`.

    Runs are compared with the variant of the first. The page of a study is that of its finished runs, and
    shows the numbers of its summary.json, which is written anew.

    Args:
        paths: Run directories, or the directory of one study.
        out: The page.

    Raises:
        ValueError: No runs, a folder that is not a run directory, or a study whose runs may not be compared.
    """
    if not paths:
        raise ValueError("a report needs at least one run directory, got none")
    if len(paths) == 1 and (paths[0] / STUDY).is_file():
        runs, numbers = summarize_study(paths[0])
    else:
        runs = [load_run(path) for path in {path.resolve(): path for path in paths}.values()]
        numbers = compare(runs, {}, next(iter(variants(runs))))
    write_page(runs, numbers, out)
    return final_table(runs, numbers)


def write_page(runs: Sequence[Run], numbers: dict[str, Any], out: Path) -> None:
    """Writes the page of runs and their summary; every number of its tables is one of the summary's."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(8, 0)
    values = {
        "setting": short_setting,
        "forest": forest,
        "fingerprints": FINGERPRINTS,
        "coding": {"steps_per_px": STEPS_PER_PX, "unknown": UNKNOWN},
        "p_value": _p_value,
        "max_pairs": MAX_PAIRS,
        "short": _short,
        "metrics": METRICS,
        "strata": STRATA,
        "runs": runs,
        "groups": variants(runs),
        "numbers": numbers,
        "tables": tables(numbers),
        "forests": {split: forests(numbers, split) for split in numbers["splits"]},
        "maps": [
            (split, metric, groups)
            for split in numbers["splits"]
            for metric in MAP_METRICS
            if (groups := map_groups(numbers, split, metric))
        ],
        "extremes": _extreme_pairs(numbers),
        "caveats": in_order([*replicate_caveats(numbers), *caveats(runs)]),
        "training": list(_training_charts(runs)),
        "validation": list(_validation_charts(runs, numbers)),
        "health": [health_of(run) for run in runs],
        "pairs": list(pair_pictures(runs, numbers)),
        "error_scale": data_uri(error_colors(ramp), "flat"),
        "change_scale": data_uri(change_colors(2 * ramp - 1), "flat"),
        "wheel": data_uri(color_wheel_legend(96), "flat"),
        "settings": _settings(runs),
        "data_rows": _data_rows(runs),
    }
    write_html(out, "report.html.jinja", values, extra=("pairs.js", "pairs.css"))


def final_table(runs: Sequence[Run], numbers: dict[str, Any]) -> str:
    """The final numbers as text for a terminal; the best variant of each column is marked with *."""
    blocks = []
    for table in tables(numbers):
        pairs = f", {table.pairs} pairs" if table.pairs else ""
        lines = [["", "seed", "step", *(f"{metric} " for metric in table.key_metrics)]]
        for row in table.rows:
            seed = str(row.seeds[0]) if len(row.seeds) == 1 else f"mean of {len(row.seeds)}"
            marked = [row.text(metric) + ("*" if metric in row.best else " ") for metric in table.key_metrics]
            lines.append([row.variant if row.is_variant else "", seed, str(row.step), *marked])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in lines
        ]
        blocks.append("\n".join([f"{table.split}{pairs}", *text]))
    if len(numbers["variants"]) > 1:
        blocks.append(numbers["verdict"]["text"])
    found = in_order([*replicate_caveats(numbers), *caveats(runs)])
    limits = [f"! {caveat.text}" for caveat in found if caveat.level != "note"]
    return "\n\n".join([*(blocks or ["No validation yet."]), *(["\n".join(limits)] if limits else [])])


def _marks(runs: Sequence[Run]) -> list[Mark]:
    """The steps at which runs went wrong."""
    return [
        Mark(step=health.first_step, label=f"{name} seed {run.seed}: {health.state} from here", color=color)
        for color, (name, group) in enumerate(variants(runs).items())
        for run in group
        if (health := health_of(run)).first_step is not None
    ]


def _extreme_pairs(numbers: dict[str, Any]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Split, variant, and the pairs with the variant's largest gains and losses, largest gain first."""
    found = []
    for split in numbers["splits"]:
        for variant in numbers["against"]:
            entries = [e for e in numbers["pairs"] if e["split"] == split and variant in e["difference"]]
            ordered = sorted(entries, key=lambda entry: entry["difference"][variant])
            few = len(ordered) <= 2 * EXTREMES
            if ordered:
                found.append((split, variant, ordered if few else ordered[:EXTREMES] + ordered[-EXTREMES:]))
    return found


def _p_value(p: float) -> str:
    """A p value as the report writes it."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _training_charts(runs: Sequence[Run]) -> Iterator[Chart]:
    logged = dict.fromkeys(
        metric for run in runs for row in run.logged.get("train", {}).values() for metric in row
    )
    losses = [metric for metric in logged if metric.endswith("_loss") and metric not in TRAINING_CURVES]
    order = [*TRAINING_CURVES[:2], *losses, *TRAINING_CURVES[2:]]
    groups = variants(runs)
    for metric in order:
        if chart := make_chart(metric, "step", metric, step_curves(groups, "train", metric), _marks(runs)):
            yield chart


def _validation_charts(runs: Sequence[Run], numbers: dict[str, Any]) -> Iterator[tuple[str, list[Chart]]]:
    groups = variants(runs)
    for table in tables(numbers):
        charts = [
            make_chart(metric, "step", metric, step_curves(groups, table.split, metric), _marks(runs))
            for metric in VALIDATION_CURVES
        ]
        final = [(row.variant, row.color, row.metrics) for row in table.variant_rows]
        curves = refinement_curves(final, "epe")
        charts.append(make_chart("epe by refinement", "refinement", "epe", curves))
        yield table.split, [chart for chart in charts if chart]


def _short(value: Any) -> str:
    """A value of the environment for a table: a commit or fingerprint by its first characters."""
    text = "-" if value is None else str(value)
    return text if len(text) <= 30 else f"{text[:12]}…{text[-8:] if text.endswith('+changes') else ''}"


def _data_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """One row for each data set as runs recorded it: name, use, pairs, problems, fingerprint, which runs."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        data = run.environment.get("data", {})
        for entry in data.get("train", []):
            recorded = (_short(entry.get(field)) for field in ("pairs", "problems", "fingerprint"))
            row = (str(entry.get("name")), "training", *recorded)
            rows.setdefault(row, []).append(run.name)
        for name, entry in data.get("validation", {}).items():
            pairs, fingerprint = str(len(entry.get("ids", []))), _short(entry.get("fingerprint"))
            row = (name, "validation draw", pairs, "-", fingerprint)
            rows.setdefault(row, []).append(run.name)
    return [(*row, "all" if len(names) == len(runs) else ", ".join(names)) for row, names in rows.items()]


def _settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Configuration fields that differ between variants, with each variant's value."""
    groups = variants(runs)
    table = differences([group[0] for group in groups.values()])
    return {
        name: [short_setting(value) for value in values]
        for name, values in table.items()
        if name not in SAME_VARIANT_FIELDS
    }
