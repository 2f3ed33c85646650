"""semraft.report.figures: curves as data."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from semraft.analysis.runs import load_run
from semraft.analysis.variants import variants
from semraft.report.figures import MAX_POINTS, Chart, Curve, Mark, make_chart, refinement_curves, step_curves
from tests.unit.analysis.fake_runs import SPLIT, make_run


def curve(values: list[float], label: str = "a") -> Curve:
    y = np.array(values, dtype=np.float64)
    x = np.arange(y.size, dtype=np.float64) * 100
    return Curve(label=label, color=0, kind="variant", x=x, y=y, spread=np.zeros_like(y))


def lines(chart: Chart | None) -> list[dict[str, Any]]:
    assert chart is not None
    found: list[dict[str, Any]] = json.loads(chart.to_json())["lines"]
    return found


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


def test_what_is_not_finite_breaks_the_curve() -> None:
    """Red when: NaN is written, which is no JSON: the page's script would stop there."""
    chart = make_chart("epe", "step", "epe", [curve([3.0, math.nan, 2.0, math.inf, 1.0])])
    assert [line["y"] for line in lines(chart)] == [[3.0, None, 2.0, None, 1.0]]
    assert make_chart("epe", "step", "epe", [curve([math.nan, math.nan])]) is None
    assert make_chart("epe", "step", "epe", []) is None


def test_a_chart_has_the_marks_of_its_own_steps() -> None:
    """Red when: a mark beyond the last validation stretches the axis."""
    marks = [Mark(step=step, label="worse", color=1) for step in (50, 200, 300)]
    chart = make_chart("epe", "step", "epe", [curve([3.0, 2.0, 1.0])], marks)
    assert chart is not None
    assert chart.marks == tuple(marks[:2])
    assert json.loads(chart.to_json())["marks"][1] == {"step": 200, "label": "worse", "color": 1}


def test_the_table_of_a_chart_holds_a_few_steps_of_every_curve() -> None:
    """Red when: the last step is missing, or a curve without a value there gets another step's."""
    chart = make_chart("epe", "step", "epe", [curve([*map(float, range(9))]), curve([7.0, math.nan], "b")])
    assert chart is not None
    steps, rows = chart.table()
    assert steps == ["0", "300", "500", "800"]
    assert rows == [("a", ["0", "3", "5", "8"]), ("b", ["7", "-", "-", "-"])]
    one = make_chart("epe", "step", "epe", [curve([2.0])])
    assert one is not None
    assert one.table() == (["0"], [("a", ["2"])])


def test_a_long_curve_is_drawn_as_means_that_keep_its_mean() -> None:
    values = np.random.default_rng(0).random(5 * MAX_POINTS).tolist()
    chart = make_chart("epe", "step", "epe", [curve(values)])
    assert chart is not None
    assert chart.stretch == 5
    (line,) = lines(chart)
    assert len(line["x"]) == MAX_POINTS
    np.testing.assert_allclose(line["y"], np.reshape(values, (-1, 5)).mean(axis=1), rtol=1e-4)


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
