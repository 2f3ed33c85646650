"""semraft.report.tables: rows, best values and strata of the tables of results."""

from pathlib import Path

import pytest

from semraft.analysis.runs import Run, load_run
from semraft.analysis.summary import compare
from semraft.report.tables import Table, tables
from tests.unit.analysis.fake_runs import SPLIT, make_run, rewrite


def two_variants(folder: Path) -> list[Run]:
    """Base with seeds 0 and 42, semantic with seeds 42 and 7: only 42 is common."""
    scored = [("world-base", 0, 2.0), ("world-base", 42, 3.0)]
    scored += [("world-semantic-v1", 42, 2.5), ("world-semantic-v1", 7, 1.0)]
    return [
        load_run(make_run(folder / f"{recipe}-{seed}", recipe, seed, epe)) for recipe, seed, epe in scored
    ]


def table_of(runs: list[Run]) -> Table:
    (table,) = tables(compare(runs, {}, "world-base"))
    return table


@pytest.mark.parametrize(("metric", "winner"), [("epe", 1.0), ("fl", 1.0), ("1px", 1.0), ("wauc", 1.0)])
def test_the_best_follows_the_direction_of_the_metric(tmp_path: Path, metric: str, winner: float) -> None:
    """Red when: the lowest value is marked whatever the metric."""
    runs = two_variants(tmp_path)
    table = table_of([runs[0], runs[3]])
    marked = [row.metrics["epe"] for row in table.variant_rows if metric in row.best]
    assert marked == [winner]


def test_equal_as_written_is_equally_best(tmp_path: Path) -> None:
    runs = two_variants(tmp_path)
    close = [rewrite(runs[0], SPLIT, epe=1.23411), rewrite(runs[3], SPLIT, epe=1.23409)]
    table = table_of(close)
    assert [("epe" in row.best, row.text("epe")) for row in table.variant_rows] == [(True, "1.234")] * 2


def test_nan_is_a_dash_and_never_best(tmp_path: Path) -> None:
    """Red when: NaN is compared, which makes the first value win."""
    runs = two_variants(tmp_path)
    broken = [rewrite(runs[0], SPLIT, epe=None, fl=None), runs[1], runs[3]]
    table = table_of(broken)
    mean = table.variant_rows[0]
    assert mean.text("epe") == "-"
    assert "epe" not in mean.metrics  # One of two seeds is NaN: so is the mean.
    assert all("epe" not in row.best for row in table.rows)
    assert table.rows[2].text("epe") == "3.000"


def test_strata_are_told_in_the_order_of_the_table(tmp_path: Path) -> None:
    table = table_of(two_variants(tmp_path))
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
