"""semraft.analysis.variants: variants and their names, when nothing may be ranked, how numbers look."""

import dataclasses
import math
from pathlib import Path

import pytest

from semraft.analysis.runs import Run, load_run
from semraft.analysis.summary import compare
from semraft.analysis.variants import (
    comparable,
    definition,
    differences,
    format_value,
    short_setting,
    variants,
)
from semraft.config import ModelConfig, OptimConfig
from semraft.report.tables import tables
from tests.unit.analysis.fake_runs import SPLIT, make_config, make_environment, make_run, rewrite


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
    numbers = compare([first, second], {}, "world-base")
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


def test_seeds_that_start_from_the_run_of_their_seed_are_one_variant(tmp_path: Path) -> None:
    """Red when: a path for each seed makes each seed a variant, or another seed's start is no difference."""

    def started(name: str, seed: int, start: str) -> Run:
        weights = ModelConfig(weights=f"study/start/runs/{start}/checkpoints/last.pt")
        return load_run(make_run(tmp_path / name, config=make_config(seed=seed, model=weights)))

    own = [started("a-seed1", 1, "base-seed1"), started("a-seed12", 12, "base-seed12")]
    assert [len(group) for group in variants(own).values()] == [2]
    foreign = started("b", 2, "base-seed12")
    assert [len(group) for group in variants([*own, foreign]).values()] == [2, 1]


def test_how_numbers_are_written() -> None:
    assert format_value("epe_moving", 1.23456) == "1.235"
    assert format_value("1px", 0.87654) == "0.8765"
    assert format_value("fl", 12.3456) == "12.35"
    assert format_value("epe", -0.1234, signed=True) == "\N{MINUS SIGN}0.123"
    assert format_value("epe", math.inf) == format_value("epe", math.nan) == "-"
    assert definition("epe_iter_003") == definition("epe")
    assert definition("total_loss") is None
    assert short_setting([{"name": "matching", "weight": 0.3}]) == "matching:0.3"
    assert short_setting([]) == "none"
    assert short_setting(None) == "null"
