"""semraft.analysis.scene_conditions: what ids tell of the scene's condition, and metrics pooled by it."""

from pathlib import Path

import pytest

from semraft.analysis.runs import load_run
from semraft.analysis.scene_conditions import condition_of
from tests.unit.analysis.fake_runs import SPLIT, make_environment, make_run, rewrite

IDS = ("val/night-00001", "val/fog-00002", "val/night-00003", "val/clear-00004")


@pytest.mark.parametrize(
    ("pair_id", "condition"),
    [
        ("val/night-00012", "night"),
        ("Scene01/15-deg-left/Camera_0/00123", "15-deg-left"),
        ("Scene20/clone-0001/Camera_1/00000", "clone"),
        ("000010", None),
        ("alley_1/frame_0001", None),
    ],
)
def test_what_ids_tell(pair_id: str, condition: str | None) -> None:
    assert condition_of(pair_id) == condition


def test_metrics_are_pooled_by_condition(tmp_path: Path) -> None:
    """Red when: a condition's pairs are those of all conditions, or rows of another evaluation are taken."""
    above = (0.5, -0.5, 0.25, -0.25)
    run = load_run(make_run(tmp_path / "run", epe=2.0, environment=make_environment(IDS), by_scene=above))
    metrics = run.final(SPLIT)[1]
    found = {name: value for name, value in metrics.items() if name.startswith("epe_condition_")}
    expected = {"epe_condition_clear": 1.75, "epe_condition_fog": 1.5, "epe_condition_night": 2.375}
    assert found == pytest.approx(expected)
    assert metrics["fl_condition_fog"] == pytest.approx(15.0)
    assert "epe_condition_fog" not in run.logged[SPLIT][200]
    other = rewrite(run, SPLIT, epe=3.0)
    assert "epe_condition_fog" not in other.final(SPLIT)[1]
