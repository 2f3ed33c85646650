"""semraft.report.figures: curves, scales and ticks."""

import math
from pathlib import Path

import numpy as np
import pytest

from semraft.analysis.runs import load_run
from semraft.analysis.variants import variants
from semraft.report.figures import (
    BOTTOM,
    LEFT,
    MAX_POINTS,
    RIGHT,
    TOP,
    Curve,
    make_chart,
    refinement_curves,
    step_curves,
)
from tests.unit.analysis.fake_runs import SPLIT, make_run


def curve(values: list[float], label: str = "a") -> Curve:
    y = np.array(values, dtype=np.float64)
    x = np.arange(y.size, dtype=np.float64) * 100
    return Curve(label=label, color=0, kind="variant", x=x, y=y, spread=np.zeros_like(y))


def test_a_chart_spans_its_plot() -> None:
    chart = make_chart("epe", "step", "epe", [curve([3.0, 1.0, 2.0])])
    assert chart is not None
    (line,) = chart.lines
    xs, ys = zip(*line.dots, strict=True)
    assert xs == (LEFT, (LEFT + RIGHT) / 2, RIGHT)
    assert TOP < ys[0] < ys[2] < ys[1] < BOTTOM  # Down the page is down the scale.
    assert line.y == [3.0, 1.0, 2.0]
    assert line.path == f"M{xs[0]:g} {ys[0]:g}L{xs[1]:g} {ys[1]:g}L{xs[2]:g} {ys[2]:g}"


def test_losses_and_errors_over_a_decade_are_logarithmic_and_fractions_never() -> None:
    for metric, values, expected in [
        ("total_loss", [30.0, 2.0], True),
        ("epe_moving", [30.0, 2.0], True),
        ("epe", [5.0, 2.0], False),
        ("1px", [0.9, 0.01], False),
        ("learning_rate", [1e-4, 1e-7], False),
        ("total_loss", [30.0, 0.0], False),
        ("semantic_loss", [30.0, -1.0], False),
    ]:
        chart = make_chart(metric, "step", metric, [curve(values)])
        assert chart is not None
        assert chart.logarithmic is expected, metric


def test_ticks_read_well() -> None:
    linear = make_chart("epe", "step", "epe", [curve([1.3, 4.9] * 120)])
    logarithmic = make_chart("flow_loss", "step", "flow_loss", [curve([0.5, 40.0])])
    rate = make_chart("learning_rate", "step", "learning_rate", [curve([0.0, 1e-4])])
    assert linear is not None
    assert logarithmic is not None
    assert rate is not None
    assert [tick.label for tick in linear.y_ticks] == ["2", "3", "4", "5"]
    assert [tick.label for tick in linear.x_ticks] == ["0", "10k", "20k"]
    assert [tick.label for tick in logarithmic.y_ticks] == ["0.5", "1", "2", "5", "10", "20"]
    assert [tick.label for tick in rate.y_ticks] == ["0", "2.5e-5", "5e-5", "7.5e-5", "1e-4"]


def test_a_label_is_the_number_where_it_stands() -> None:
    """Red when: exponents keep two digits (1.2e-4 where 1.25e-4 is)."""
    chart = make_chart("learning_rate", "step", "learning_rate", [curve([1.0e-4, 1.5e-4])])
    assert chart is not None
    assert [tick.label for tick in chart.y_ticks] == ["1e-4", "1.2e-4", "1.4e-4"]
    chart = make_chart("learning_rate", "step", "learning_rate", [curve([1.0e-4, 2.0e-4])])
    assert chart is not None
    assert [tick.label for tick in chart.y_ticks] == ["1e-4", "1.25e-4", "1.5e-4", "1.75e-4", "2e-4"]


@pytest.mark.parametrize(
    ("last", "expected"), [(2, ["1", "2"]), (11, ["5", "10"]), (101, ["25", "50", "75", "100"])]
)
def test_what_is_counted_has_no_tick_between_two_steps(last: int, expected: list[str]) -> None:
    """Red when: refinement 1.25 and step 2.5 are written under the curve."""
    metrics = {f"epe_iter_{t:03d}": 3.0 for t in range(last)}
    chart = make_chart("epe", "refinement", "epe", refinement_curves([("base", 0, metrics)], "epe"))
    assert chart is not None
    assert [tick.label for tick in chart.x_ticks] == expected


def test_what_is_not_finite_breaks_the_curve() -> None:
    """Red when: NaN reaches the path data, which stops browsers from drawing the rest."""
    chart = make_chart("epe", "step", "epe", [curve([3.0, math.nan, 2.0, math.inf, 1.0])])
    assert chart is not None
    assert chart.lines[0].y == [3.0, None, 2.0, None, 1.0]
    assert chart.lines[0].path.count("M") == 3
    assert "nan" not in chart.lines[0].path
    assert make_chart("epe", "step", "epe", [curve([math.nan, math.nan])]) is None
    assert make_chart("epe", "step", "epe", []) is None


def test_one_point_and_equal_values_have_a_scale() -> None:
    for values in ([2.0], [2.0, 2.0], [0.0]):
        chart = make_chart("epe", "step", "epe", [curve(values)])
        assert chart is not None
        assert len(chart.lines[0].dots) == len(values)
        assert all(TOP < y < BOTTOM for _, y in chart.lines[0].dots)


def test_a_long_curve_is_drawn_as_means_that_keep_its_mean() -> None:
    values = np.random.default_rng(0).random(5 * MAX_POINTS).tolist()
    chart = make_chart("epe", "step", "epe", [curve(values)])
    assert chart is not None
    assert chart.stretch == 5
    assert len(chart.lines[0].x) == MAX_POINTS
    drawn = [value for value in chart.lines[0].y if value is not None]
    np.testing.assert_allclose(drawn, np.reshape(values, (-1, 5)).mean(axis=1), rtol=1e-4)


def test_a_variant_is_drawn_as_its_seeds_and_their_mean(tmp_path: Path) -> None:
    runs = [
        load_run(make_run(tmp_path / "a", seed=0, epe=2.0)),
        load_run(make_run(tmp_path / "b", seed=42, epe=3.0, validated=(400,))),
        load_run(make_run(tmp_path / "c", "world-semantic-v1", epe=1.0)),
    ]
    curves = {curve.label: curve for curve in step_curves(variants(runs), SPLIT, "epe")}
    assert {label: (c.kind, c.color, c.y.tolist()) for label, c in curves.items()} == {
        "world-base seed 0": ("seed", 0, [3.0, 2.0]),
        "world-base seed 42": ("seed", 0, [3.0]),
        "world-base mean of 2": ("variant", 0, [2.5]),  # Only where both seeds have a value.
        "world-semantic-v1": ("variant", 1, [2.0, 1.0]),
    }
    assert step_curves(variants(runs), "kitti", "epe") == []


def test_refinements_are_counted_from_one() -> None:
    metrics = {"epe_iter_001": 2.0, "epe_iter_000": 3.0, "flow_loss_iter_000": 9.0, "epe": 2.0}
    (found,) = refinement_curves([("base", 0, metrics)], "epe")
    assert found.x.tolist() == [1.0, 2.0]
    assert found.y.tolist() == [3.0, 2.0]
