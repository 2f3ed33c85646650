"""semraft.analysis.comparison: variants, final numbers, differences, and when nothing may be ranked."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from semraft.analysis.comparison import (
    comparable,
    definition,
    differences,
    format_value,
    short_setting,
    summary,
    tables,
    variants,
)
from semraft.analysis.runs import Run, load_run
from semraft.config import OptimConfig
from tests.unit.analysis.fake_runs import SPLIT, make_config, make_environment, make_run


def two_variants(folder: Path) -> list[Run]:
    """Base with seeds 0 and 42, semantic with seeds 42 and 7: only 42 is common."""
    scored = [("world-base", 0, 2.0), ("world-base", 42, 3.0)]
    scored += [("world-semantic-v1", 42, 2.5), ("world-semantic-v1", 7, 1.0)]
    return [
        load_run(make_run(folder / f"{recipe}-{seed}", recipe, seed, epe)) for recipe, seed, epe in scored
    ]


def rewrite(run: Run, split: str, **changes: Any) -> Run:
    """The run with these metrics of its last validation changed in its files."""
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    [line for line in lines if line["split"] == split][-1].update(changes)
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load_run(run.path)


def test_the_summary_holds_the_numbers_of_the_files(tmp_path: Path) -> None:
    numbers = summary(two_variants(tmp_path))
    runs = [(run["variant"], run["seed"], run["step"], run["metrics"]["epe"]) for run in numbers["runs"]]
    assert runs == [
        ("world-base", 0, 400, 2.0),
        ("world-base", 42, 400, 3.0),
        ("world-semantic-v1", 42, 400, 2.5),
        ("world-semantic-v1", 7, 400, 1.0),
    ]
    means = {mean["variant"]: (mean["seeds"], mean["metrics"]["epe"]) for mean in numbers["means"]}
    assert means == {"world-base": (2, 2.5), "world-semantic-v1": (2, 1.75)}
    assert numbers["protocol"]["splits"] == {SPLIT: {"pairs": 2, "comparable": True}}


def test_a_difference_is_over_common_seeds_only(tmp_path: Path) -> None:
    """Red when: means over all seeds are subtracted (-0.75 instead of seed 42's -0.5)."""
    comparisons = summary(two_variants(tmp_path))["comparisons"]
    epe = [entry for entry in comparisons if entry["metric"] == "epe"]
    assert epe == [
        {
            "variant": "world-semantic-v1",
            "against": "world-base",
            "split": SPLIT,
            "metric": "epe",
            "difference": -0.5,
            "seeds": 1,
        }
    ]
    assert not [entry for entry in comparisons if "_iter_" in entry["metric"]]


def test_without_a_common_seed_there_is_no_difference(tmp_path: Path) -> None:
    runs = two_variants(tmp_path)
    assert summary([runs[0], runs[3]])["comparisons"] == []


@pytest.mark.parametrize(("metric", "winner"), [("epe", 1.0), ("fl", 1.0), ("1px", 1.0), ("wauc", 1.0)])
def test_the_best_follows_the_direction_of_the_metric(tmp_path: Path, metric: str, winner: float) -> None:
    """Red when: the lowest value is marked whatever the metric."""
    runs = two_variants(tmp_path)
    (table,) = tables(summary([runs[0], runs[3]]))
    marked = [row.metrics["epe"] for row in table.variant_rows if metric in row.best]
    assert marked == [winner]


def test_equal_as_written_is_equally_best(tmp_path: Path) -> None:
    runs = two_variants(tmp_path)
    close = [rewrite(runs[0], SPLIT, epe=1.23411), rewrite(runs[3], SPLIT, epe=1.23409)]
    (table,) = tables(summary(close))
    assert [("epe" in row.best, row.text("epe")) for row in table.variant_rows] == [(True, "1.234")] * 2


def test_nan_is_a_dash_and_never_best(tmp_path: Path) -> None:
    """Red when: NaN is compared, which makes the first value win."""
    runs = two_variants(tmp_path)
    broken = [rewrite(runs[0], SPLIT, epe=None, fl=None), runs[1], runs[3]]
    (table,) = tables(summary(broken))
    mean = table.variant_rows[0]
    assert mean.text("epe") == "-"
    assert math.isnan(mean.metrics["epe"])  # One of two seeds is NaN: so is the mean.
    assert all("epe" not in row.best for row in table.rows)
    assert table.rows[2].text("epe") == "3.000"


@pytest.mark.parametrize("what", ["ids", "fingerprint", "step", "pairs"])
def test_nothing_is_ranked_that_was_not_measured_alike(tmp_path: Path, what: str) -> None:
    """Red when: `comparable` forgets one of the four."""
    environment = make_environment()
    if what == "ids":
        environment = make_environment(ids=("scene/000003", "scene/000012"))
    elif what == "fingerprint":
        environment = make_environment(fingerprint="other")
    validated = (200,) if what == "step" else (200, 400)
    first = load_run(make_run(tmp_path / "a", "world-base"))
    path = make_run(
        tmp_path / "b", "world-semantic-v1", epe=1.0, environment=environment, validated=validated
    )
    second = load_run(path)
    if what == "pairs":
        second = rewrite(second, SPLIT, pairs=1.0, skipped=1.0)
    assert comparable([first], SPLIT)
    assert not comparable([first, second], SPLIT)
    numbers = summary([first, second])
    assert numbers["comparisons"] == []
    assert all(not row.best for table in tables(numbers) for row in table.rows)


def test_runs_of_one_recipe_with_other_settings_are_other_variants(tmp_path: Path) -> None:
    """Red when: variants are grouped by recipe name alone."""
    config = make_config(seed=42, optim=OptimConfig(steps=400, learning_rate=3e-4))
    elsewhere = dataclasses.replace(make_config(seed=7), device="cpu", log_every=7)
    runs = [
        load_run(make_run(tmp_path / "a", seed=0)),
        load_run(make_run(tmp_path / "b", config=config)),
        load_run(make_run(tmp_path / "c", config=elsewhere)),
    ]
    groups = {name: [run.seed for run in group] for name, group in variants(runs).items()}
    assert groups == {
        "world-base optim.learning_rate=0.0001": [0, 7],
        "world-base optim.learning_rate=0.0003": [42],
    }
    assert differences(runs)["optim.learning_rate"] == [1e-4, 3e-4, 1e-4]
    assert "optim.steps" not in differences(runs)


def test_strata_are_told_in_the_order_of_the_table(tmp_path: Path) -> None:
    (table,) = tables(summary(two_variants(tmp_path)))
    assert table.key_metrics == ("epe", "epe_image_mean", "1px", "3px", "5px", "fl", "wauc")
    assert table.by_stratum() == {
        "epe": {
            "all": "epe",
            "moving": "epe_moving",
            "occluded": "epe_occluded",
            "car": "epe_car",
        },
        "fl": {"all": "fl", "moving": "fl_moving"},
    }


def test_how_numbers_are_written() -> None:
    assert format_value("epe_moving", 1.23456) == "1.235"
    assert format_value("1px", 0.87654) == "0.8765"
    assert format_value("fl", 12.3456) == "12.35"
    assert format_value("epe", -0.1234, signed=True) == "\N{MINUS SIGN}0.123"
    assert format_value("epe", math.inf) == format_value("epe", math.nan) == "-"
    assert definition("epe_iter_003") is None
    assert definition("total_loss") is None
    assert short_setting([{"name": "matching", "weight": 0.3}]) == "matching:0.3"
    assert short_setting([]) == "none"
    assert short_setting(None) == "null"
