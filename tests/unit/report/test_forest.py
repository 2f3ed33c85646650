"""semraft.report.forest: where a difference lies along its strip, and what a cell of the map says."""

from pathlib import Path
from typing import Any

import pytest

from semraft.analysis.summary import compare, finished_runs
from semraft.report.forest import STRIP_WIDTH, forests, linear_ticks, map_groups, short_number
from tests.unit.analysis.fake_runs import SPLIT, make_study


@pytest.fixture
def numbers(tmp_path: Path) -> dict[str, Any]:
    """v1 is better by about 0.3 px of 2, v2 can't be told from base."""
    study = make_study(tmp_path, {"base": (0,) * 3, "v1": (-0.3, -0.2, -0.4), "v2": (0.1, -0.2, 0.15)})
    return compare(finished_runs(study), {}, "base")


def test_intervals_lie_in_order_and_on_one_scale(numbers: dict[str, Any]) -> None:
    """Red when: an end is scaled without the margin, or each variant has a scale of its own."""
    (epe, *_) = forests(numbers, SPLIT)
    assert epe.metric == "epe"
    assert epe.better_left
    better, level = epe.strips
    assert (better.color, level.color) == (1, 2)
    for strip in epe.strips:
        assert strip.over_both is not None
        assert strip.over_scenes is not None
        assert (
            0 < strip.over_both[0] <= strip.over_scenes[0] + 1 < strip.at < strip.over_scenes[1] < STRIP_WIDTH
        )
        assert len(strip.seeds) == 3
    assert better.over_both is not None
    assert better.over_both[0] < better.at < epe.zero
    for tick in epe.ticks:  # On the scale of the strips.
        assert (tick.at - epe.zero) * -better.comparison["difference"] == pytest.approx(
            float(tick.label) * (epe.zero - better.at), abs=0.1
        )
    assert len(epe.ticks) > 2
    entry = better.comparison
    per_px = (epe.zero - better.at) / -entry["difference"]
    assert (epe.zero - better.over_both[0]) / -entry["crossed"]["low"] == pytest.approx(per_px, rel=0.01)


def test_better_is_to_the_right_where_higher_is(numbers: dict[str, Any]) -> None:
    found = {forest.metric: forest for forest in forests(numbers, SPLIT)}
    assert not found["1px"].better_left
    assert found["1px"].strips[0].at > found["1px"].zero


def test_one_seed_has_a_point_and_no_interval(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"base": (0,), "v1": (-0.3,)}, scenes=3)
    numbers = compare(finished_runs(study), {}, "base")
    strip = forests(numbers, SPLIT)[0].strips[0]
    assert (strip.over_both, strip.over_scenes, strip.seeds) == (None, None, [strip.at])


def test_the_map_has_every_stratum_once_in_its_group(numbers: dict[str, Any]) -> None:
    groups = {group.title: group.rows for group in map_groups(numbers, SPLIT, "epe")}
    assert list(groups) == ["All", "Motion", "Visibility", "Class", "Refinement"]
    assert [label for label, _ in groups["Refinement"]] == [f"after {n}" for n in range(1, 7)]
    assert [label for label, _ in groups["Class"]] == ["car"]
    (label, (better, level)) = groups["All"][0]
    assert label == "all pixels"
    assert better is not None
    assert level is not None
    assert (better.gain, better.comparison["variant"]) == (True, "v1")
    assert better.shade == round(100 * -better.comparison["relative_pct"][0] / 20)
    assert not level.gain
    assert map_groups(numbers, SPLIT, "1px") == []  # Not known by stratum.


def test_a_gain_of_accuracy_is_a_gain(tmp_path: Path) -> None:
    """Red when: a higher fraction below one pixel is shown as a loss."""
    study = make_study(tmp_path, {"base": (0,) * 3, "v1": (-0.3, -0.2, -0.4)})
    numbers = compare(finished_runs(study), {}, "base")
    for entry in numbers["comparisons"]:
        entry["metric"] = entry["metric"].replace("wauc", "wauc_moving")
    (group,) = map_groups(numbers, SPLIT, "wauc")
    cell = group.rows[0][1][0]
    assert cell is not None
    assert cell.comparison["difference"] > 0
    assert cell.gain


def test_ticks_are_round_numbers_written_as_they_are() -> None:
    """Red when: exponents keep two digits (1.2e-4 where 1.25e-4 is)."""
    for low, high, expected in [
        (1.3, 4.9, ["2", "3", "4"]),
        (0.0, 1e-4, ["0", "2.5e-5", "5e-5", "7.5e-5", "1e-4"]),
        (-20_000.0, 30_000.0, ["-20k", "0", "20k"]),
    ]:
        assert [short_number(tick) for tick in linear_ticks(low, high, 4)] == expected
